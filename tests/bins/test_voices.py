"""Voices: made by the program, used by the stages as the prompt that they were made from, and refused if damaged."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import bins.evaluate
import bins.inference
import bins.voices
from bins.voices import FLAGS_OF_ADD
from evaluation import recognizers
from synthesis.load import load_experiment
from synthesis.synthesizer import Request, Synthesizer
from synthesis.test_lists import InvalidLine, ListItem, read_test_list
from synthesis.voices import (
    FORMAT,
    MAX_BYTES,
    Voice,
    find_voice,
    list_voices,
    load_prompt,
    read_voice,
    usable_voices,
    write_voice,
)
from tests.support.recipe import Recipe, prompt
from utils.cli import find_path
from utils.errors import UserError
from utils.paths import ROOT
from utils.prompts import prepare_prompt


@pytest.fixture(autouse=True)
def voices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own folder; the pretrained pair, which has voices too, is out of sight."""
    monkeypatch.setenv("VALLET_VOICES", str(tmp_path / "voices"))
    for module in ("utils.paths", "synthesis.load", "synthesis.voices"):
        monkeypatch.setattr(f"{module}.PRETRAINED", tmp_path / "pretrained")
    return tmp_path / "voices"


@pytest.fixture(scope="module")
def synthesizer(trained: Recipe) -> Synthesizer:
    return load_experiment(trained.experiment("nar"), "")[0]


