"""The demo's check tells sentences apart, and its lists hold what it says they do."""

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

from processors.demo_corpus import VOICES, render, write_demo_corpus
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
    """What a good model would have made of the lines, or, shifted, of others: each voice, but faster and noisy."""
    noise = np.random.default_rng(0)
    (folder / "batch").mkdir(parents=True)
    for i, line in enumerate(lines):
        faster = replace(line.voice, words_per_minute=line.voice.words_per_minute + words_per_minute)
        audio = render(lines[(i + shift) % len(lines)].text, faster)
        audio += noise.normal(0, 0.03 * np.sqrt((audio**2).mean()), len(audio)).astype(np.float32)
        soundfile.write(folder / "batch" / f"{i + 1}_{line.audio_prompt.stem}.wav", audio, 24000)
    return folder


def test_the_check_hears_what_was_said_and_by_whom(
    demo: ModuleType, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = demo.held_out_lines(corpus)[::2]
    said, others = speak(tmp_path / "said", lines), speak(tmp_path / "others", lines, shift=7)
    assert demo.check(said, said, lines)
    assert not demo.check(others, said, lines)
    good, bad = re.findall(r"model +(\d+) % +(\d+) % +([\d.]+) dB", capsys.readouterr().out)
    assert int(good[0]) >= 95 and int(good[1]) >= 95
    # The text that was said instead is among the ten.
    assert int(bad[0]) == 0 and float(bad[2]) > 1.5 * float(good[2])
    # Right and yet far from what the codec could do.
    assert not demo.check(said, speak(tmp_path / "exact", lines, words_per_minute=1), lines)


def test_a_voice_that_is_not_kept_is_heard(demo: ModuleType, corpus: Path) -> None:
    line = demo.held_out_lines(corpus)[0]
    other = demo.hear(render(line.text, VOICES[1]), line, [line.text])
    assert (other.voice, other.text) == (VOICES[1], line.text)
    assert demo.hear(render(line.text, line.voice), line, [line.text]).distance_db < 0.5 < other.distance_db


def test_silence_and_a_missing_file_are_told(demo: ModuleType, corpus: Path, tmp_path: Path) -> None:
    lines = demo.held_out_lines(corpus)[:3]
    said = speak(tmp_path, lines)
    path = said / "batch" / f"3_{lines[2].audio_prompt.stem}.wav"
    soundfile.write(path, np.zeros(24000), 24000)
    with pytest.raises(UserError, match="silent"):
        demo.listen(said, lines)
    path.unlink()
    with pytest.raises(UserError, match="missing"):
        demo.listen(said, lines)


def test_lists_are_spread_over_the_voices_and_no_prompt_tells_the_text(
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


def test_a_part_is_done_once_and_not_mixed_with_other_settings(
    demo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "CONFIG", "egs/tts/VALLE/exp_config.json")
    notes, product, calls = tmp_path / "done.json", tmp_path / "product", []

    def work() -> None:
        product.mkdir(exist_ok=True)
        calls.append(1)
        if len(calls) == 1:
            raise UserError("interrupted")

    with pytest.raises(UserError, match="interrupted"):
        demo.Parts(notes).run("part", work, product)
    for _ in range(2):
        demo.Parts(notes).run("part", work, product)
    assert len(calls) == 2
    product.rmdir()
    demo.Parts(notes).run("part", work, product)
    assert len(calls) == 3
    assert "there already" in capsys.readouterr().out
    monkeypatch.setattr(demo, "CONFIG", "config/base.json")
    with pytest.raises(UserError, match="product"):
        demo.Parts(notes).run("part", work, product)
