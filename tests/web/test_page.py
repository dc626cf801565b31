"""The page through its HTTP API, and its event handlers."""

import io
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
import soundfile
from fastapi import FastAPI
from fastapi.testclient import TestClient
from gradio_client import Client, handle_file
from gradio_client.client import Job
from gradio_client.exceptions import AppError
from PIL import Image

from config.schema import InferSettings
from models.contract import Generation
from models.valle.valle import VALLE
from synthesis.load import load_experiment
from synthesis.queue import SynthesisQueue
from synthesis.synthesizer import Request, Synthesizer
from synthesis.voices import Voice, read_voice, write_voice
from tests.conftest import free_port, tiny_infer
from tests.support.pair import Trained
from utils.audio import write_audio
from utils.log import log
from utils.prompts import prepare_prompt
from web.experiments import ExperimentList
from web.layout import build_page
from web.page import RECORDING, Page, Remembered, SpokenResult, sampling_fields

TEXT = "Early birds often find small green apples."
SAMPLING = {"top_k": 20, "top_p": 0.9, "temperature": 0.8, "seed": 7, "speed": 1.0}


@pytest.fixture(scope="module")
def copy(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A copy with a second experiment, for a test to remove."""
    own = Trained(Path(shutil.copytree(trained.folder, tmp_path_factory.mktemp("page") / "own")))
    own.give_word_times()
    shutil.copytree(own.nar, own.log_dir / "removed")
    return own


@pytest.fixture(scope="module")
def page(copy: Trained, tmp_path_factory: pytest.TempPathFactory) -> Page:
    queue = SynthesisQueue(lambda checkpoint: load_experiment(checkpoint.path, "")[0])
    folder = tmp_path_factory.mktemp("gradio")
    return Page(queue, ExperimentList(copy.log_dir, copy.nar), lambda experiment: experiment.settings().infer, folder)


@pytest.fixture(scope="module")
def addresses() -> Iterator[set[str]]:
    """All addresses that this process connects to."""
    reached: set[str] = set()
    connect = socket.socket.connect

    def noted(self: socket.socket, address: Any) -> None:
        reached.add(str(address[0]))
        connect(self, address)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(socket.socket, "connect", noted)
        yield reached


@pytest.fixture(scope="module")
def client(page: Page, addresses: set[str]) -> Iterator[Client]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("GRADIO_TEMP_DIR", str(page.folder))
        blocks = build_page(page)
        page.queue.start()
        _, url, _ = blocks.launch(server_port=free_port(), prevent_thread_lock=True, quiet=True, ssr_mode=False)
        yield Client(url, verbose=False, analytics_enabled=False)
        blocks.close(verbose=False)
        page.queue.close()


@pytest.fixture
def fields(trained: Trained) -> dict[str, Any]:
    audio, prompt_text = trained.prompt()
    return {
        "text": TEXT,
        "prompt_audio": handle_file(str(audio)),
        "prompt_text": prompt_text,
        "voice": "",
        "experiment": "nar",
        "play": False,
        **SAMPLING,
    }


@pytest.fixture(autouse=True)
def voices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the server's user."""
    monkeypatch.setenv("VALLET_VOICES", str(tmp_path / "voices"))
    return tmp_path / "voices"


def test_the_page_gives_the_speech_of_stage_3(
    client: Client, fields: dict[str, Any], trained: Trained, synthesizer: Synthesizer, tmp_path: Path
) -> None:
    audio, picture, line, player = client.predict(**fields, api_name="/speak")
    prompt_audio, prompt_text = trained.prompt()
    request = Request(TEXT, prompt_text, prepare_prompt(prompt_audio, prompt_text, 24000).audio)
    [speech] = synthesizer.with_settings(**SAMPLING).synthesize([request])
    write_audio(tmp_path / "wanted.wav", speech.audio, 24000)
    assert Path(audio).read_bytes() == (tmp_path / "wanted.wav").read_bytes()
    assert re.fullmatch(r"nar_\d{6}\.wav", Path(audio).name)
    assert np.asarray(Image.open(picture)).std() > 20
    assert line.startswith(f"{speech.seconds:.2f} s; ") and "; seed 7" in line and not player
    again, *_ = client.predict(**fields, api_name="/speak")
    other, *_ = client.predict(**{**fields, "seed": 8}, api_name="/speak")
    assert Path(again).read_bytes() == Path(audio).read_bytes() != Path(other).read_bytes()


def test_fields_that_are_left_out_have_the_values_of_the_experiment(client: Client, fields: dict[str, Any]) -> None:
    given = {name: fields[name] for name in ("text", "prompt_audio", "prompt_text")}
    _, _, line, _ = client.predict(**given, api_name="/speak")
    assert "; seed 0" in line


def test_requests_of_several_users_form_a_batch(
    client: Client, page: Page, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    speak, has_begun, is_free = Synthesizer.synthesize, threading.Event(), threading.Event()

    def noted(self: Synthesizer, requests: list[Request], **others: Any) -> list:
        has_begun.set()
        is_free.wait(300)
        sizes.append(len(requests))
        return speak(self, requests, **others)

    monkeypatch.setattr(Synthesizer, "synthesize", noted)

    def submit(number: str) -> Job:
        return client.submit(**{**fields, "text": f"{TEXT} {number}"}, api_name="/speak")

    jobs = [submit("a")]
    assert has_begun.wait(300)
    jobs += map(submit, "bcd")
    deadline = time.monotonic() + 60
    while len(page.queue._waiting) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    is_free.set()
    results = [job.result(60) for job in jobs]
    assert sizes == [1, 3]
    assert all(len(soundfile.read(audio)[0]) for audio, *_ in results)


def test_a_short_text_does_not_wait_for_the_long_text_of_another_user(
    client: Client, page: Page, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The long text pauses for it, shows its parts, and only its own user can cancel it."""
    long = "\n\n".join(f"{TEXT} {number}" for number in range(20))
    shown: set[str] = set()
    progress, speak = gr.Progress.__call__, Synthesizer.synthesize
    sizes: list[int] = []
    has_two_users, is_cancelled = threading.Event(), threading.Event()

    def noted_progress(self: gr.Progress, *given: Any, desc: str, **others: Any) -> Any:
        shown.add(desc)
        return progress(self, *given, desc=desc, **others)

    def noted(self: Synthesizer, requests: list[Request], **others: Any) -> list:
        sizes.append(len(requests))
        # The second batch of the long text waits for the other user, and the last one for the cancellation.
        if len(sizes) == 2:
            has_two_users.wait(300)
        elif len(sizes) == 4:
            is_cancelled.wait(300)
        return speak(self, requests, **others)

    other = Client(client.src, verbose=False, analytics_enabled=False)
    alone = client.predict(**fields, api_name="/speak")[0]
    monkeypatch.setattr(gr.Progress, "__call__", noted_progress)
    monkeypatch.setattr(Synthesizer, "synthesize", noted)
    job = client.submit(**{**fields, "text": long}, api_name="/speak")
    wait_until(lambda: any(re.fullmatch(r"8 of 20 parts done, \d+\.\d s generated", state) for state in shown))
    short = other.submit(**fields, api_name="/speak")
    wait_until(lambda: len(page.queue._waiting) == 2)
    has_two_users.set()
    audio, _, line, _ = short.result(60)
    assert Path(audio).read_bytes() == Path(alone).read_bytes() and "parts" not in line
    [(owner, request)] = page.unfinished
    wait_until(lambda: len(sizes) == 4)
    assert owner == client.session_hash and len(request.parts) == 16
    other.predict(api_name="/cancel")
    assert not request.done.done()
    client.predict(api_name="/cancel")
    is_cancelled.set()
    with pytest.raises(AppError, match="The request was cancelled"):
        job.result(60)
    _, _, line, _ = client.predict(**{**fields, "text": f"{TEXT}\n\n{TEXT}"}, api_name="/speak")
    assert re.match(r"\d+\.\d\d s; 2 parts; ", line)
    assert sizes == [8, 8, 1, 4, 2]


def wait_until(is_there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_there():
        assert time.monotonic() < deadline
        time.sleep(0.01)


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "no text": ({"text": "  "}, "The text is empty; write it first"),
    "a long text": ({"text": "a " * 2048 + "b"}, "The text has 4097 characters; the limit is 4096"),
    "nothing to say": ({"text": "?!"}, "The text '?!' has nothing that can be spoken"),
    "markup": ({"text": "<>"}, "The text '&lt;&gt;' has nothing that can be spoken"),
    "no prompt": ({"prompt_audio": None}, "There is no prompt; upload or record"),
    "no prompt text": ({"prompt_text": ""}, "The recording's text is empty"),
    "a prompt text of marks": ({"prompt_text": "..."}, "The prompt's text '...' has nothing"),
    "no experiment": ({"experiment": None}, "There is no experiment"),
    "no seed": ({"seed": None}, "top-k, top-p, temperature, seed and speed each need a number"),
    "top_k below": ({"top_k": -1}, "-1 is less than minimum value 0"),
    "top_p above": ({"top_p": 1.1}, "1.1 is greater than maximum value 1"),
    "temperature of 0": ({"temperature": 0}, "0 is less than minimum value 0.1"),
    "no such voice": ({"voice": "nobody"}, "The voice: no voice 'nobody'; there are none"),
    "one without a NAR": ({"experiment": "ar"}, "There is no experiment ar; reload the page"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_a_message(client: Client, fields: dict[str, Any], mistake: str) -> None:
    changes, words = MISTAKES[mistake]
    with pytest.raises(AppError, match=f"(?i){re.escape(words)}"):
        client.predict(**{**fields, **changes}, api_name="/speak")


def test_a_bad_prompt_is_a_message(
    client: Client, fields: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "note.wav").write_text("This is not audio.")
    soundfile.write(tmp_path / "silent.wav", np.zeros(24000), 24000)
    for name, words in (("note.wav", "^note.wav: cannot be read as audio"), ("silent.wav", "^The prompt is silent")):
        with pytest.raises(AppError, match=words):
            client.predict(**{**fields, "prompt_audio": handle_file(str(tmp_path / name))}, api_name="/speak")
    assert "Traceback" not in capfd.readouterr().err


def test_failed_speech_is_a_message_and_not_shown(
    client: Client, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = VALLE.draft

    def cut_off(self: VALLE, *given: Any) -> list[Generation]:
        return [replace(found, stop_reason="cap") for found in draft(self, *given)]

    monkeypatch.setattr(VALLE, "draft", cut_off)
    with pytest.raises(AppError, match=r"^The speech did not end by itself.*\(each of 5 tries\)"):
        client.predict(**fields, api_name="/speak")


def test_an_experiment_that_was_removed_is_a_message(
    client: Client, page: Page, fields: dict[str, Any], copy: Trained
) -> None:
    assert page.list_experiments("removed")["value"] == "removed"
    shutil.rmtree(copy.log_dir / "removed")
    with pytest.raises(AppError, match="There is no experiment removed; reload the page"):
        client.predict(**{**fields, "experiment": "removed"}, api_name="/speak")
    update = page.list_experiments("removed")
    assert (update["choices"], update["value"]) == (["nar"], "nar")
    with pytest.raises(gr.Error, match="There is no experiment removed"):
        page.list_sampling("removed")
    assert [field["value"] for field in page.list_sampling("nar")] == [0, 1, 1, 0, 1]


def test_an_unexpected_error_is_one_line_and_in_the_log(
    client: Client, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(log, "propagate", True)
    monkeypatch.setattr("web.page.draw_speech", lambda *_: 1 / 0)
    with pytest.raises(AppError, match=r"^Something went wrong on the server; see its log$"):
        client.predict(**fields, api_name="/speak")
    assert "ZeroDivisionError" in caplog.text


def test_no_other_machine_was_contacted(client: Client, addresses: set[str]) -> None:
    assert addresses <= {"127.0.0.1", "localhost"} and addresses


def test_a_new_experiment_is_offered(client: Client, page: Page, fields: dict[str, Any], copy: Trained) -> None:
    shutil.copytree(copy.nar, copy.log_dir / "new")
    assert page.list_experiments("nar")["choices"] == ["nar", "new"]
    audio, *_ = client.predict(**{**fields, "experiment": "new"}, api_name="/speak")
    assert Path(audio).name.startswith("new_")


def test_the_history_is_short_and_newest_first(
    client: Client, page: Page, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.page._MAX_HISTORY", 2)
    audio, prompt_text = trained.prompt()
    history: list[Remembered] = []
    for number in range(4):
        fields = f"Birds {number}.", "", str(audio), prompt_text, "nar"
        *_, (*_, history) = page.speak(*fields, **SAMPLING, play=False, history=history)
    assert [entry.text for entry in history] == ["Birds 3.", "Birds 2."]
    assert all(entry.audio.is_file() for entry in history)


def test_a_saved_voice_speaks_as_its_recording(
    client: Client, page: Page, fields: dict[str, Any], trained: Trained, voices: Path
) -> None:
    audio, text = trained.prompt()
    update = page.save_voice(" anna ", "Anna  agreed.", "CC0", str(audio), text, "nar")
    assert (update["choices"], update["value"]) == ([(RECORDING, ""), ("anna", "anna")], "anna")
    saved = read_voice(voices / "anna.safetensors")
    assert (saved.text, saved.consent, saved.licence) == (text, "Anna agreed.", "CC0")
    [alone, by_voice] = (
        client.predict(**{**fields, **given}, api_name="/speak")[0]
        for given in ({}, {"voice": "anna", "prompt_audio": None, "prompt_text": ""})
    )
    assert Path(alone).read_bytes() == Path(by_voice).read_bytes()
    # The voice that is chosen counts, whatever the recording's fields still have.
    other = client.predict(**{**fields, "voice": "anna", "prompt_text": "Small."}, api_name="/speak")[0]
    assert Path(other).read_bytes() == Path(alone).read_bytes()


VOICE_MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "no name": ({"name": " "}, "The voice has no name"),
    "a path": ({"name": "../anna"}, "no name for a voice; take 1 to 64 letters"),
    "a name that is taken": ({"name": "ben"}, "There is a voice ben already; choose another name"),
    "no recording": ({"prompt_audio": None}, "There is no prompt; upload or record"),
    "no text": ({"prompt_text": " "}, "The recording's text is empty"),
    "a text of marks": ({"prompt_text": "..."}, "has nothing that can be spoken"),
    "control characters": ({"consent": "a\x00b"}, "consent: it has control characters"),
    "no experiment": ({"experiment": "ar"}, "There is no experiment ar"),
}


@pytest.mark.parametrize("mistake", VOICE_MISTAKES)
def test_a_voice_that_cannot_be_saved_is_a_message(
    client: Client, page: Page, trained: Trained, voices: Path, mistake: str
) -> None:
    changes, words = VOICE_MISTAKES[mistake]
    audio, text = trained.prompt()
    given = {"name": "anna", "consent": "", "licence": "", "prompt_audio": str(audio), "prompt_text": text}
    page.save_voice(**{**given, "name": "ben"}, experiment="nar")
    with pytest.raises(gr.Error, match=f"(?i){re.escape(words)}") as error:
        page.save_voice(**{**given, "experiment": "nar", **changes})
    assert str(voices) not in str(error.value)
    assert [path.name for path in voices.iterdir()] == ["ben.safetensors"] and not page.unfinished


def test_only_what_waits_for_speech_goes_through_the_queue_of_gradio(page: Page) -> None:
    # It closes a session's stream after the session's last event: a click at that moment would not be answered.
    events = build_page(page).config["dependencies"]
    assert len(events) >= 8 and [event["api_name"] for event in events if event["queue"]] == ["speak", "save_voice"]


def test_the_page_has_the_limit_of_the_server(page: Page) -> None:
    limited = replace(page, max_characters=50)
    fields = build_page(limited).blocks.values()
    most = {field.elem_id: field.max_length for field in fields if isinstance(field, gr.Textbox)}
    assert most["text"] == most["prompt_text"] == 50
    with pytest.raises(gr.Error, match="The text has 51 characters; the limit is 50"):
        next(limited.speak("a" * 51, "", None, "", "nar", *SAMPLING.values(), False, []))


def test_voices_of_other_codecs_are_not_choices(
    page: Page, synthesizer: Synthesizer, trained: Trained, voices: Path
) -> None:
    audio, text = trained.prompt()
    made = Voice.from_prompt(prepare_prompt(audio, text, 24000), synthesizer)
    for name, codec in (("anna", made.codec), ("ben", "another")):
        write_voice(made.model_copy(update={"codec": codec}), voices / f"{name}.safetensors")
    assert [name for _, name in page.list_voices("nar")["choices"]] == ["", "anna"]


def test_the_page_knows_the_pretrained_pair(page: Page, copy: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not page.is_pretrained("nar") and not page.is_pretrained(None)
    monkeypatch.setattr("web.page.PRETRAINED", copy.nar)
    assert page.is_pretrained("nar") and not page.is_pretrained("gone")


def test_the_default_voice_is_selected(page: Page, copy: Trained, synthesizer: Synthesizer, voices: Path) -> None:
    """That of the server, or else the first in the experiment's own folder, or else the recording."""
    assert page.list_voices("nar")["value"] == page.list_voices("none")["value"] == ""
    audio, text = copy.prompt()
    made = Voice.from_prompt(prepare_prompt(audio, text, 24000), synthesizer)
    write_voice(made, voices / "anna.safetensors")
    assert page.list_voices("nar")["value"] == ""
    own = copy.nar / "voices" / "own.safetensors"
    write_voice(made, own)
    try:
        assert page.list_voices("nar")["value"] == "own"
        assert [page.list_voices("nar", chosen)["value"] for chosen in ("", "anna", "gone")] == ["", "anna", "own"]
        assert replace(page, voice="anna").list_voices("nar")["value"] == "anna"
    finally:
        shutil.rmtree(own.parent)


def test_speech_is_played_while_more_is_made(client: Client, page: Page, trained: Trained) -> None:
    audio, prompt_text = trained.prompt()
    long = "\n\n".join(f"{TEXT} {number}" for number in range(12))
    app = FastAPI()
    page.live.mount(app)
    browser = TestClient(app)
    fields = long, "", str(audio), prompt_text, "nar"
    sources = []
    for outputs in page.speak(*fields, **SAMPLING, play=True, history=[]):
        player, result = outputs[3:5]
        if isinstance(player, str) and player:
            [source] = re.findall('src="([^"]+)"', player)
            sources.append((source, isinstance(result, SpokenResult)))
            mp3 = browser.get(f"/{source}")
            assert mp3.headers["content-type"] == "audio/mpeg"
    # The player came once, and only the last output has the result.
    assert len(sources) == 1 and isinstance(result, SpokenResult)
    samples, rate_hz = soundfile.read(io.BytesIO(mp3.content))
    whole, _ = soundfile.read(outputs[0])
    assert rate_hz == 24000 and len(samples) == pytest.approx(len(whole), abs=0.2 * rate_hz)
    assert browser.get(f"/{source}").content == mp3.content
    assert browser.get("/live/none.mp3").status_code == 404


def test_words_come_with_subtitles(client: Client, page: Page, trained: Trained) -> None:
    audio, prompt_text = trained.prompt()
    *_, (path, _, _, _, result, _) = page.speak(
        TEXT, "", str(audio), prompt_text, "nar", **SAMPLING, play=False, history=[]
    )
    assert [word["word"] for word in result.words] == TEXT.split() and len(result.notes) == len(result.words)
    assert [one.suffix for one in result.subtitles] == [".srt", ".vtt"]
    assert all(one.parent == path.parent and one.is_file() for one in result.subtitles)


def test_sampling_follows_the_experiment_and_the_schema() -> None:
    odd = tiny_infer(top_k=2000, top_p=0.01, temperature=3.0, seed=2**40)
    for infer in (tiny_infer(), odd):
        for name, field in zip(SAMPLING, sampling_fields(infer), strict=True):
            assert field["minimum"] <= field["value"] == getattr(infer, name) <= field["maximum"]
            for value in (field["minimum"], field["maximum"]):
                assert getattr(InferSettings(**{**infer.model_dump(), name: value}), name) == value