@pytest.fixture(scope="module")
def saved(trained: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two voices, for copies."""
    folder = tmp_path_factory.mktemp("saved")
    for index, name in enumerate(("anna", "ben")):
        assert add(trained, name, "--voices_dir", str(folder), index=index) == 0
    return folder


@pytest.fixture
def anna(saved: Path, voices: Path) -> Path:
    """A voice in the user's folder."""
    voices.mkdir()
    return Path(shutil.copyfile(saved / "anna.safetensors", voices / "anna.safetensors"))


@pytest.fixture
def ben(saved: Path, anna: Path) -> Path:
    return Path(shutil.copyfile(saved / "ben.safetensors", anna.with_name("ben.safetensors")))


def add(recipe: Recipe, name: str, *flags: str, index: int = 0) -> int | str | None:
    audio, text = prompt(recipe.corpus, "103", index)
    texts = () if "--text" in flags or "--transcribe" in flags else ("--text", text)
    own = ("add", name, "--audio", str(audio), "--infer_expt_dir", str(recipe.experiment("nar")))
    return recipe.call(bins.voices, *own, *texts, *flags)


def speak(recipe: Recipe, output: Path, *flags: str) -> tuple[dict[str, np.ndarray], list[dict]]:
    """The audio of each output by name, and the rows."""
    own = ("--infer_expt_dir", str(recipe.experiment("nar")), "--infer_output_dir", str(output))
    assert recipe.call(bins.inference, *own, *flags) in (0, 1)
    rows = [json.loads(line) for line in (output / "results.jsonl").read_text().splitlines()]
    return {row["name"]: soundfile.read(output / row["audio"])[0] for row in rows if "audio" in row}, rows


def test_a_voice_has_the_codes_and_phones_of_its_recording(
    trained: Recipe, synthesizer: Synthesizer, voices: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert add(trained, "anna", "--consent", "Anna agreed in writing.", "--licence", "CC-BY-4.0") == 0
    audio, text = prompt(trained.corpus, "103")
    recorded = prepare_prompt(audio, text, synthesizer.codec.sample_rate_hz)
    made = load_prompt(synthesizer, voices / "anna.safetensors", "")
    assert made.codes is not None and torch.equal(made.codes, synthesizer.encode([recorded.audio])[0])
    assert made.seconds == recorded.seconds and made.text == " ".join(text.split())
    assert list(made.phones or ()) == synthesizer.tokenizer.phones([text])[0]
    copies = [synthesizer.copy_prompt(one) for one in (made, recorded)]
    assert torch.equal(*copies) and torch.equal(copies[0], synthesizer.copy(recorded.audio))
    assert trained.call(bins.voices, "show", "anna") == trained.call(bins.voices, "list") == 0
    shown = capsys.readouterr().out
    for words in ("Anna agreed in writing.", "CC-BY-4.0", synthesizer.codec.fingerprint(), "language: en-us"):
        assert words in shown
    assert trained.call(bins.voices, "remove", "anna") == 0 and not list(voices.iterdir())


def test_a_voice_speaks_as_its_recording_does(trained: Recipe, tmp_path: Path, anna: Path) -> None:
    audio, text = prompt(trained.corpus, "103")
    recorded = ("--infer_text_prompt", text, "--infer_audio_prompt", str(audio))
    long = ("--infer_text", "Wait for me. The old house is near.", "--set", "infer.max_part_seconds=1")
    for number, flags in enumerate([("--infer_text", "Wait for me."), (*long, "--copysyn")]):
        [plain], [row] = (
            list(part)
            for part in (
                speak(trained, tmp_path / f"a{number}", "--infer_mode", "single", *flags, *recorded)[0].values(),
                speak(trained, tmp_path / f"b{number}", "--infer_mode", "single", *flags, "--infer_voice", "anna")[1],
            )
        )
        assert row["name"] == "single/anna" and row["prompt_audio"] == str(anna)
        saved = soundfile.read(tmp_path / f"b{number}" / row["audio"])[0]
        np.testing.assert_array_equal(saved, plain)
    copies = [next((tmp_path / name / "single").glob("*_copysyn.wav")) for name in ("a1", "b1")]
    assert copies[0].read_bytes() == copies[1].read_bytes()
    (tmp_path / "story.txt").write_text("Wait for me. The old house is near.")
    story = ("--infer_mode", "single", "--infer_text_file", str(tmp_path / "story.txt"), *long[2:])
    [book] = speak(trained, tmp_path / "c", *story, "--infer_voice", "anna")[0].values()
    np.testing.assert_array_equal(book, saved)


def test_a_continuation_keeps_the_first_codes_of_a_voice(trained: Recipe, tmp_path: Path, anna: Path) -> None:
    settings = ("continual_prompt_seconds=1", "min_seconds_per_phone=0", "max_seconds_per_phone=1e-6")
    overrides = [word for setting in settings for word in ("--set", f"infer.{setting}")]
    flags = ("--infer_mode", "single", "--continual", "--infer_voice", "anna", *overrides)
    found, [row] = speak(trained, tmp_path / "out", *flags)
    assert len(found["single/anna"]) == 24000 + 960 and row["text"] == prompt(trained.corpus, "103")[1]


def test_a_list_may_name_voices_and_a_flag_replaces_its_prompts(trained: Recipe, tmp_path: Path, ben: Path) -> None:
    audio, text = prompt(trained.corpus, "101")
    (tmp_path / "list.txt").write_text(
        f"Wait here.|voice:anna\nx|Wait here.|voice:ben\nWait here.|{text}|{audio}\nWait here.|voice:nobody\nWait here."
    )
    flags = ("--infer_mode", "batch", "--test_list_file", str(tmp_path / "list.txt"))
    found, rows = speak(trained, tmp_path / "out", *flags)
    assert list(found) == ["batch/1_anna", "batch/x", f"batch/3_{audio.stem}"]
    assert "no voice 'nobody'; there are anna, ben" in rows[3]["error"] and "1 fields" in rows[4]["error"]
    replaced, rows = speak(trained, tmp_path / "other", *flags, "--infer_voice", "ben")
    assert list(replaced) == ["batch/1_ben", "batch/x", "batch/3_ben", "batch/4_ben", "batch/5_ben"]
    for speech in replaced.values():
        np.testing.assert_array_equal(speech, found["batch/x"])
    assert not np.array_equal(found["batch/1_anna"], found["batch/x"])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Hi there.|voice:anna", ("1_anna", "Hi there.", None)),
        ("voice:anna|Hi | there.", ("1_anna", "Hi|there.", None)),
        ("7|voice:anna|Hi there.", ("7", "Hi there.", None)),
        ("7|Hi there.|voice:anna", ("7", "Hi there.", None)),
        ("Hi there.|voice: anna|ref.wav", ("1_anna", "Hi there.", "ref.wav")),
        ("7|voice:anna|Hi there.|ref.wav", ("7", "Hi there.", "ref.wav")),
        ("a|b|c|voice:anna", None),
        ("a|b|voice:anna|c", None),
        ("Hi there.|voice:anna|missing.wav", None),
    ],
)
def test_lines_with_a_voice(trained: Recipe, tmp_path: Path, anna: Path, line: str, expected) -> None:
    (tmp_path / "list.txt").write_text(line)
    soundfile.write(tmp_path / "ref.wav", np.zeros(100), 24000)
    [item] = read_test_list(tmp_path / "list.txt", lambda path: find_path(path, "audio_prompt", tmp_path))
    if expected is None:
        assert isinstance(item, InvalidLine)
        return
    name, text, reference = expected
    audio = None if reference is None else tmp_path / reference
    prompt_text = prompt(trained.corpus, "103")[1]
    assert item == ListItem(f"batch/{name}", text, prompt_text, anna, audio, place="line 1: ")


