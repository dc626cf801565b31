"""Text settings through the stages: old data and experiments stay as they are, and a folder is enough for inference."""

import json
from pathlib import Path
from typing import Any

import pytest

import bins.preprocess
import bins.train
from models.experiment import Experiment
from processors.manifest import list_shards, read_shards
from tests.support.recipe import listing
from tests.support.tiny_runs import call, prepare, sets, train, write_config, write_custom
from utils.errors import UserError


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config of a corpus whose texts have prices."""
    table = write_custom(tmp_path / "corpus", 14) / "metadata.csv"
    table.write_text(table.read_text().replace(".", " for $5."))
    (tmp_path / "words.tsv").write_text("birds\t/bɛdz/\nrivers\tstreams\n", encoding="utf-8")
    return write_config(tmp_path / "config.json", tmp_path / "corpus", tmp_path)


def phones(config: Path) -> list[str]:
    shards = list_shards(config.parent / "data" / "custom" / "train")
    return [" ".join(utterance.phones) for utterance in read_shards(shards)]


def forget_normalization(folder: Path) -> None:
    """Make data look like those of a version without `normalize_text`."""
    for path in [*folder.glob("reports/*.json"), folder / "stats.json"]:
        content = json.loads(path.read_text())
        content.pop("normalize_text", None)
        content.pop("lexicon", None)
        content.get("settings", {}).pop("normalize_text", None)
        path.write_text(json.dumps(content))


def lexicon(config: Path) -> dict[str, Any]:
    return {"preprocess.lexicon": str(config.parent / "words.tsv")}


def test_data_of_an_older_version_and_their_experiments_stay_none(config: Path) -> None:
    prepare(config, {"preprocess.normalize_text": "none"})
    data = config.parent / "data" / "custom"
    forget_normalization(data)
    before, times = phones(config), {name: time for name, time in listing(data).items() if name.endswith(".tar")}
    # The config asks for auto, as its default does.
    train(config, "old", 0, {})
    assert Experiment(config.parent / "ckpts" / "old").settings().preprocess.normalize_text == "none"
    prepare(config, {})
    assert phones(config) == before and {name: listing(data)[name] for name in times} == times
    # Stage 1 in between changes nothing for stage 2.
    train(config, "old", 0, {"train.max_steps": 4}, "--resume", "true")
    assert json.loads((config.parent / "ckpts/old/args.json").read_text())["preprocess"]["normalize_text"] == "none"


def test_new_data_are_normalized_and_made_again_when_that_changes(config: Path) -> None:
    prepare(config, {})
    assert all("f aɪ v _ d ɑː l ɚ z ." in row for row in phones(config))
    with pytest.raises(UserError, match=r"preprocess.normalize_text 'auto', now 'none'; run stage 1 again"):
        train(config, "new", 1, {"preprocess.normalize_text": "none"})
    normalized = phones(config)
    prepare(config, {"preprocess.normalize_text": "none"})
    assert phones(config) != normalized


def test_a_lexicon_travels_with_the_experiment(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(config, lexicon(config))
    assert any("b ɛ d z" in row for row in phones(config))
    with pytest.raises(UserError, match=r"made with another preprocess.lexicon, or another content; run stage 1"):
        train(config, "pair", 0, {})
    train(config, "pair", 0, lexicon(config))
    folder = config.parent / "ckpts" / "pair"
    (config.parent / "words.tsv").rename(config.parent / "moved.tsv")
    assert Experiment(folder).settings().preprocess.lexicon == str(folder / "lexicon.tsv")

    def shown(*flags: str) -> str:
        assert call(bins.preprocess, "--show_text", "birds", "--infer_expt_dir", str(folder), *flags) == 0
        return capsys.readouterr().out.splitlines()[-1].split(maxsplit=1)[1]

    assert shown() == "b ɛ d z"
    (config.parent / "other.tsv").write_text("birds\trivers\n", encoding="utf-8")
    assert shown("--set", f"preprocess.lexicon={config.parent / 'other.tsv'}") == "ɹ ɪ v ɚ z"
    assert shown("--set", "preprocess.lexicon=null") != "b ɛ d z"


def test_a_changed_lexicon_makes_its_shards_again(config: Path) -> None:
    prepare(config, lexicon(config))
    before = phones(config)
    (config.parent / "words.tsv").write_text("birds\t/bɔdz/\n", encoding="utf-8")
    with pytest.raises(UserError, match="another content; run stage 1 again"):
        train(config, "any", 1, lexicon(config))
    prepare(config, lexicon(config))
    assert phones(config) != before and any("b ɔ d z" in row for row in phones(config))


@pytest.mark.parametrize("is_reference", [True, False])
def test_an_experiment_without_the_setting_reads_texts_as_they_are_written(tmp_path: Path, is_reference: bool) -> None:
    content = {"dataset": ["custom"], "dataset_path": {"custom": ""}, "preprocess": {"language": "en-us"}}
    (tmp_path / "args.json").write_text(json.dumps(content))
    experiment = Experiment(tmp_path, is_reference)
    assert experiment.settings().preprocess.normalize_text == "none"
    assert experiment.settings(["preprocess.normalize_text=auto"]).preprocess.normalize_text == "auto"


def test_a_transcript_with_a_wrong_pause_is_left_out_and_others_have_no_phones_of_theirs(config: Path) -> None:
    prepare(config, {})
    before = sorted(phones(config))
    table = config.parent / "corpus" / "metadata.csv"
    lines = table.read_text().splitlines()
    table.write_text(
        "\n".join([lines[0].replace(" for", " [pause 5] for"), *lines[1:]]).replace(" for $5", "[pause 1s]for $5")
    )
    prepare(config, {})
    [failure] = (config.parent / "data" / "custom" / "failures.jsonl").read_text().splitlines()
    assert "[pause 5] takes a length of at most 60 s, as in [pause 0.5s]" in json.loads(failure)["reason"]
    assert set(phones(config)) < set(before)


def test_show_text_refuses_a_wrong_pause() -> None:
    with pytest.raises(UserError, match=r"^--show_text: the text: \[pause 5\] takes a length of at most 60 s"):
        call(bins.preprocess, "--show_text", "Hello [pause 5] there")


@pytest.mark.parametrize("text", ["", " \n", "[language en] "])
def test_show_text_refuses_an_empty_text(text: str) -> None:
    with pytest.raises(UserError, match=r"^--show_text: the text is empty"):
        call(bins.preprocess, "--show_text", text)


def test_a_text_is_shown_without_a_corpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The default config has a placeholder where the path of a corpus belongs.
    assert call(bins.preprocess, "--show_text", "Dr. Lee paid $5 🎉") == 0
    text, normalized, spoken = capsys.readouterr().out.splitlines()
    assert text.endswith("Dr. Lee paid $5 🎉")
    assert normalized.split(maxsplit=1)[1] == "Doctor Lee paid five dollars"
    assert spoken.split(maxsplit=1)[1].startswith("d ɑː k t ɚ _ l iː")
    changes = sets({"preprocess.language": "de", "preprocess.normalize_text": "auto"})
    assert call(bins.preprocess, "--show_text", "Nr. 5", *changes) == 0
    assert "Nummer fünf" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--show_text", "привет"), "--show_text: the text has letters that cannot be read in its language"),
        (("--show_text", "a", "--set", "preprocess.languag=de"), "did you mean preprocess.language"),
        (("--show_text", "a", "--infer_expt_dir", "nowhere"), "--infer_expt_dir: no such file or folder"),
    ],
)
def test_a_text_that_cannot_be_shown_is_one_error(flags: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        call(bins.preprocess, *flags)


def test_a_flag_of_show_text_alone_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        call(bins.preprocess, "--infer_expt_dir", "x")
    assert "--infer_expt_dir is for --show_text" in capsys.readouterr().err
