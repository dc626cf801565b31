"""The demo's check recognizes sentences and voices; its list, picture and steps are as documented."""

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
from matplotlib import pyplot
from torch.utils.tensorboard import SummaryWriter

from processors.demo_corpus import VOICES, write_demo_corpus
from processors.espeak_speech import render
from utils.errors import UserError


@pytest.fixture(scope="module")
def demo() -> Iterator[ModuleType]:
    folder = str(Path(__file__).parents[2] / "egs" / "tts" / "VALLE")
    sys.path.insert(0, folder)
    yield import_module("demo")
    sys.path.remove(folder)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "LibriTTS"
    write_demo_corpus(folder, minutes=1)
    return folder


def speak(folder: Path, lines: list, shift: int = 0, words_per_minute: int = 25) -> Path:
    """Write clips as a good model would: each voice, but faster and noisy; with `shift`, with other lines' texts."""
    noise = np.random.default_rng(0)
    (folder / "batch").mkdir(parents=True)
    for i, line in enumerate(lines):
        faster = replace(line.voice, words_per_minute=line.voice.words_per_minute + words_per_minute)
        audio = render(lines[(i + shift) % len(lines)].text, faster)
        audio += noise.normal(0, 0.03 * np.sqrt((audio**2).mean()), len(audio)).astype(np.float32)
        soundfile.write(folder / "batch" / f"{i + 1}_{line.audio_prompt.stem}.wav", audio, 24000)
    return folder


def test_the_check_recognizes_sentences_and_voices(
    demo: ModuleType, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # One line of each voice: as many as a clip is compared with.
    lines = demo.held_out_lines(corpus)[::4]
    assert len(lines) == demo.NUM_REFERENCES
    right, wrong, exact = (
        demo.match_clips(speak(tmp_path / name, lines, **changes), lines)
        for name, changes in (("right", {}), ("wrong", {"shift": 7}), ("exact", {"words_per_minute": 1}))
    )
    assert demo.check(right, right, lines)
    assert not demo.check(wrong, right, lines)
    good, bad = re.findall(r"model +(\d+) % +(\d+) % +([\d.]+) dB", capsys.readouterr().out)
    assert int(good[0]) >= 95 and int(good[1]) >= 95
    # The text of the other line is among the ten.
    assert int(bad[0]) == 0 and float(bad[2]) > 1.5 * float(good[2])
    # All sentences and voices are right, but the distance is too large compared with the codec's.
    assert not demo.check(right, exact, lines)


def test_another_voice_is_recognized(demo: ModuleType, corpus: Path) -> None:
    line = demo.held_out_lines(corpus)[0]
    other = demo.match(render(line.text, VOICES[1]), line, [line.text])
    assert (other.voice, other.text) == (VOICES[1], line.text)
    assert demo.match(render(line.text, line.voice), line, [line.text]).distance_db < 0.5 < other.distance_db


def test_silence_and_a_missing_file_are_errors(demo: ModuleType, corpus: Path, tmp_path: Path) -> None:
    [line, *_] = demo.held_out_lines(corpus)
    lines = [replace(line, audio_prompt=Path("prompt.wav"))]
    path = tmp_path / "batch" / "1_prompt.wav"
    path.parent.mkdir()
    soundfile.write(path, np.zeros(24000), 24000)
    with pytest.raises(UserError, match="silent"):
        demo.match_clips(tmp_path, lines)
    path.unlink()
    with pytest.raises(UserError, match="missing"):
        demo.match_clips(tmp_path, lines)


def test_the_list_has_all_voices_and_no_prompt_has_the_text_of_its_line(
    demo: ModuleType, corpus: Path, tmp_path: Path
) -> None:
    lines = demo.held_out_lines(corpus)
    assert len({line.text for line in lines}) == len(lines) == 4 * len(VOICES)
    assert [line.voice for line in lines] == [voice for voice in VOICES for _ in range(4)]
    for i, line in enumerate(lines):
        assert line.text_prompt != line.text
        assert 2.5 <= soundfile.info(line.audio_prompt).duration <= 4
        assert line.audio_prompt.parts[-3] == line.recording.parts[-3] == line.voice.speaker
        texts = {lines[(i + demo.STRIDE * k) % len(lines)].text for k in range(demo.NUM_REFERENCES)}
        assert len(texts) == demo.NUM_REFERENCES and line.text in texts
    demo.write_list(tmp_path / "list.txt", lines)
    row = (tmp_path / "list.txt").read_text().splitlines()[4].split("|")
    assert row[:2] == [lines[4].text, lines[4].text_prompt]
    assert [(demo.ROOT / path).resolve() for path in row[2:]] == [lines[4].audio_prompt, lines[4].recording]


def test_the_picture_has_both_trainings_and_both_spectrograms(demo: ModuleType, corpus: Path, tmp_path: Path) -> None:
    for name in ("ar", "nar"):
        with SummaryWriter(str(tmp_path / name / "log")) as writer:
            for step in range(5):
                writer.add_scalar("train/loss", 5 - step, step)
            writer.add_scalar("valid/loss", 2.0, 4)
    assert demo.losses(tmp_path / "ar") == {
        "training": [(step, 5.0 - step) for step in range(5)],
        "validation": [(4, 2.0)],
    }
    line = demo.held_out_lines(corpus)[0]
    demo.draw(tmp_path / "demo.png", [tmp_path / "ar", tmp_path / "nar"], line.recording, line)
    assert pyplot.imread(tmp_path / "demo.png").shape[:2] == (660, 1210)


def test_a_step_runs_once_and_is_not_mixed_with_other_settings(
    demo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "CONFIG", "egs/tts/VALLE/exp_config.json")
    done, product, calls = tmp_path / "done.json", tmp_path / "product", []

    def work() -> None:
        product.mkdir(exist_ok=True)
        calls.append(1)
        if len(calls) == 1:
            raise UserError("interrupted")

    with pytest.raises(UserError, match="interrupted"):
        demo.run_step(done, "step", work, product)
    for _ in range(2):
        demo.run_step(done, "step", work, product)
    assert len(calls) == 2
    product.rmdir()
    demo.run_step(done, "step", work, product)
    assert len(calls) == 3
    assert "step: complete, in" in capsys.readouterr().out
    monkeypatch.setattr(demo, "CONFIG", "config/base.json")
    with pytest.raises(UserError, match="product is of another version of the demo"):
        demo.run_step(done, "step", work, product)


def test_a_step_without_a_product_always_runs_and_keeps_the_time_of_its_first_run(
    demo: ModuleType, tmp_path: Path
) -> None:
    calls: list[int] = []
    demo.run_step(tmp_path / "done.json", "step", lambda: calls.append(1))
    notes = json.loads((tmp_path / "done.json").read_text())
    notes["step"]["seconds"] = 99.0
    (tmp_path / "done.json").write_text(json.dumps(notes))
    demo.run_step(tmp_path / "done.json", "step", lambda: calls.append(2))
    assert calls == [1, 2] and json.loads((tmp_path / "done.json").read_text()) == notes
