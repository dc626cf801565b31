"""Stage 1 redoes what is missing or stale, and nothing else."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import bins.preprocess
from processors.manifest import Utterance, list_shards, read_shards
from tests.recipe import NUM_ROWS, Recipe, listing


def utterances(recipe: Recipe) -> dict[str, Utterance]:
    shards = [shard for split in ("train", "valid", "test") for shard in list_shards(recipe.data / split)]
    return {utterance.id: utterance for utterance in read_shards(shards)}


def shard_times(recipe: Recipe) -> dict[str, int]:
    return {name: time for name, time in listing(recipe.data).items() if name.endswith((".jsonl.gz", ".tar"))}


def assert_equal(some: dict[str, Utterance], others: dict[str, Utterance]) -> None:
    assert some.keys() == others.keys()
    for name, utterance in some.items():
        other = others[name]
        assert (utterance.text, utterance.phones, utterance.speaker) == (other.text, other.phones, other.speaker)
        np.testing.assert_array_equal(utterance.codes, other.codes)


def test_a_second_run_makes_nothing_again(own: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    before = shard_times(own)
    codec = listing(own.data.parent)["mel_rvq.safetensors"]
    texts = {name: (own.data / name).read_bytes() for name in ("symbols.dict", "stats.json", "failures.jsonl")}
    assert own.call(bins.preprocess, "--config", str(own.config)) == 0
    assert shard_times(own) == before
    assert listing(own.data.parent)["mel_rvq.safetensors"] == codec
    assert {name: (own.data / name).read_bytes() for name in texts} == texts
    assert "6 of 6 shards are there already" in capsys.readouterr().err


def test_only_an_interrupted_shard_is_made_again(own: Recipe) -> None:
    before, times = utterances(own), shard_times(own)
    (own.data / "reports" / "train.000001.json").unlink()
    (own.data / "train" / "codes.000001.tar").write_bytes(b"cut short")
    assert own.call(bins.preprocess, "--config", str(own.config), "--num_workers", "2") == 0
    after = shard_times(own)
    assert after.keys() == times.keys()
    assert {name for name in times if after[name] != times[name]} == {
        "train/codes.000001.tar",
        "train/cuts.000001.jsonl.gz",
    }
    assert_equal(utterances(own), before)


def test_a_changed_transcript_makes_its_shard_again(own: Recipe) -> None:
    before, times = utterances(own), shard_times(own)
    changed = "101_1101_000000_000000"
    [table] = own.corpus.glob("train-clean-100/101/*/*.trans.tsv")
    rows = [line.split("\t") for line in table.read_text().splitlines()]
    table.write_text("".join(f"{id_}\t{text}\t{'Wait!' if id_ == changed else text}\n" for id_, text, _ in rows))
    assert own.call(bins.preprocess, "--config", str(own.config)) == 0
    assert utterances(own)[changed].text == "Wait!"
    after = shard_times(own)
    stale = {name for name in times if after[name] != times[name]}
    assert stale == {"train/codes.000000.tar", "train/cuts.000000.jsonl.gz"}
    assert utterances(own).keys() == before.keys()


def test_a_lost_shard_is_made_again(own: Recipe) -> None:
    before = utterances(own)
    (own.data / "valid" / "cuts.000000.jsonl.gz").unlink()
    assert own.call(bins.preprocess, "--config", str(own.config)) == 0
    assert_equal(utterances(own), before)


def test_a_changed_symbol_table_makes_everything_again(own: Recipe, tmp_path: Path) -> None:
    table = tmp_path / "symbols.dict"
    shutil.copy(own.data / "symbols.dict", table)
    flags = ("--config", str(own.config), "--set", f"preprocess.symbol_table={table}")
    assert own.call(bins.preprocess, *flags) == 0
    assert own.call(bins.preprocess, *flags) == 0
    assert json.loads((own.data / "stats.json").read_text())["dropped"] == 2
    lines = table.read_text().splitlines()
    comma = next(index for index, line in enumerate(lines) if line.startswith(", "))
    symbols = [line.split()[0] for index, line in enumerate(lines) if index != comma]
    table.write_text("".join(f"{symbol} {index}\n" for index, symbol in enumerate(symbols)))
    assert own.call(bins.preprocess, *flags) == 0
    stats = json.loads((own.data / "stats.json").read_text())
    assert stats["dropped_why"]["unknown phone"] > 0
    assert sum(counts["utterances"] for counts in stats["splits"].values()) + stats["dropped"] == NUM_ROWS
    assert (own.data / "symbols.dict").read_bytes() == table.read_bytes()


def test_a_smaller_corpus_leaves_nothing_behind(own: Recipe) -> None:
    for audio in sorted(own.corpus.glob("test-clean/10[34]/*/*.wav")):
        audio.unlink()
    for transcript in sorted(own.corpus.glob("test-clean/10[34]/*/*.t*")):
        transcript.unlink()
    assert own.call(bins.preprocess, "--config", str(own.config)) == 0
    assert json.loads((own.data / "stats.json").read_text())["splits"]["test"]["utterances"] == 4
    assert sorted({name[:3] for name in utterances(own) if "_3" in name}) == ["101", "102"]


def test_seconds_per_phone_are_measured_on_training_utterances(own: Recipe) -> None:
    def measured() -> dict[str, float]:
        return json.loads((own.data / "stats.json").read_text())["seconds_per_phone"]

    # Codes have 25 frames a second.
    rows = read_shards(list_shards(own.data / "train"))
    seconds = [len(row.codes) / 25 / len(row.phones) for row in rows]
    for quantile, value in measured().items():
        assert value == pytest.approx(float(np.quantile(seconds, float(quantile))), abs=1e-4)
    assert len(measured()) == 5
    # Reports of an older version lack it, which makes no shard stale.
    before, times = measured(), shard_times(own)
    for path in (own.data / "reports").glob("*.json"):
        report = json.loads(path.read_text())
        del report["seconds_per_phone"]
        path.write_text(json.dumps(report))
    assert own.call(bins.preprocess, "--config", str(own.config)) == 0
    assert shard_times(own) == times
    assert measured() == pytest.approx(before, abs=1e-4)
