"""A text has the same ids in training, through stage 1 and a shard, as at inference."""

import numpy as np
import pytest
import torch

from models.valle.collate import Collator, PrefixMode
from processors.features import UtteranceReader
from processors.frontends.graphemes import GraphemePhonemizer
from processors.manifest import SourceUtterance, Utterance, list_shards, write_shard
from processors.symbols import SymbolTable
from processors.text import TextTokenizer
from tests.conftest import defaults, tiny_train
from tests.support.tiny_trainer import build_data, epoch_of
from utils.audio import write_audio

TEXTS = [
    "“Curly quotes,” he said; it's 3:45 p.m. - really?!",
    "  Two  spaces\tand a line\nbreak. ",
    "naïve café; U.S. and U.K., $5.20!",
    "**Call** Nguyen's office [[ɐt]] 555-0199 🎉 &amp; ask for [[ˈdʒeɪsən]]'s e.g. 3 files.",
]


@pytest.mark.parametrize("add_blank", [False, True])
@pytest.mark.parametrize("normalize_text", ["auto", "none"])
def test_training_ids_are_inference_ids(tmp_path, normalize_text: str, add_blank: bool) -> None:
    (tmp_path / "lexicon.tsv").write_text("Nguyen\t/wɪn/\ncafé\tkaffay\n", encoding="utf-8")
    asked = {"normalize_text": normalize_text, "lexicon": str(tmp_path / "lexicon.tsv"), "add_blank": add_blank}
    write_audio(tmp_path / "a.wav", torch.rand(24000) - 0.5, 24000)
    rows = [
        SourceUtterance(f"u{index}", str(tmp_path / "a.wav"), text, "speaker", "train")
        for index, text in enumerate(TEXTS)
    ]
    settings = defaults().preprocess.model_copy(update=asked)
    loaded = UtteranceReader([rows], settings, None)[0]
    assert [item.failure for item in loaded] == [None] * len(TEXTS)
    codes = torch.zeros(20, 8).short().numpy()
    utterances = [Utterance(item.row.id, item.row.text or "", item.phones, "speaker", codes) for item in loaded]
    write_shard(tmp_path / "shards", 0, utterances, frame_rate_hz=25)
    table = SymbolTable.from_phones({phone for item in loaded for phone in item.phones})

    shards = list_shards(tmp_path / "shards")
    in_training = build_data(
        shards,
        tiny_train(use_dynamic_batchsize=False, batch_size=1),
        Collator(8, PrefixMode.FIRST_FRAMES, 75, for_nar=False),
        tokenizer=TextTokenizer(GraphemePhonemizer, table, add_blank),
    )
    at_inference = TextTokenizer.from_settings(settings, table)
    seen = sorted(batch.text[0].tolist() for batch in epoch_of(in_training))
    assert seen == sorted(at_inference.ids(phones) for phones in at_inference.phones(TEXTS))
    lengths = in_training.tokenizer.num_ids(np.array([len(item.phones) for item in loaded]))
    assert sorted(map(len, seen)) == sorted(lengths.tolist())
    assert all(ids[0] == table.bos_id and ids[-1] == table.eos_id for ids in seen)
    assert all((table.pad_id in ids) == add_blank for ids in seen)
