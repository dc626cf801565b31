"""Models that begin with a codec's vectors, or with a trained AR."""

import pytest
import torch

from config.schema import ValleSettings
from models.valle.valle import VALLE
from modules.embedding import init_from_vectors
from modules.packing import Packing
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


def test_a_nar_that_begins_with_the_ar_computes_its_hidden_states() -> None:
    """With the AR's attention mask, without a prompt, and where groups have equal frames."""
    model = VALLE(settings(), train_stage=2).eval()
    ar, nar = model.ar, model.nar
    assert nar is not None
    for weight in ar.parameters():
        if weight.ndim == 1:
            torch.nn.init.normal_(weight, mean=1.0, std=0.3)
    model.init_from_pretrained()
    text, text_lens, frames_lens = torch.randint(3, 16, (2, 6)), torch.tensor([6, 4]), torch.tensor([5, 3])
    codes = torch.randint(0, 20, (2, 5))
    x, may_attend, _ = ar.sequence(text, text_lens, codes.repeat_interleave(2, 1), 2 * frames_lens)
    packing = Packing.from_lengths(text_lens, frames_lens)
    every = codes.unsqueeze(-1).expand(-1, -1, model.num_quantizers)
    no_prompt = torch.zeros(2, 5, dtype=torch.bool)
    own = packing.pack(nar.text_position(nar.text_embedding(text)), nar.embed_audio(every, no_prompt, 1))
    torch.testing.assert_close(own, x)
    hidden = nar.decoder(own, may_attend, condition=nar.stage_embeddings[0].weight)
    torch.testing.assert_close(hidden, ar.decoder(x, may_attend))


def test_a_nar_of_other_sizes_cannot_begin_with_the_ar() -> None:
    for changes in ({"nar_scale_factor": 0.5}, {"nar_num_decoder_layers": 5}):
        with pytest.raises(ValueError, match=r"model\.nar_scale_factor to 1"):
            VALLE(settings().model_copy(update=changes), train_stage=2).init_from_pretrained()
    # Fewer layers are the AR's first.
    VALLE(settings().model_copy(update={"nar_num_decoder_layers": 1}), train_stage=2).init_from_pretrained()
    with pytest.raises(ValueError, match="--model_train_stage 2"):
        VALLE(settings(), train_stage=0).init_from_pretrained()
