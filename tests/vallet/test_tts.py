"""The Python API: the speech of stage 3, streaming, threads, and packages of others with our names."""

import gc
import inspect
import re
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import soundfile
import torch

import vallet
from synthesis.speed_and_loudness import change_loudness
from synthesis.synthesizer import Request, Synthesizer
from synthesis.voices import Voice, read_voice, write_voice
from tests.conftest import ROOT
from tests.support.pair import Trained
from utils.audio import write_audio
from utils.prompts import prepare_prompt
from vallet._packages import PACKAGES

TEXTS = ("Early birds find apples.", "Tall trees near quiet rivers often find birds.", "Small.")
LONG = "\n\n".join(TEXTS)


@pytest.fixture(scope="module")
def pair(trained: Trained, synthesizer: Synthesizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The complete experiment, with a voice."""
    folder = Path(shutil.copytree(trained.nar, tmp_path_factory.mktemp("pair") / "nar"))
    audio, text = trained.prompt()
    made = Voice.from_prompt(prepare_prompt(audio, text, synthesizer.codec.sample_rate_hz), synthesizer)
    write_voice(made, folder / "voices" / "anna.safetensors")
    return folder


@pytest.fixture(scope="module")
def tts(pair: Path) -> Iterator[vallet.TTS]:
    with vallet.load(pair) as tts:
        yield tts


def test_a_text_is_the_speech_of_stage_3(
    tts: vallet.TTS, trained: Trained, synthesizer: Synthesizer, tmp_path: Path
) -> None:
    audio, text = trained.prompt()
    prompt = prepare_prompt(audio, text, synthesizer.codec.sample_rate_hz)
    [wanted] = synthesizer.with_settings(seed=3).synthesize([Request(TEXTS[0], text, prompt.audio)])
    speech = tts.say(TEXTS[0], prompt=audio, prompt_text=text, seed=3)
    assert torch.equal(speech.audio, wanted.audio)
    assert speech.sample_rate_hz == tts.sample_rate_hz == 24000 and speech.seconds == wanted.seconds
    assert (speech.ended, speech.error) == (wanted.stop_reason, wanted.failure)
    assert [part["text"] for part in speech.parts] == [TEXTS[0]]
    for voice in ("anna", None):
        assert torch.equal(tts.say(TEXTS[0], voice=voice, seed=3).audio, wanted.audio)
    assert not torch.equal(tts.say(TEXTS[0], seed=4).audio, wanted.audio) and tts.voices == ["anna"]
    assert tts.say(TEXTS[0], seed=3, speed=2.0).seconds == pytest.approx(wanted.seconds / 2, abs=1e-3)
    quieter = tts.say(TEXTS[0], seed=3, loudness_lufs=-30.0)
    assert torch.equal(quieter.audio, change_loudness(wanted.audio, 24000, -30.0))
    assert not torch.equal(quieter.audio, wanted.audio)
    assert torch.equal(torch.cat(list(tts.stream(TEXTS[0], seed=3, loudness_lufs=-30.0))), quieter.audio)
    speech.save(str(tmp_path / "speech.wav"))
    write_audio(tmp_path / "wanted.wav", wanted.audio, 24000)
    assert (tmp_path / "speech.wav").read_bytes() == (tmp_path / "wanted.wav").read_bytes()


@pytest.mark.parametrize("text", [LONG, TEXTS[0], f"[pause 0.3s] {LONG} [pause 1s]"])
def test_a_stream_of_parts_is_the_whole_audio_bit_for_bit(pair: Path, tts: vallet.TTS, text: str) -> None:
    whole = tts.say(text, seed=1)
    with vallet.load(pair, overrides=["infer.stream_first_frames=0"]) as by_parts:
        blocks = list(by_parts.stream(text, seed=1))
    assert torch.equal(torch.cat(blocks), whole.audio) and len(blocks) == len(whole.parts)


def test_a_stream_begins_inside_its_first_part(pair: Path, tts: vallet.TTS) -> None:
    whole = tts.say(TEXTS[1], seed=1)
    with vallet.load(pair, overrides=["infer.stream_first_frames=5"]) as in_chunks:
        assert torch.equal(in_chunks.say(TEXTS[1], seed=1).audio, whole.audio)
        blocks = list(in_chunks.stream(TEXTS[1], seed=1))
    assert len(blocks) > 1 and sum(len(block) for block in blocks) == len(whole.audio)


def test_a_stream_ends_with_the_result_and_is_cancelled_if_it_is_closed(tts: vallet.TTS) -> None:
    stream = tts.stream(LONG)
    next(stream)
    stream.close()
    assert len(tts._queue) == 0
    # One that never began has asked for nothing.
    tts.stream(LONG)
    stream, blocks = tts.stream(LONG), []
    with pytest.raises(StopIteration) as ended:
        while True:
            blocks.append(next(stream))
    assert torch.equal(ended.value.value.audio, torch.cat(blocks))


def test_threads_get_what_one_by_one_gives(tts: vallet.TTS) -> None:
    jobs = [(text, seed) for text in TEXTS for seed in range(3)]
    alone = [tts.say(text, seed=seed).audio for text, seed in jobs]
    with ThreadPoolExecutor(len(jobs)) as pool:
        together = list(pool.map(lambda job: tts.say(job[0], seed=job[1]).audio, jobs))
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one, other)


def test_failed_speech_is_returned_and_says_so(pair: Path, caplog: pytest.LogCaptureFixture) -> None:
    limits = ["infer.max_seconds_per_phone=0.001", "infer.min_seconds_per_phone=0", "infer.min_seconds=0"]
    with vallet.load(pair, overrides=[*limits, "infer.slack_seconds=0", "infer.max_tries=1"]) as tts:
        speech = tts.say(TEXTS[0])
    assert speech.ended in ("cap", "floor") and not speech.has_speech and len(speech.audio)
    assert "choose another seed or prompt" in str(speech.error)


MISTAKES = {
    "no voice": ({"voice": "nobody"}, "voice: no voice 'nobody'; there are anna"),
    "both": ({"voice": "anna", "prompt": "a.wav", "prompt_text": "a"}, "voice, prompt: give one of the two"),
    "no prompt text": ({"prompt": "a.wav"}, "a recording and its text are needed together"),
    "no prompt": ({"prompt_text": "a"}, "a recording and its text are needed together"),
    "no such prompt": ({"prompt": "a.wav", "prompt_text": "a"}, "prompt: no such file or folder: a.wav"),
    "no such file": ({"voice": "a.safetensors"}, "voice: no such file or folder: a.safetensors"),
    "top_p": ({"top_p": 2}, "top_p: input should be less than or equal to 1; got 2"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(tts: vallet.TTS, mistake: str) -> None:
    changes, words = MISTAKES[mistake]
    for call in (tts.say, tts.stream):
        with pytest.raises(vallet.UserError, match=re.escape(words)):
            call(TEXTS[0], **changes)


def test_what_cannot_be_spoken_is_one_line(tts: vallet.TTS, trained: Trained, tmp_path: Path) -> None:
    for text in ("?!", "", "Привет"):
        with pytest.raises(vallet.UserError):
            tts.say(text)
        with pytest.raises(vallet.UserError):
            next(tts.stream(text))
    with pytest.raises(vallet.UserError, match=r"vallet\.load: no whole checkpoint"):
        vallet.load(tmp_path)
    with pytest.raises(vallet.UserError, match=r"vallet\.load: no such file or folder: none"):
        vallet.load("none")


def test_a_folder_without_voices_needs_a_prompt(trained: Trained) -> None:
    with vallet.load(trained.nar) as tts, pytest.raises(vallet.UserError, match="has no voice of its own; give a"):
        tts.say(TEXTS[0])


def test_without_a_folder_the_pretrained_pair_is_taken(
    pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synthesis.load.PRETRAINED", tmp_path)
    with pytest.raises(vallet.UserError, match=r"no pretrained pair .*; give vallet\.load a folder"):
        vallet.load()
    monkeypatch.setattr("synthesis.load.PRETRAINED", pair)
    with vallet.load() as tts:
        assert tts.voices == ["anna"]


def test_no_thread_is_left_behind(pair: Path) -> None:
    def num_threads() -> int:
        return sum(thread.name == "synthesis queue" for thread in threading.enumerate())

    before = num_threads()
    tts = vallet.load(pair)
    assert num_threads() == before + 1
    tts.close()
    assert num_threads() == before
    with pytest.raises(vallet.UserError, match="is closing"):
        tts.say(TEXTS[0])
    # Neither by one that nobody closes.
    tts = vallet.load(pair)
    del tts
    gc.collect()
    assert num_threads() == before


def python(code: str, folder: Path, status: int = 0) -> str:
    """Run a program in a folder, with the project on the path as after an installation; returns what it printed."""
    (folder / "program.py").write_text(code)
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HOME": str(folder)}
    command = [sys.executable, str(folder / "program.py")]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def test_the_first_code_of_the_readme_runs_in_another_folder(tmp_path: Path) -> None:
    code = re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)[0]
    assert code[0] == "python" and "import vallet" in code[1]
    python(code[1], tmp_path)
    [speech] = tmp_path.glob("*.wav")
    assert len(soundfile.read(speech)[0])


def test_voices_of_other_codecs_are_left_out(
    tts: vallet.TTS, pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VALLET_VOICES", str(tmp_path))
    made = read_voice(pair / "voices" / "anna.safetensors")
    write_voice(made, tmp_path / "ben.safetensors")
    write_voice(made.model_copy(update={"codec": "another"}), tmp_path / "carl.safetensors")
    assert tts.voices == ["anna", "ben"]
    with pytest.raises(vallet.UserError, match="no voice 'dora'; there are anna, ben;"):
        tts.say(TEXTS[0], voice="dora")


def test_the_manual_has_the_names_of_the_packages_and_all_that_the_api_has() -> None:
    section = (ROOT / "egs/tts/VALLE/README.md").read_text().split("\n## Python\n")[1].split("\n## ")[0]
    [names] = re.findall(r"^- Our packages are named (.*?)\.", section, re.MULTILINE | re.DOTALL)
    assert tuple(re.findall(r"`(\w+)`", names)) == PACKAGES
    # Of arguments and attributes, each is named.
    arguments = [*inspect.signature(vallet.TTS.say).parameters][2:]
    assert arguments == [*inspect.signature(vallet.TTS.stream).parameters][2:]
    attributes = [name for name in dir(vallet.SpokenText) if not name.startswith("_") and name != "has_speech"]
    for name in [*arguments, *attributes, "audio", "sample_rate_hz", "tts.voices", "subtitles="]:
        assert re.search(rf"`[^`]*\b{re.escape(name)}", section), name


@pytest.mark.parametrize("name", ["utils", "models"])
@pytest.mark.parametrize("kind", ["file", "package", "folder"])
def test_a_module_with_the_name_of_ours_is_named(tmp_path: Path, name: str, kind: str) -> None:
    wanted = tmp_path / f"{name}.py"
    if kind == "file":
        wanted.write_text("")
    else:
        wanted = tmp_path / name
        wanted.mkdir()
        if kind == "package":
            wanted = wanted / "__init__.py"
            wanted.write_text("")
    said = python("import vallet", tmp_path, status=0 if kind == "folder" else 1)
    # A folder without __init__.py is found only if there is no package of that name.
    assert (f"ImportError: {wanted} has the name of a package that vallet needs, {name}" in said) == (kind != "folder")


def test_a_module_that_is_imported_already_is_named(tmp_path: Path) -> None:
    code = """
        import sys, types
        sys.path.insert(0, "other")
        import utils
        try:
            import vallet
        except ImportError as error:
            print(error)
        sys.modules["utils"] = types.ModuleType("utils")
        try:
            import vallet
        except ImportError as error:
            print(error)
    """
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "utils.py").write_text("")
    first, second = python(textwrap.dedent(code), tmp_path).splitlines()
    assert first.startswith("other/utils.py has the name") or str(tmp_path / "other" / "utils.py") in first
    assert "utils" in second


def test_all_packages_are_checked() -> None:
    code = (
        f"import sys, vallet; vallet.load; print(*sorted({{name.split('.')[0] for name in sys.modules}} & {set(OURS)}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == sorted({*PACKAGES, "vallet"})


def test_the_import_alone_does_not_wait_for_torch() -> None:
    code = "import sys, vallet; print('torch' in sys.modules, *(hasattr(vallet, name) for name in vallet.__all__))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", *["True"] * 4]
    with pytest.raises(AttributeError, match="has no attribute 'lode'"):
        vallet.lode  # noqa: B018


OURS = [path.parent.name for path in ROOT.glob("*/__init__.py")]
