"""Stage 1 redoes what is missing or stale, and nothing else."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import bins.preprocess
from processors import pipeline
from processors.manifest import Utterance, list_shards, read_shards
from tests.support.recipe import NUM_ROWS, Recipe, listing
from tests.support.tiny_runs import prepare, write_config, write_custom
from training.corpus import IndexedCorpus


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
    stale = sorted(name for name in times if after[name] != times[name])
    [shard] = {name.split(".")[1] for name in stale}
    assert stale == [f"train/codes.{shard}.tar", f"train/cuts.{shard}.jsonl.gz"]
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


@pytest.fixture
def custom(tmp_path: Path) -> Path:
    """A config of a corpus of three speakers, who speak in turn of their rows' names."""
    return write_config(tmp_path / "config.json", write_custom(tmp_path / "corpus", 24), tmp_path)


def train_rows(config: Path) -> list[str]:
    """The ids of all training utterances in the order of the shards, which their index agrees with."""
    shards = list_shards(config.parent / "data" / "custom" / "train")
    utterances, corpus = list(read_shards(shards)), IndexedCorpus.load(shards)
    assert len(corpus) == len(utterances)
    for number, utterance in enumerate(utterances):
        phones, codes = corpus.read(number)
        assert tuple(phones) == utterance.phones and np.array_equal(codes, utterance.codes)
    return [utterance.id for utterance in utterances]


def tar_times(config: Path) -> dict[str, int]:
    return {name: time for name, time in listing(config.parent / "data").items() if name.endswith(".tar")}


def test_rows_are_cut_into_shards_in_the_order_of_a_hash(custom: Path, tmp_path: Path) -> None:
    prepare(custom, {"preprocess.shard_size": 4})
    rows = train_rows(custom)
    assert len(rows) > 12 and rows != sorted(rows)
    lines = (tmp_path / "data" / "custom" / "splits.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines if line.endswith("train")] == rows
    prepare(custom, {"preprocess.shard_size": 4, "preprocess.processed_dir": str(tmp_path / "again")})
    assert (tmp_path / "again" / "custom" / "splits.tsv").read_text().splitlines() == lines


@pytest.mark.parametrize("is_finished", [True, False])
def test_shards_of_an_older_version_get_an_index_and_keep_split_and_order(
    custom: Path, monkeypatch: pytest.MonkeyPatch, is_finished: bool
) -> None:
    """Then rows were in the order of their ids, and fewer of them may have been split otherwise."""
    changes = {"preprocess.shard_size": 4}
    with monkeypatch.context() as older:
        older.setattr(pipeline, "in_lasting_order", lambda rows, *_, **__: sorted(rows, key=lambda row: row.id))
        prepare(custom, changes)
    folder = custom.parent / "data" / "custom"
    unfinished = [] if is_finished else [folder / "stats.json"]
    for path in [
        *folder.rglob("index.*"),
        *folder.rglob("phones.*"),
        *unfinished,
    ]:
        path.unlink()
    for path in [*folder.glob("reports/*.json"), *folder.glob("stats.json")]:
        content = json.loads(path.read_text())
        content.pop("row_order")
        path.write_text(json.dumps(content))
    times, splits = tar_times(custom), (folder / "splits.tsv").read_text()
    prepare(custom, changes)
    assert tar_times(custom) == times and (folder / "splits.tsv").read_text() == splits
    assert train_rows(custom) == sorted(train_rows(custom))
    assert json.loads((folder / "stats.json").read_text())["row_order"] == "id"


def test_a_corpus_that_grows_keeps_its_finished_shards(custom: Path, tmp_path: Path) -> None:
    changes = {"preprocess.shard_size": 4, "preprocess.valid_fraction": 0.1}
    prepare(custom, changes)
    before, times = train_rows(custom), tar_times(custom)
    more = write_custom(tmp_path / "more", 40, seed=1)
    for path in sorted((more / "wavs").glob("*.wav"))[24:]:
        shutil.copy(path, tmp_path / "corpus" / "wavs")
    lines = (more / "metadata.csv").read_text().splitlines(keepends=True)[24:]
    with (tmp_path / "corpus" / "metadata.csv").open("a") as table:
        table.writelines(lines)
    prepare(custom, changes)
    after = train_rows(custom)
    assert after[: len(before)] == before and len(after) > len(before)
    full = {f"custom/train/codes.{index:06d}.tar" for index in range(len(before) // 4)}
    assert len(full) >= 3 and all(tar_times(custom)[name] == times[name] for name in full)


def test_a_shard_whose_index_or_codes_are_damaged_is_mended(custom: Path) -> None:
    prepare(custom, {})
    rows, times = train_rows(custom), tar_times(custom)
    folder = custom.parent / "data" / "custom" / "train"
    (folder / "index.000000.npz").write_bytes(b"no index")
    prepare(custom, {})
    assert train_rows(custom) == rows and tar_times(custom) == times
    for path in (folder / "index.000000.npz", folder / "codes.000000.tar"):
        path.unlink()
    prepare(custom, {})
    assert train_rows(custom) == rows and tar_times(custom) != times
