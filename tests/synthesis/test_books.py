"""A text file of any length: the same bytes however often it was killed, and memory that does not grow."""

import os
import signal
import tracemalloc
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

import synthesis.books
from synthesis.books import synthesize_book
from synthesis.long_texts import LongText
from synthesis.results import read_results, synthesize_list
from synthesis.synthesizer import Request, Speech, Synthesizer
from synthesis.test_lists import ListItem
from tests.support.long_texts import RATE, TEXT, build_speaker
from utils.audio import append_audio, write_audio
from utils.errors import UserError
from utils.files import file_lock

# The steps that change files, in the order of a run, and which call of each is the last one in a test.
STEPS = {"append_audio": 2, "_append": 1, "_save": 3, "free_name": 1, "result_row": 1, "write_results": 1}


@pytest.fixture
def prompt(tmp_path: Path) -> Path:
    write_audio(tmp_path / "prompt.wav", 0.5 * torch.rand(RATE) - 0.25, RATE)
    return tmp_path / "prompt.wav"


@pytest.fixture
def speak_book(codec, prompt: Path) -> Callable[..., int]:
    """Synthesizes a text into a folder, with two parts in a batch."""

    def run(folder: Path, said: str = TEXT, model_id: str = "a", **infer: Any) -> int:
        synthesizer = build_speaker(codec, **{"max_batch_size": 2, **infer})
        return synthesize_book(
            synthesizer, ListItem("single/book", said, "a dog barks", prompt), folder, False, model_id
        )

    return run


def outputs(folder: Path) -> tuple[dict[str, bytes], list[dict]]:
    """All audio files by name, and the rows without times."""
    rows = read_results(folder / "results.jsonl")
    for row in rows:
        for timed in (row, *row["parts"]):
            timed.pop("real_time_factor")
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*.wav"))}, rows


def killed(run: Callable[[], Any], step: str, count: int, after: bool) -> bool:
    """Whether a child that runs is killed as it should be: before or after its call number `count` of a step."""
    child = os.fork()
    if child == 0:
        calls = []
        original = getattr(synthesis.books, step)

        def deadly(*given: Any) -> Any:
            calls.append(step)
            if len(calls) == count and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = original(*given)
            if len(calls) == count:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(synthesis.books, step, deadly)
        try:
            run()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("context", ["prompt", "previous"])
def test_killed_at_any_step_and_run_again_it_gives_the_same_bytes(
    speak_book: Callable[..., int], tmp_path: Path, context: str
) -> None:
    status = speak_book(tmp_path / "undisturbed", context=context)
    audio, rows = outputs(tmp_path / "undisturbed")
    assert audio.keys() == {"book.wav"} and len(rows[0]["parts"]) > 5
    for step, count in STEPS.items():
        for after in (False, True):
            folder = tmp_path / f"{step}_{after}"
            assert killed(lambda: speak_book(folder, context=context), step, count, after)  # noqa: B023
            assert speak_book(folder, context=context) == status
            assert outputs(folder) == (audio, rows)
            assert sorted(path.name for path in folder.rglob("*")) == ["book.wav", "results.jsonl", "single"]