def test_stage_4_measures_a_voice(trained: Recipe, tmp_path: Path, anna: Path) -> None:
    (tmp_path / "list.txt").write_text("Wait for me.\n")
    own = ("--infer_expt_dir", str(trained.experiment("nar")), "--eval_output_dir", str(tmp_path / "out"))
    flags = ("--test_list_file", str(tmp_path / "list.txt"), "--asr", "none")
    assert trained.call(bins.evaluate, *own, *flags, "--infer_voice", "anna") in (0, 1)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert "batch/1_anna" in json.dumps(metrics) and (tmp_path / "out" / "report.html").is_file()


def test_voices_of_the_experiment_come_first(trained: Recipe, voices: Path, anna: Path, ben: Path, capsys) -> None:
    experiment = trained.copied("nar", "nar_with_voices")
    audio, text = prompt(trained.corpus, "103")
    flags = ("--infer_expt_dir", str(experiment), "--audio", str(audio), "--text", text)
    (experiment / "voices").mkdir()
    anna.rename(experiment / "voices" / "anna.safetensors")
    assert find_voice("anna", experiment, "") == experiment / "voices" / "anna.safetensors"
    assert list(list_voices(experiment)) == ["anna", "ben"] and list(list_voices(None)) == ["ben"]
    for name in ("anna", "ben"):
        capsys.readouterr()
        assert trained.call(bins.voices, "add", name, *flags) == 1
        assert "there is a voice of this name" in capsys.readouterr().err
    # Another codec cannot synthesize with it.
    shutil.copyfile(voices / "ben.safetensors", voices / "carl.safetensors")
    change(voices / "carl.safetensors", codec="another")
    with pytest.raises(UserError, match="carl: the voice was made with another codec than the model's; make it again"):
        load_prompt(load_experiment(experiment, "")[0], voices / "carl.safetensors", "")
    capsys.readouterr()
    assert trained.call(bins.voices, "list", "--infer_expt_dir", str(experiment)) == 0
    marks = {row[0]: row[5:] for row in (line.split("\t") for line in capsys.readouterr().out.splitlines())}
    assert marks == {"anna": [], "ben": [], "carl": ["not for nar_with_voices: made with another codec"]}
    assert list(usable_voices(experiment, read_voice(voices / "ben.safetensors").codec)) == ["anna", "ben"]
    assert list(usable_voices(experiment, None)) == ["anna", "ben", "carl"]


def test_voices_of_the_pretrained_pair_are_never_removed(
    trained: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, voices: Path, anna: Path, ben: Path, capsys
) -> None:
    pair = trained.copied("nar", "pair_with_voices")
    monkeypatch.setattr("utils.paths.PRETRAINED", pair)
    monkeypatch.setattr("synthesis.voices.PRETRAINED", pair)
    (tmp_path / "link").symlink_to(pair)
    shipped = pair / "voices" / "carl.safetensors"
    shipped.parent.mkdir()
    shutil.copyfile(ben, shipped)
    for flags in ((), ("--infer_expt_dir", str(pair)), ("--infer_expt_dir", str(tmp_path / "link"))):
        capsys.readouterr()
        assert trained.call(bins.voices, "remove", "carl", *flags) == 1
        assert "remove: 'carl' comes with the pretrained pair" in capsys.readouterr().err and shipped.is_file()
    # A user's own voice of that name is the one that is meant.
    shutil.copyfile(ben, voices / "carl.safetensors")
    assert trained.call(bins.voices, "remove", "carl") == 0
    assert shipped.is_file() and not (voices / "carl.safetensors").exists()


