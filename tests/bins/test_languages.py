"""Corpora of other languages, and of several, through stages 1 to 3."""

import json
from pathlib import Path
from typing import Any

import pytest

import bins.inference
import bins.preprocess
import bins.voices
from models.experiment import Experiment
from processors.manifest import list_shards, read_shards
from processors.symbols import SymbolTable
from synthesis.voices import read_voice
from tests.support.tiny_runs import call, infer, prepare, sets, train, write_config, write_custom
from utils.errors import UserError

MANDARIN = ["你好，世界！", "我很好。", "他不去。", "今天有3个人。", "妈妈骂马。", "这是一本书。", "请喝茶。"]
JAPANESE = ["雨が降る。", "飴が降る。", "これは本です。", "東京へ行く。", "お茶を飲む。", "3個あります。", "何ですか？"]
ENGLISH = ["Early birds.", "Find $5.", "Green apples.", "Tall trees.", "Near rivers.", "Small birds.", "Under trees."]


def write_corpus(folder: Path, texts: dict[str, list[str]], with_language: bool = True) -> Path:
    """A config of a corpus of made-up sound with these texts, by language."""
    rows = [(language, text) for language in texts for text in texts[language]]
    write_custom(folder / "corpus", len(rows))
    heading = "id|speaker|language|text" if with_language else "id|speaker|text"
    lines = [
        f"u{number:02d}|s{number % 3}|{f'{language}|' if with_language else ''}{text}"
        for number, (language, text) in enumerate(rows)
    ]
    (folder / "corpus" / "metadata.csv").write_text("\n".join([heading, *lines]) + "\n", encoding="utf-8")
    config = write_config(folder / "config.json", folder / "corpus", folder)
    content = json.loads(config.read_text())
    content["model"]["text_token_num"] = 160
    config.write_text(json.dumps(content))
    return config


def utterances(config: Path) -> dict[str, list[str]]:
    folder = config.parent / "data" / "custom"
    return {
        row.text: list(row.phones) for part in ("train", "valid") for row in read_shards(list_shards(folder / part))
    }


def results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]


def prompt_of(config: Path) -> str:
    return str(config.parent / "corpus" / "wavs" / "u00.wav")


@pytest.mark.parametrize(
    ("language", "texts", "library"), [("zh", MANDARIN, "pypinyin"), ("jp", JAPANESE, "pyopenjtalk")]
)
def test_a_corpus_of_one_language_goes_through_all_stages(
    tmp_path: Path, language: str, texts: list[str], library: str
) -> None:
    pytest.importorskip(library)
    config = write_corpus(tmp_path, {language: texts})
    changes = {"preprocess.language": language, "preprocess.phone_extractor": "auto"}
    prepare(config, changes)
    phones = utterances(config)
    assert phones and not any(phone.startswith("<") for row in phones.values() for phone in row)
    train(config, "pair", 0, changes)
    lines = [f"{text}|{texts[0]}|{prompt_of(config)}" for text in texts[:2]]
    (tmp_path / "list.txt").write_text("\n".join(lines), encoding="utf-8")
    infer(
        tmp_path / "ckpts/pair",
        tmp_path / "out",
        {},
        "--infer_mode",
        "batch",
        "--test_list_file",
        str(tmp_path / "list.txt"),
    )
    assert [row["text"] for row in results(tmp_path / "out")] == texts[:2]