def test_it_goes_on_after_the_last_complete_batch(
    speak_book: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert killed(lambda: speak_book(tmp_path / "out"), "append_audio", 3, after=True)
    [folder] = (tmp_path / "out" / "single").iterdir()
    # What is complete can be listened to.
    before, _ = soundfile.read(folder / "audio.wav")
    said: list[str] = []
    synthesize = Synthesizer.synthesize

    def noted(self: Synthesizer, requests: Sequence[Request], **others: Any) -> list[Speech | UserError]:
        said.extend(request.text for request in requests)
        return synthesize(self, requests, **others)

    monkeypatch.setattr(Synthesizer, "synthesize", noted)
    speak_book(tmp_path / "out")
    [row] = read_results(tmp_path / "out" / "results.jsonl")
    texts = [part["text"] for part in row["parts"]]
    assert said == texts[4:] and len(texts) > 5
    after, _ = soundfile.read(tmp_path / "out" / "single" / "book.wav")
    assert len(after) > len(before) > 0 and (after[: len(before)] == before).all()


def test_another_text_or_model_begins_anew(speak_book: Callable[..., int], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert killed(lambda: speak_book(out), "_save", 2, after=True)
    speak_book(out, TEXT[:100])
    speak_book(out, model_id="b")
    audio, rows = outputs(out)
    # The interrupted run is still there, and nothing was replaced.
    assert sorted(audio) == ["audio.wav", "book.wav", "book_2.wav"]
    assert [row["text"] for row in rows] == [TEXT[:100], TEXT]
    speak_book(out)
    assert sorted(outputs(out)[0]) == ["book.wav", "book_2.wav", "book_3.wav"]
    assert outputs(out)[0]["book_2.wav"] == outputs(out)[0]["book_3.wav"]


def test_a_file_is_as_the_text_on_the_command_line(
    speak_book: Callable[..., int], codec, prompt, tmp_path: Path
) -> None:
    for said in (TEXT, "so it was."):
        speak_book(tmp_path / "file", said)
        synthesize_list(
            build_speaker(codec), [ListItem("a", said, "a dog barks", prompt)], tmp_path / "a", False, False, True
        )
        name = "book" if said == TEXT else "book_2"
        assert (tmp_path / "file" / "single" / f"{name}.wav").read_bytes() == (tmp_path / "a" / "a.wav").read_bytes()


def test_memory_does_not_grow_with_the_text(
    speak_book: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the audio one batch at a time is alive, and Python's memory is that of a batch and of the parts' rows."""
    alive: list[weakref.ref] = []
    most = 0
    original = LongText.add

    def noted(self: LongText, speech: Speech) -> Any:
        nonlocal most
        audio, row = original(self, speech)
        alive.extend((weakref.ref(speech), weakref.ref(audio)))
        most = max(most, sum(one() is not None for one in alive))
        return audio, row

    monkeypatch.setattr(LongText, "add", noted)
    peaks = []
    for num in (20, 200):
        said = "\n\n".join(f"so it was {'a' * (index % 7)}." for index in range(num))
        tracemalloc.start()
        speak_book(tmp_path / str(num), said, max_batch_size=4, max_tries=1, min_seconds=0.1, slack_seconds=0.1)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(read_results(tmp_path / str(num) / "results.jsonl")[0]["parts"]) == num
    # Each part has its speech and its samples; those of the batch before may still be there.
    assert 8 <= most <= 16
    # Ten times the text; rows and parts are small beside one batch.
    assert peaks[1] < 1.3 * peaks[0]


def test_a_text_that_no_file_can_hold_is_refused(
    speak_book: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthesis.books, "MAX_WAV_SAMPLES", RATE)
    with pytest.raises(UserError, match=r"the text is about 0 h of speech, and a WAV file holds 0 h; divide the text"):
        speak_book(tmp_path)


def test_two_processes_do_not_write_one_book(speak_book: Callable[..., int], tmp_path: Path) -> None:
    assert killed(lambda: speak_book(tmp_path), "_save", 1, after=True)
    [folder] = (tmp_path / "single").iterdir()
    with file_lock(folder / ".lock"), pytest.raises(UserError, match=r"partial is in use by process \d+"):
        speak_book(tmp_path)


def test_appended_audio_is_as_written_at_once(tmp_path: Path) -> None:
    audio = 2.4 * torch.rand(10000) - 1.2
    write_audio(tmp_path / "wanted.wav", audio, RATE)
    append_audio(tmp_path / "a.wav", audio[:7000], RATE, 0)
    # What follows the first 4000 samples is replaced.
    append_audio(tmp_path / "a.wav", audio[4000:9000], RATE, 4000)
    append_audio(tmp_path / "a.wav", audio[9000:9000], RATE, 9000)
    append_audio(tmp_path / "a.wav", audio[9000:], RATE, 9000)
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "wanted.wav").read_bytes()
