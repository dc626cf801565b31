"""Embeddings that begin with a codec's vectors."""

import pytest
import torch

from config.schema import ValleSettings
from models.valle.valle import VALLE
from modules.embedding import init_from_vectors
from tests.support.reference import pair_settings


def settings(share_embedding: bool = False) -> ValleSettings:
    return pair_settings(share_embedding=share_embedding, group_size=2, num_quantizers=3, audio_token_num=20)


def distances(table: torch.Tensor, num: int) -> torch.Tensor:
    rows = table.detach()[:num]
    rows = torch.cdist(rows, rows)
    return rows / rows.mean()


def vectors(num_books: int, num_codes: int, size: int = 6) -> torch.Tensor:
    return torch.randn(num_books, num_codes, size, generator=torch.Generator().manual_seed(0)) + 3


def test_codes_keep_their_distances_and_the_scale_of_the_table() -> None:
    own = vectors(2, 20)
    tables = [0.1 * torch.randn(23, 32), 2 * torch.randn(20, 32)]
    before = [table.clone() for table in tables]
    init_from_vectors(tables, own)
    for table, former, of_codec in zip(tables, before, own, strict=True):
        torch.testing.assert_close(distances(table, 20), distances(of_codec, 20))
        assert float(table[:20].std()) == pytest.approx(float(former[:20].std()), rel=1e-4)
        # The end of speech and the begin symbol have no vector.
        assert torch.equal(table[20:], former[20:])


def test_every_table_and_head_of_a_model_begins_with_its_codebook() -> None:
    model = VALLE(settings(), train_stage=0)
    num = model.ar.num_audio_tokens
    own = vectors(model.num_quantizers, num)
    model.init_codes(own)
    assert model.nar is not None
    tables = [(model.ar.audio_embedding.weight, 0), (model.ar.predict_layer.weight, 0)]
    tables += [(embedding.weight, book) for book, embedding in enumerate(model.nar.audio_embeddings)]
    tables += [(head.weight, stage) for stage, head in enumerate(model.nar.predict_layers, start=1)]
    for table, book in tables:
        torch.testing.assert_close(distances(table, num), distances(own[book], num))


def test_a_frozen_ar_is_left_alone_and_tied_weights_are_refused() -> None:
    model = VALLE(settings(), train_stage=2)
    before = {name: weight.clone() for name, weight in model.ar.state_dict().items()}
    own = vectors(model.num_quantizers, model.ar.num_audio_tokens)
    model.init_codes(own)
    assert all(torch.equal(weight, before[name]) for name, weight in model.ar.state_dict().items())
    with pytest.raises(ValueError, match=r"model\.share_embedding"):
        VALLE(settings(share_embedding=True), train_stage=2).init_codes(own)