def test_voices_of_an_experiment_are_removed_only_if_it_is_named(
    trained: Recipe, anna: Path, ben: Path, capsys
) -> None:
    experiment = trained.copied("nar", "nar_that_loses_a_voice")
    (experiment / "voices").mkdir()
    own = Path(shutil.copyfile(anna, experiment / "voices" / "carl.safetensors"))
    assert trained.call(bins.voices, "remove", "carl") == 1 and own.is_file()
    assert "remove: no voice 'carl'; there are anna, ben" in capsys.readouterr().err
    assert trained.call(bins.voices, "remove", "carl", "--infer_expt_dir", str(experiment)) == 0 and not own.exists()
    assert trained.call(bins.voices, "remove", "ben", "--infer_expt_dir", str(experiment)) == 0 and not ben.exists()


def test_a_text_is_recognized_or_beside_the_audio(
    trained: Recipe, tmp_path: Path, voices: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    asked = []

    class Recognizer:
        name = "test"

        def transcribe(self, audio: np.ndarray) -> str:
            return " The boats  came back. "

    def build(*given: object) -> Recognizer:
        asked.append((given[0], given[1], given[3]))
        return Recognizer()

    monkeypatch.setattr(recognizers, "build_recognizer", build)
    assert add(trained, "anna", "--transcribe", "--asr_model", "some/model") == 0
    assert asked == [("whisper", "some/model", "en-us")]
    assert read_voice(voices / "anna.safetensors").text == "The boats came back."
    audio, _ = prompt(trained.corpus, "103")
    shutil.copyfile(audio, tmp_path / "clip.wav")
    flags = ("--audio", str(tmp_path / "clip.wav"), "--infer_expt_dir", str(trained.experiment("nar")))
    assert trained.call(bins.voices, "add", "ben", *flags) == 1
    assert "--text: needed, or --transcribe, or a file clip.txt beside" in capsys.readouterr().err
    (tmp_path / "clip.txt").write_text("Boats came.\n")
    assert trained.call(bins.voices, "add", "ben", *flags) == 0
    assert read_voice(voices / "ben.safetensors").text == "Boats came."


MISTAKES = {
    "no name": (("add",), "add: needs the name of a voice"),
    "no audio": (("add", "anna"), "--audio: needed with add"),
    "list with a name": (("list", "anna"), "list: takes no name"),
    "a flag of add": (("show", "anna", "--consent", "x"), "--consent is for add"),
    "an empty flag of add": (("show", "anna", "--text", ""), "--text is for add"),
    "a setting for list": (("list", "--set", "nonsense=1"), "--set is for add"),
    "a setting for show": (("show", "anna", "--set", "nonsense=1"), "--set is for add"),
    "a setting for remove": (("remove", "anna", "--set", "nonsense=1"), "--set is for add"),
    "two texts": (("add", "a", "--audio", "x", "--text", "x", "--transcribe"), "--text: --transcribe finds the text"),
    "a recognizer alone": (("add", "a", "--audio", "x", "--asr", "whisper"), "--asr: needs --transcribe"),
    "unknown": (("show", "nobody", "--infer_expt_dir", "NAR"), "show: no voice 'nobody'; there are none"),
    "a path": (("add", "../anna", "--audio", "x", "--infer_expt_dir", "NAR"), "'../anna': no name for a voice"),
    "no such audio": (("add", "a", "--audio", "x.wav", "--infer_expt_dir", "NAR"), "--audio: no such file"),
    "no pair": (("add", "anna", "--audio", "x.wav"), "this installation has no pretrained pair"),
}


def test_the_manual_has_all_flags() -> None:
    section = (ROOT / "egs/tts/VALLE/README.md").read_text().split("\n## Voices\n")[1].split("\n## ")[0]
    described = set(re.findall(r"--(\w+)", section.split("| flag | meaning |")[1]))
    assert described >= {*FLAGS_OF_ADD, "set", "infer_expt_dir"}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(
    trained: Recipe, mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr("synthesis.load.PRETRAINED", tmp_path)
    flags, words = MISTAKES[mistake]
    given = [str(trained.experiment("nar")) if flag == "NAR" else flag for flag in flags]
    assert trained.call(bins.voices, *given) in (1, 2)
    [line] = capsys.readouterr().err.splitlines()
    assert words in line


def test_a_prompt_beside_a_voice_is_a_mistake(trained: Recipe, capsys) -> None:
    flags = ("--infer_expt_dir", "x", "--infer_mode", "single", "--infer_text", "x", "--infer_voice", "anna")
    assert trained.call(bins.inference, *flags, "--infer_text_prompt", "x") == 2
    assert "--infer_text_prompt: --infer_voice has a prompt" in capsys.readouterr().err


def change(path: Path, codes: torch.Tensor | None = None, **metadata: str) -> None:
    """Write another version of a voice's file."""
    voice = read_voice(path)
    content = {key: str(value) for key, value in voice.model_dump(exclude={"codes"}).items()}
    content |= {"format": FORMAT, "phones": json.dumps(voice.phones), **metadata}
    save_file({"codes": voice.codes if codes is None else codes}, path, content)


DAMAGE: dict[str, dict] = {
    "floats": {"codes": torch.zeros(3, 8)},
    "one axis": {"codes": torch.zeros(3, dtype=torch.int16)},
    "no frames": {"codes": torch.zeros(0, 8, dtype=torch.int16)},
    "negative": {"codes": -torch.ones(3, 8, dtype=torch.int16)},
    "another format": {"format": "vallet-voice-9"},
    "phones that are none": {"phones": '{"a": 1}'},
    "deep phones": {"phones": "[" * 100_000},
    "a rate that is none": {"sample_rate_hz": "fast"},
    "no samples": {"num_samples": "0"},
    "endless samples": {"num_samples": "9" * 400},
    "control characters": {"consent": "\x1b[2J"},
    "a long text": {"text": "a" * 20_000},
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_voice_is_refused(trained: Recipe, anna: Path, damage: str, capsys) -> None:
    change(anna, **DAMAGE[damage])
    with pytest.raises(UserError) as raised:
        read_voice(anna)
    assert str(anna) in str(raised.value) and len(str(raised.value).splitlines()) == 1 and len(str(raised.value)) < 400
    # The others are listed nevertheless.
    capsys.readouterr()
    assert trained.call(bins.voices, "list") == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.parametrize("changes", [{"codes": torch.full((3, 8), 32767, dtype=torch.int16)}, {"num_samples": "10"}])
def test_codes_that_are_not_of_the_codec_are_refused(synthesizer: Synthesizer, anna: Path, changes: dict) -> None:
    change(anna, **changes)
    with pytest.raises(UserError, match="anna: the voice is damaged"):
        load_prompt(synthesizer, anna, "")


def test_phones_are_those_of_the_file_where_the_model_reads_them(synthesizer: Synthesizer, anna: Path) -> None:
    other, voice = synthesizer.with_settings(), read_voice(anna)
    assert voice.prompt(other).phones == voice.phones
    for name, value in (("phone_extractor", "graphemes"), ("is_reference", True)):
        other = synthesizer.with_settings()
        setattr(other, name, value)
        assert voice.prompt(other).phones is None
    # Phones of the file count even where the text has none of its own.
    requests = [Request("Wait.", "...", torch.zeros(0), voice.codes.long(), prompt_phones=voice.phones)]
    [item] = synthesizer.tokenize(requests, continual=False)
    assert not isinstance(item, UserError) and len(item.ids) > len(voice.phones)


def test_any_cut_or_changed_file_is_refused_or_read(anna: Path, tmp_path: Path) -> None:
    content = anna.read_bytes()
    path = tmp_path / "other.safetensors"

    @settings(max_examples=150, deadline=None, database=None)
    @given(st.integers(0, len(content) - 1), st.binary(max_size=40), st.booleans())
    def check(at: int, new: bytes, is_cut: bool) -> None:
        path.unlink(missing_ok=True)
        path.write_bytes(content[:at] + new + (b"" if is_cut else content[at + len(new) :]))
        try:
            assert isinstance(read_voice(path), Voice)
        except UserError as error:
            assert len(str(error).splitlines()) == 1

    check()
    path.write_bytes(content + bytes(MAX_BYTES))
    with pytest.raises(UserError, match="and a voice has 1000000 at most"):
        read_voice(path)
    os.mkfifo(tmp_path / "pipe.safetensors")
    for missing in (tmp_path / "pipe.safetensors", tmp_path / "none.safetensors", Path("\0.safetensors")):
        with pytest.raises(UserError):
            read_voice(missing)


def test_a_voice_is_never_replaced(anna: Path) -> None:
    with pytest.raises(UserError, match="there is a voice of this name"):
        write_voice(read_voice(anna), anna)
    assert set(load_file(anna)) == {"codes"} and [found.name for found in anna.parent.iterdir()] == [anna.name]
