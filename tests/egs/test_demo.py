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


def speak(folder: Path, lines: list) -> Path:
    """What a good model would have made of the lines: each voice, but faster, lower and noisy."""
    noise = np.random.default_rng(0)
    (folder / "batch").mkdir(parents=True)
    for i, line in enumerate(lines):
        other = replace(line.voice, words_per_minute=line.voice.words_per_minute + 25, pitch=line.voice.pitch // 2)
        audio = render(line.text, other)
        audio += noise.normal(0, 0.1 * np.sqrt((audio**2).mean()), len(audio)).astype(np.float32)
        soundfile.write(folder / "batch" / f"{i + 1}_{line.audio_prompt.stem}.wav", audio, 24000)
    return folder


def test_the_check_hears_what_was_said(
    demo: ModuleType, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = demo.held_out_lines(corpus)
    swapped = demo.swap_texts(lines)
    said, said_swapped = speak(tmp_path / "said", lines), speak(tmp_path / "swapped", swapped)
    assert demo.check([said, said_swapped], lines, swapped)
    numbers = r"sentences: (\d+) of 20.*swapped: (\d+) of 20.* asked, (\d+)"
    [(num_right, num_asked, num_former)] = re.findall(numbers, capsys.readouterr().out, re.DOTALL)
    assert int(num_right) >= 19
    assert int(num_asked) >= 19
    assert int(num_former) <= 1


def test_the_check_rejects_speech_that_does_not_follow_the_text_and_silence(
    demo: ModuleType, corpus: Path, tmp_path: Path
) -> None:
    lines = demo.held_out_lines(corpus)
    said = speak(tmp_path, lines)
    assert not demo.check([said, said], lines, demo.swap_texts(lines))
    path = said / "batch" / f"3_{lines[2].audio_prompt.stem}.wav"
    soundfile.write(path, np.zeros(24000), 24000)
    with pytest.raises(UserError, match="silent"):
        demo.listen(said, lines, lines)
    path.unlink()
    with pytest.raises(UserError, match="missing"):
        demo.listen(said, lines, lines)


def test_lists_are_spread_over_the_voices_and_no_prompt_tells_the_text(
    demo: ModuleType, corpus: Path, tmp_path: Path
) -> None:
    lines = demo.held_out_lines(corpus)
    assert len({line.text for line in lines}) == len(lines) == 20
    assert [line.voice for line in lines] == [voice for voice in VOICES for _ in range(2)]
    swapped = demo.swap_texts(lines)
    assert sorted(line.text for line in swapped) == sorted(line.text for line in lines)
    for line, other in zip(lines, swapped, strict=True):
        assert line.text != other.text
        assert line.text_prompt == other.text_prompt not in {row.text for row in lines}
        assert 2.5 <= soundfile.info(line.audio_prompt).duration <= 4
        assert line.audio_prompt.parts[-3] == line.voice.speaker
    demo.write_list(tmp_path / "list.txt", lines)
    text, text_prompt, audio = (tmp_path / "list.txt").read_text().splitlines()[4].split("|")
    assert (text, text_prompt) == (lines[4].text, lines[4].text_prompt)
    assert (demo.ROOT / audio).resolve() == lines[4].audio_prompt


def test_dtw_follows_a_stretched_sequence(demo: ModuleType) -> None:
    a = np.random.default_rng(0).normal(size=(30, 4))
    assert demo.dtw_cost(a, np.repeat(a, 2, axis=0)) < 1e-6
    assert demo.dtw_cost(a, a[::-1]) > 0.5
    assert demo.dtw_cost(a, a[::-1]) == pytest.approx(demo.dtw_cost(a[::-1], a))
    assert demo.dtw_cost(a[:1], a[1:3]) == pytest.approx(
        (2 * np.linalg.norm(a[0] - a[1]) + np.linalg.norm(a[0] - a[2])) / 3
    )


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
