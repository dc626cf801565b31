"""The HTTP API with OpenAI's client on loopback: formats, streams, many clients, mistakes, clients that leave."""

import base64
import io
import json
import re
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import soundfile

from synthesis.load import load_experiment
from synthesis.queue import SynthesisQueue
from synthesis.synthesizer import Synthesizer
from synthesis.voices import Voice, write_voice
from tests.support.disconnects import GOOD, LONG, PATH, TEXT, leave, num_open_files, served, use, wait_until
from tests.support.long_texts import speak
from tests.support.pair import Trained
from utils.audio import write_audio
from utils.log import log
from utils.prompts import prepare_prompt
from web.api import SpeechApi
from web.audio_formats import CONTENT_TYPES, AudioEncoder
from web.experiments import ExperimentList
from web.speech_response import ApiLimits, for_client


@pytest.fixture(scope="module")
def log_dir(trained: Trained, synthesizer: Synthesizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The experiments, one of them with voices: one of its codec, one of another, one that is damaged."""
    folder = Path(shutil.copytree(trained.log_dir, tmp_path_factory.mktemp("api") / "ckpts"))
    audio, text = trained.prompt()
    made = Voice.from_prompt(prepare_prompt(audio, text, synthesizer.codec.sample_rate_hz), synthesizer)
    write_voice(made, folder / "nar" / "voices" / "anna.safetensors")
    write_voice(made.model_copy(update={"codec": "x"}), folder / "nar" / "voices" / "ben.safetensors")
    (folder / "nar" / "voices" / "carl.safetensors").write_text("nothing")
    return folder


def new_api(log_dir: Path, **changes: Any) -> SpeechApi:
    queue = SynthesisQueue(lambda checkpoint: load_experiment(checkpoint.path, "")[0])
    return SpeechApi(
        queue, ExperimentList(log_dir, log_dir / "nar"), lambda experiment: experiment.settings().infer, **changes
    )


@pytest.fixture(scope="module")
def api(log_dir: Path) -> SpeechApi:
    return new_api(log_dir, limits=ApiLimits(max_characters=500, max_waiting=10, max_seconds=300))


@pytest.fixture(scope="module")
def url(api: SpeechApi) -> Iterator[str]:
    with served(api) as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=600)


def decoded(content: bytes, file_format: str) -> np.ndarray:
    if file_format == "pcm":
        return np.frombuffer(content, "<i2") / 32768
    return soundfile.read(io.BytesIO(content))[0]


@pytest.fixture(scope="module")
def wanted(trained: Trained, synthesizer: Synthesizer) -> dict[str, np.ndarray]:
    """The speech of stage 3."""
    audio, prompt_text = trained.prompt()
    prompt = prepare_prompt(audio, prompt_text, synthesizer.codec.sample_rate_hz)
    return {text: speak(synthesizer, text, prompt)[1].clamp(-1, 1).numpy() for text in (TEXT, LONG)}


@pytest.mark.parametrize("text", [TEXT, LONG], ids=["one part", "parts"])
@pytest.mark.parametrize("file_format", CONTENT_TYPES)
def test_each_format_streamed_and_not(
    client: openai.OpenAI, wanted: dict[str, np.ndarray], file_format: str, text: str
) -> None:
    given: dict[str, Any] = {"model": "tts-1", "voice": "anna", "input": text, "response_format": file_format}
    whole = client.audio.speech.create(**given)
    assert whole.response.headers["content-type"] == CONTENT_TYPES[file_format]
    with client.audio.speech.with_streaming_response.create(**given, stream_format="audio") as response:
        streamed = b"".join(response.iter_bytes())
    with client.audio.speech.with_streaming_response.create(**given, stream_format="sse") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = [json.loads(line.removeprefix("data: ")) for line in response.iter_lines() if line]
    assert [event["type"] for event in events[:-1]] == ["speech.audio.delta"] * (len(events) - 1)
    usage = events[-1]["usage"]
    assert events[-1]["type"] == "speech.audio.done"
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] > 0
    assert b"".join(base64.b64decode(event["audio"]) for event in events[:-1]) == streamed
    for content in (whole.content, streamed):
        found, true = decoded(content, file_format), wanted[text]
        if file_format in ("mp3", "opus"):
            assert len(true) <= len(found) < len(true) + 4000
        elif content is whole.content or file_format == "flac":
            assert np.abs(found - true).max() <= 1 / 32768
        else:
            # Its first part comes in chunks.
            assert len(found) == len(true)
    if len(text) == len(TEXT):
        assert whole.response.headers["content-length"] == str(len(whole.content))


def test_a_wav_is_the_file_of_stage_3(
    client: openai.OpenAI, trained: Trained, synthesizer: Synthesizer, tmp_path: Path
) -> None:
    audio, prompt_text = trained.prompt()
    prompt = prepare_prompt(audio, prompt_text, synthesizer.codec.sample_rate_hz)
    _, samples, _ = speak(synthesizer.with_settings(seed=5), LONG, prompt)
    write_audio(tmp_path / "wanted.wav", samples, 24000)
    speech = client.audio.speech.create(
        model="nar", voice={"id": "anna"}, input=LONG, response_format="wav", extra_body={"seed": 5}
    )
    assert speech.content == (tmp_path / "wanted.wav").read_bytes()


def test_the_speed_is_that_of_the_settings(
    client: openai.OpenAI, trained: Trained, synthesizer: Synthesizer, tmp_path: Path
) -> None:
    audio, prompt_text = trained.prompt()
    prompt = prepare_prompt(audio, prompt_text, synthesizer.codec.sample_rate_hz)
    _, samples, _ = speak(synthesizer.with_settings(speed=1.25), TEXT, prompt)
    write_audio(tmp_path / "wanted.wav", samples, 24000)
    given: dict[str, Any] = {"model": "nar", "voice": "anna", "input": TEXT, "response_format": "wav"}
    assert client.audio.speech.create(**given, speed=1.25).content == (tmp_path / "wanted.wav").read_bytes()


@pytest.mark.parametrize("file_format", ["wav", "opus", "mp3"])
def test_eight_clients_at_once_get_the_bytes_of_one_by_one(client: openai.OpenAI, file_format: str) -> None:
    texts = [TEXT, LONG, "Small.", "Trees near rivers.", TEXT, f"Green apples.\n\n{TEXT}", "Tall trees.", LONG]

    def say(number: int) -> bytes:
        return client.audio.speech.create(
            model="nar", voice="anna", input=texts[number], response_format=file_format, extra_body={"seed": number}
        ).content

    alone = [say(number) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(say, range(8))) == alone


def test_the_first_part_comes_before_the_text_is_done(
    client: openai.OpenAI, api: SpeechApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_free = threading.Event()
    parts: list[int] = []
    synthesize = Synthesizer.synthesize

    def noted(self: Synthesizer, requests: list, **others: Any) -> list:
        if parts:
            assert is_free.wait(300)
        parts.append(len(requests))
        return synthesize(self, requests, **others)

    monkeypatch.setattr(Synthesizer, "synthesize", noted)
    given: dict[str, Any] = {"model": "nar", "voice": "anna", "input": LONG, "response_format": "pcm"}
    with client.audio.speech.with_streaming_response.create(**given) as response:
        blocks = response.iter_bytes()
        first = next(blocks)
        assert len(first) and parts == [1] and len(api.queue) == 1
        is_free.set()
        rest = b"".join(blocks)
    assert parts == [1, 1, 1] and first + rest == client.audio.speech.create(**given).content


def test_models_voices_health_and_metrics(client: openai.OpenAI, url: str) -> None:
    client.audio.speech.create(model="nar", voice="anna", input=TEXT)
    assert [model.id for model in client.models.list()] == ["nar"] and client.models.retrieve("nar").id == "nar"
    voices = httpx.get(f"{url}/v1/audio/voices").json()["voices"]
    # The damaged one and that of another codec are left out.
    assert [(row["id"], row["language"]) for row in voices] == [("anna", "en-us")]
    assert httpx.get(f"{url}/health").json() == {"status": "ok"}
    metrics = httpx.get(f"{url}/metrics").text
    for pattern in (
        r'vallet_speech_requests_total\{status="200"\} [1-9]',
        r"vallet_first_audio_seconds_count [1-9]",
        r"vallet_queued_requests 0\.0",
        r"vallet_audio_seconds_total [0-9.]+",
        r"process_resident_memory_bytes [0-9.e+]+",
    ):
        assert re.search(pattern, metrics), pattern


MISTAKES: dict[str, tuple[Any, int, str | None, str]] = {
    "no JSON": (b"{", 400, None, "Invalid JSON"),
    "nothing": (b"", 400, None, "Invalid JSON"),
    "a list": ([], 400, None, "should be"),
    "no UTF-8": (b'{"input": "\xff"}', 400, None, "Invalid JSON"),
    "half a character": (b'{"input": "\\ud800", "voice": "anna"}', 400, None, "Invalid JSON"),
    "deep": (b"[" * 10000, 400, None, "Invalid JSON"),
    "no input": ({"model": "nar", "voice": "anna"}, 400, "input", "input: Field required"),
    "an empty input": ({**GOOD, "input": " \n"}, 400, "input", "the text is empty"),
    "a number": ({**GOOD, "input": 3}, 400, "input", "valid string"),
    "a long input": ({**GOOD, "input": "a" * 501}, 400, "input", "has 501 characters; the limit is 500"),
    "marks": ({**GOOD, "input": "?!"}, 400, "input", "input: the text '?!' has nothing that can be spoken"),
    "another script": ({**GOOD, "input": "Привет"}, 400, "input", "input: the text has letters that cannot be read"),
    "a wrong pause": ({**GOOD, "input": "Hi [pause 99 s] you"}, 400, "input", "input: the text: [pause 99 s] takes a"),
    "an untrained language": ({**GOOD, "input": "[language zh] Hi"}, 400, "input", "input: the experiment was not"),
    "a tag inside": ({**GOOD, "input": "Hi [language zh] you"}, 400, "input", "input: [language zh]: a text begins"),
    "an unknown field": ({**GOOD, "pitch": 1}, 400, "pitch", "pitch: Extra inputs"),
    "an unknown model": ({**GOOD, "model": "none"}, 404, "model", "there is no model 'none'"),
    "an unknown voice": ({**GOOD, "voice": "nobody"}, 400, "voice", "voice: no voice 'nobody'; there are anna; bins"),
    "a voice of OpenAI": ({**GOOD, "voice": "alloy"}, 400, "voice", "no voice 'alloy'; there are anna; bins/voices.py"),
    "a path": ({**GOOD, "voice": "../../x.safetensors"}, 400, "voice", "no voice"),
    "a damaged voice": ({**GOOD, "voice": "carl"}, 400, "voice", "voice: carl: not a voice, or damaged"),
    "another codec": ({**GOOD, "voice": "ben"}, 400, "voice", "voice: ben: the voice was made with another codec"),
    "an unknown format": ({**GOOD, "response_format": "aac"}, 400, "response_format", "'wav', 'flac', 'mp3'"),
    "an unknown stream": ({**GOOD, "stream_format": "x"}, 400, "stream_format", "'audio' or 'sse'"),
    "a high speed": ({**GOOD, "speed": 2.5}, 400, "speed", "less than or equal to 2"),
    "no speed": ({**GOOD, "speed": "fast"}, 400, "speed", "valid number"),
    "an infinite speed": (json.dumps({**GOOD, "speed": float("inf")}).encode(), 400, "speed", ""),
    "instructions": ({**GOOD, "instructions": "whisper"}, 400, "instructions", "not supported"),
    "sampling": ({**GOOD, "top_p": 2.0}, 400, "top_p", "less than or equal to 1"),
    "a large body": (b" " * 100_000, 413, "input", "send a shorter text"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_malformed_body_is_an_error_in_openais_shape(
    url: str, mistake: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As programs of ours do, the package's logger sends nothing on to the root's.
    monkeypatch.setattr(log, "propagate", True)
    body, status, param, words = MISTAKES[mistake]
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    found = httpx.post(url + PATH, content=content, headers={"Content-Type": "application/json"}, timeout=300)
    error = found.json()["error"]
    assert (found.status_code, error["param"], error.keys()) == (status, param, {"message", "type", "param", "code"})
    assert words in error["message"] and len(error["message"].splitlines()) == 1
    assert error["param"] is None or error["message"].startswith(f"{error['param']}: ") or status == 413
    assert not re.search(r"\b(infer|preprocess|train)\.", error["message"])
    # The log has no text, not even a letter of one.
    text = body.get("input") if isinstance(body, dict) else None
    for found_line in caplog.messages if isinstance(text, str) else ():
        assert not text.strip() or text not in found_line, found_line
        assert not re.search("CYRILLIC|pause|language", found_line), found_line
    assert error["type"] == ("not_found_error" if status == 404 else "invalid_request_error")


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (
            "it is silent (1 try); choose another seed or prompt, or raise infer.max_tries",
            "; choose another seed or prompt",
        ),
        (
            "out of memory; lower infer.max_batch_size (8), or synthesize shorter texts",
            "memory; synthesize shorter texts",
        ),
        ("take a longer prompt, or raise infer.continual_prompt_seconds", "take a longer prompt"),
    ],
)
def test_clients_get_no_advice_on_settings(message: str, shown: str) -> None:
    assert for_client(message).endswith(shown)


def test_values_that_are_null_are_left_out(client: openai.OpenAI) -> None:
    names = ("response_format", "speed", "stream_format", "instructions", "seed", "top_k", "top_p", "temperature")
    given: dict[str, Any] = {"model": "", "voice": "anna", "input": TEXT}
    speech = client.audio.speech.create(**given, extra_body=dict.fromkeys(names))
    assert speech.content == client.audio.speech.create(**given, speed=1).content


def test_other_requests_are_errors_in_openais_shape(url: str, client: openai.OpenAI) -> None:
    for found, status in (
        (httpx.get(url + PATH), 404),
        (httpx.get(f"{url}/v1/none"), 404),
        (httpx.get(f"{url}/none"), 404),
        (httpx.post(f"{url}/health"), 405),
        (httpx.get(f"{url}/v1/models/none"), 404),
        (httpx.get(f"{url}/v1/audio/voices?model=none"), 404),
        (httpx.post(url + PATH, content=json.dumps(GOOD)), 415),
    ):
        assert found.status_code == status and found.json()["error"]["message"], found.url
    # As the client understands them.
    with pytest.raises(openai.BadRequestError, match="there are anna;") as raised:
        client.audio.speech.create(**{**GOOD, "voice": "nobody"})
    assert (raised.value.code, raised.value.param) == ("voice_not_found", "voice")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("none")


def test_a_key_is_needed_if_there_is_one(log_dir: Path) -> None:
    with served(new_api(log_dir, api_key="secret")) as url:
        for key in ("", "wrong", "secre"):
            with pytest.raises(openai.AuthenticationError, match="API key is missing or wrong"):
                openai.OpenAI(base_url=f"{url}/v1", api_key=key or "none", max_retries=0).models.list()
        assert httpx.get(f"{url}/v1/none").status_code == 401 and httpx.get(f"{url}/health").status_code == 200
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="secret", max_retries=0)
        assert [model.id for model in client.models.list()] == ["nar"]


def hold(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Let synthesis wait for an event."""
    is_free, synthesize = threading.Event(), Synthesizer.synthesize

    def waiting(self: Synthesizer, *given: Any, **others: Any) -> list:
        is_free.wait(300)
        return synthesize(self, *given, **others)

    monkeypatch.setattr(Synthesizer, "synthesize", waiting)
    return is_free


def test_a_full_queue_a_time_limit_and_a_drain(log_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = new_api(log_dir, limits=ApiLimits(max_waiting=1, max_seconds=60))
    with served(api) as url, ThreadPoolExecutor(1) as pool:
        is_free = hold(monkeypatch)
        first = pool.submit(httpx.post, url + PATH, json=GOOD, timeout=300)
        wait_until(lambda: len(api.queue) == 1)
        full = httpx.post(url + PATH, json=GOOD)
        assert (full.status_code, full.json()["error"]["code"]) == (503, "queue_full")
        assert full.headers["retry-after"] == "1"
        api.queue.drain()
        refused = httpx.post(url + PATH, json=GOOD)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
        assert httpx.get(f"{url}/health").status_code == 503
        # What was accepted is finished.
        is_free.set()
        assert first.result(300).status_code == 200 and len(first.result().content) > 100
        api.queue.is_draining = False
        api.limits = ApiLimits(max_seconds=0.2)
        is_free = hold(monkeypatch)
        late = httpx.post(url + PATH, json=GOOD, timeout=300)
        assert (late.status_code, late.json()["error"]["code"]) == (504, "timeout") and len(api.queue) == 0
        is_free.set()


def test_failed_speech_is_an_error(log_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = new_api(log_dir)
    with served(api) as url:
        short = api.queue.load(api.checkpoint(None))
        short.frame_limits = lambda _: (1, 1)
        monkeypatch.setattr(short, "settings", short.settings.model_copy(update={"max_tries": 1}))
        found = httpx.post(url + PATH, json=GOOD, timeout=300)
        assert (found.status_code, found.json()["error"]["code"]) == (422, "speech_failed")
        message = found.json()["error"]["message"]
        assert message.startswith("input: the speech ") and message.endswith("choose another seed or prompt")
        monkeypatch.setattr(Synthesizer, "synthesize", lambda *given, **others: 1 / 0)
        found = httpx.post(url + PATH, json=GOOD, timeout=300)
        assert (found.status_code, found.json()["error"]["type"]) == (500, "server_error")
        assert "ZeroDivision" not in found.text


def test_a_client_that_leaves_frees_its_place(
    url: str, api: SpeechApi, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.audio.speech.create(**GOOD)
    is_free = hold(monkeypatch)
    thread = threading.Thread(target=leave, args=(url, GOOD, 1))
    thread.start()
    wait_until(lambda: len(api.queue) == 1)
    left = 'vallet_speech_requests_total{status="499"} '
    before = float((re.findall(f"{re.escape(left)}(.*)", httpx.get(f"{url}/metrics").text) or [0])[0])
    for _ in range(3):
        leave(url, {**GOOD, "input": LONG}, 0)
    # Only the one that still waits stays, though nothing was decoded.
    wait_until(lambda: f"{left}{before + 3}" in httpx.get(f"{url}/metrics").text)
    assert len(api.queue) == 1
    is_free.set()
    thread.join()
    monkeypatch.undo()
    wait_until(lambda: len(api.queue) == 0)


def test_random_disconnects_leave_nothing_behind(url: str, api: SpeechApi, client: openai.OpenAI) -> None:
    alone = client.audio.speech.create(**GOOD).content
    before, files_before = threading.active_count(), num_open_files()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda seed: use(url, seed), range(40)))
    wait_until(lambda: len(api.queue) == 0)
    assert client.audio.speech.create(**GOOD).content == alone
    # Nothing of the requests is left: no place in the queue, no open answer, and none of 40 connections.
    wait_until(lambda: len(api.queue) == api.metrics.num_open == 0 and num_open_files() <= files_before + 4, 60)
    # The server's pool of threads is bounded.
    assert threading.active_count() <= before + 12
    assert "vallet_queued_requests 0.0" in httpx.get(f"{url}/metrics").text


def test_the_encoder_is_that_of_the_endpoint(client: openai.OpenAI, trained: Trained, synthesizer: Synthesizer) -> None:
    audio, prompt_text = trained.prompt()
    prompt = prepare_prompt(audio, prompt_text, synthesizer.codec.sample_rate_hz)
    _, samples, _ = speak(synthesizer, TEXT, prompt)
    encoder = AudioEncoder("mp3", 24000, is_stream=False)
    assert encoder.add(samples) + encoder.finish() == client.audio.speech.create(**GOOD).content
