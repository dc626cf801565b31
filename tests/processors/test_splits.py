"""Hash splits: stable, by speaker where requested, and never with an empty part."""

from collections import Counter
from pathlib import Path

import json5
import pytest

import config
from config.schema import PreprocessSettings
from processors.splits import FoundUtterance, hash_splits


def make_settings(**changes: object) -> PreprocessSettings:
    text = (Path(config.__path__[0]) / "tts.json").read_text(encoding="utf-8")
    return PreprocessSettings.model_validate({**json5.loads(text)["preprocess"], **changes})


def make_rows(num_speakers: int, num_each: int = 1) -> list[FoundUtterance]:
    return [FoundUtterance(f"s{s}_{u}", "", None, f"s{s}") for s in range(num_speakers) for u in range(num_each)]


def split_of(rows: list[FoundUtterance], **changes: object) -> dict[str, str]:
    splits = hash_splits(rows, make_settings(**changes))
    return {row.id: split for row, split in zip(rows, splits, strict=True)}


def test_more_data_moves_nothing() -> None:
    settings = {"split_by": "utterance", "valid_fraction": 0.1, "test_fraction": 0.2}
    small, large = split_of(make_rows(500), **settings), split_of(make_rows(1000)[::-1], **settings)
    assert small.items() <= large.items()
    counts = Counter(large.values())
    assert 60 < counts["valid"] < 140
    assert 140 < counts["test"] < 260
    assert split_of(make_rows(500), split_seed=1, **settings) != small


def test_auto_keeps_speakers_whole_from_twenty_on() -> None:
    fractions = {"valid_fraction": 0.3, "test_fraction": 0.3}
    many, few = split_of(make_rows(20, 10), **fractions), split_of(make_rows(19, 10), **fractions)
    assert all(len({many[f"s{s}_{u}"] for u in range(10)}) == 1 for s in range(20))
    assert any(len({few[f"s{s}_{u}"] for u in range(10)}) > 1 for s in range(19))
    assert many == split_of(make_rows(20, 10), split_by="speaker", **fractions)
    assert few == split_of(make_rows(19, 10), split_by="utterance", **fractions)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("fractions", [(0.001, 0.001), (0.001, 0), (0, 0.001), (0.9, 0.05), (0.05, 0.9), (0, 0)])
def test_small_corpora_have_every_requested_part(fractions: tuple[float, float], seed: int) -> None:
    asked = {"train", *(["valid"] if fractions[0] else []), *(["test"] if fractions[1] else [])}
    for num_units in (1, 2, 3, 4):
        changes = {"valid_fraction": float(fractions[0]), "test_fraction": float(fractions[1]), "split_seed": seed}
        found = set(split_of(make_rows(num_units), **changes).values())
        assert "train" in found
        assert found <= asked
        assert num_units < 3 or found == asked