def test_an_experiment_of_several_languages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pypinyin")
    pytest.importorskip("pyopenjtalk")
    config = write_corpus(tmp_path, {"zh": MANDARIN, "jp": JAPANESE, "": ENGLISH})
    changes = {"preprocess.language": "auto", "preprocess.phone_extractor": "auto"}
    with_default = {**changes, "preprocess.dataset_languages": {"custom": "en"}}
    prepare(config, with_default)
    phones = utterances(config)
    for language, texts in {"cmn": MANDARIN, "ja": JAPANESE, "en-us": ENGLISH}.items():
        assert {phones[text][0] for text in texts if text in phones} == {f"<{language}>"}
    train(config, "pair", 0, with_default)
    folder = tmp_path / "ckpts" / "pair"
    assert {"<cmn>", "<ja>", "<en-us>"} <= set(SymbolTable.load(Experiment(folder).symbols).phones)
    # Prompts and texts of different languages, named or not.
    pairs = [("你好", "Early birds."), ("[language ja] 東京", "[language en] Tall trees."), ("Small trees", "雨が")]
    lines = [f"{text}|{prompt}|{prompt_of(config)}" for text, prompt in pairs]
    lines += [f"[language de] Hallo|Early birds|{prompt_of(config)}", f"한국|Early birds|{prompt_of(config)}"]
    (tmp_path / "list.txt").write_text("\n".join(lines), encoding="utf-8")
    flags = ("--infer_expt_dir", str(folder), "--infer_output_dir", str(tmp_path / "out"), "--infer_mode", "batch")
    assert call(bins.inference, *flags, "--test_list_file", str(tmp_path / "list.txt")) == 1
    rows = results(tmp_path / "out")
    assert [row["text"] for row in rows[:3]] == ["你好", "東京", "Small trees"] and all(
        "audio" in row for row in rows[:3]
    )
    assert rows[3]["error"].startswith("line 4: the experiment was not trained on de, but on en-us, cmn, ja")
    assert "line 5: the text has letters" in rows[4]["error"] and "한 (HANGUL SYLLABLE HAN)" in rows[4]["error"]
    # A voice keeps its language, which is not known from its text alone.
    voice = ("--infer_expt_dir", str(folder), "--audio", prompt_of(config), "--voices_dir", str(folder / "voices"))
    for name, text in (("ren", "東京"), ("eve", "Early birds.")):
        language = () if name == "eve" else ("--language", "zh")
        assert call(bins.voices, "add", name, *voice, "--text", text, *language) == 0
    assert read_voice(folder / "voices" / "ren.safetensors").phones[0] == "<cmn>"
    (tmp_path / "list.txt").write_text(
        f"你好|voice:ren\n你好|[language zh] 東京|{prompt_of(config)}\n"
        f"Tall trees|voice:ren\nTall trees|[language zh] 東京|{prompt_of(config)}\n"
        f"你好|voice:eve\n你好|Early birds.|{prompt_of(config)}\n",
        encoding="utf-8",
    )
    flags = ("--infer_expt_dir", str(folder), "--infer_output_dir", str(tmp_path / "voices"), "--infer_mode", "batch")
    call(bins.inference, *flags, "--test_list_file", str(tmp_path / "list.txt"))
    audio = [(tmp_path / "voices" / row["audio"]).read_bytes() for row in results(tmp_path / "voices")]
    assert audio[::2] == audio[1::2]
    # The text's language by a flag.
    single = ("--infer_expt_dir", str(folder), "--infer_mode", "single", "--infer_text", "東京")
    single = (*single, "--infer_text_prompt", "Early birds", "--infer_audio_prompt", prompt_of(config))
    for language, is_known in (("zh", True), ("fr", False)):
        call(bins.inference, *single, "--infer_output_dir", str(tmp_path / language), "--infer_language", language)
        assert ("audio" in results(tmp_path / language)[0]) == is_known


def test_a_corpus_without_languages_is_one_clear_line(tmp_path: Path) -> None:
    config = write_corpus(tmp_path, {"en": ENGLISH}, with_language=False)
    own = ("--config", str(config))
    with pytest.raises(
        UserError, match=r"language is auto, and no utterance of .* set preprocess\.dataset_languages\.custom"
    ):
        call(bins.preprocess, *own, *sets({"preprocess.language": "auto"}))
    with pytest.raises(
        UserError, match=r"preprocess\.dataset_languages is for preprocess\.language auto, which is en-us"
    ):
        call(bins.preprocess, *own, *sets({"preprocess.dataset_languages": {"custom": "en"}}))


def test_a_letter_that_cannot_be_read_is_named_with_its_line(tmp_path: Path) -> None:
    config = write_corpus(tmp_path, {"en": [*ENGLISH, "small 한"], "": ["no language"], "tlh": ["nuqneH"]})
    prepare(config, {"preprocess.language": "auto"})
    failures = (tmp_path / "data/custom/failures.jsonl").read_text(encoding="utf-8").splitlines()
    reasons = {row["id"]: row["reason"] for row in map(json.loads, failures)}
    assert reasons["u07"].startswith(
        "the transcript (metadata.csv, line 9) has letters that cannot be read in its language: 한 (HANGUL SYLLABLE"
    )
    assert reasons["u08"].startswith("no language: neither the corpus nor")
    assert "espeak-ng has no language tlh" in reasons["u09"]


def test_a_language_column_does_not_change_an_experiment_with_one_language(tmp_path: Path) -> None:
    config = write_corpus(tmp_path / "a", {"en": ENGLISH[:4], "de": ENGLISH[4:]})
    other = write_corpus(tmp_path / "b", {"": ENGLISH}, with_language=False)
    for one in (config, other):
        prepare(one, {"preprocess.normalize_text": "none"})
    assert utterances(config) == utterances(other)
