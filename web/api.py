"""The HTTP API: OpenAI's speech endpoint, with the queue of the page. Errors have OpenAI's shape."""

import asyncio
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from config.schema import InferSettings
from models.experiment import Experiment
from synthesis.queue import QueuedRequest, SynthesisQueue
from synthesis.voices import codec_of, default_voice, find_voice, load_prompt, usable_voices
from utils.checkpoint import Checkpoint, experiment_of
from utils.errors import UserError
from web.api_errors import ApiError, error_response
from web.api_metrics import ApiMetrics
from web.experiments import ExperimentList
from web.speech_response import CLIENT_LEFT, ApiLimits, SpeechResponse

# Names of OpenAI's own models, for clients that know no others.
OPENAI_MODELS = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")
_BODY_SECONDS = 30.0
# A text is at most that many bytes in JSON, where a character may take 12.
_BYTES_PER_CHARACTER = 12
_OTHER_BYTES = 16_384


class VoiceId(BaseModel):
    """The longer form of a voice's name."""

    model_config = ConfigDict(extra="forbid", strict=True)
    id: str


class SpeechBody(BaseModel):
    """The body of a request for speech. The last four fields are our own."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    input: str
    model: str | None = None
    voice: str | VoiceId | None = None
    response_format: Literal["wav", "flac", "mp3", "opus", "pcm"] | None = None
    speed: float | None = None
    stream_format: Literal["audio", "sse"] | None = None
    instructions: str | None = None
    seed: int | None = None
    top_k: int | None = None
    top_p: float | None = None
    temperature: float | None = None


@dataclass
class SpeechApi:
    """What the endpoints share. `own_settings` reads the infer section of an experiment.

    `voice` is the name of the voice for requests that name none.
    """

    queue: SynthesisQueue
    experiments: ExperimentList
    own_settings: Callable[[Experiment], InferSettings]
    limits: ApiLimits = field(default_factory=ApiLimits)
    api_key: str | None = None
    voice: str | None = None

    def __post_init__(self) -> None:
        self.metrics = ApiMetrics(self.queue)
        # Reading settings takes longer than the rest of a request's checks.
        self.settings = lru_cache(maxsize=64)(lambda checkpoint: self.own_settings(Experiment.of(checkpoint)))

    def check_key(self, request: Request) -> None:
        """Raises ApiError unless the request has the key, if there is one."""
        if not self.is_key(request.headers.get("authorization", "").removeprefix("Bearer ")):
            raise ApiError(401, "the API key is missing or wrong", code="invalid_api_key")

    def is_key(self, given: str) -> bool:
        return self.api_key is None or hmac.compare_digest(given.encode(), self.api_key.encode())

    async def read_body(self, request: Request) -> SpeechBody:
        """The checked body. Raises ApiError naming what is wrong."""
        # A page of another site cannot send this type without being asked first.
        if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
            raise ApiError(415, "the body must be JSON, with the header Content-Type: application/json")
        most = self.limits.max_characters * _BYTES_PER_CHARACTER + _OTHER_BYTES
        try:
            body = await asyncio.wait_for(_read(request, most), _BODY_SECONDS)
        except asyncio.TimeoutError:
            raise ApiError(408, f"the body did not arrive within {_BODY_SECONDS:g} s") from None
        try:
            return SpeechBody.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = str(first["loc"][0]) if first["loc"] else None
            message = first["msg"] if where is None else f"{where}: {first['msg']}"
            raise ApiError(400, message, where) from None

    def queued(self, body: SpeechBody) -> QueuedRequest:
        """The request for the queue. Raises ApiError naming the field that is wrong."""
        text = body.input.strip()
        if not text:
            raise ApiError(400, "input: the text is empty", "input")
        if len(text) > self.limits.max_characters:
            most = self.limits.max_characters
            raise ApiError(400, f"input: the text has {len(text)} characters; the limit is {most}", "input")
        if body.instructions:
            raise ApiError(400, "instructions: not supported; choose another voice", "instructions")
        checkpoint = self.checkpoint(body.model)
        try:
            voice = self.voice_file(body, checkpoint)
        except UserError as error:
            raise ApiError(400, str(error), "voice", "voice_not_found") from None
        given = body.model_dump(include={"speed", "seed", "top_k", "top_p", "temperature"})
        try:
            settings = self.settings(checkpoint).speech_settings(given)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            name = str(first["loc"][0])
            raise ApiError(400, f"{name}: {first['msg']}", name) from None
        return QueuedRequest(checkpoint, settings, text, partial(load_prompt, source=voice, text=""))

    def checkpoint(self, model: str | None) -> Checkpoint:
        """The checkpoint of a model's name; OpenAI's names, and none, stand for the first."""
        found = self.experiments.find()
        if not found:
            raise ApiError(503, "there is no model; train one", code="model_not_found")
        if not model or (model in OPENAI_MODELS and model not in found):
            return next(iter(found.values()))
        if model not in found:
            raise ApiError(404, f"model: there is no model {model!r}; see /v1/models", "model", "model_not_found")
        return found[model]

    def voice_file(self, body: SpeechBody, checkpoint: Checkpoint) -> Path:
        experiment = experiment_of(checkpoint)
        name = body.voice.id if isinstance(body.voice, VoiceId) else body.voice or self.voice
        return find_voice(name, experiment, "voice", codec_of(checkpoint)) if name else default_voice(experiment)

    def models(self) -> list[dict[str, Any]]:
        return [
            {"id": name, "object": "model", "created": _seconds(checkpoint.path), "owned_by": "vallet"}
            for name, checkpoint in self.experiments.find().items()
        ]

    def voices(self, model: str | None) -> list[dict[str, Any]]:
        """The voices that a model can use; damaged files are left out."""
        rows = []
        checkpoint = self.checkpoint(model)
        for name, voice in usable_voices(experiment_of(checkpoint), codec_of(checkpoint)).items():
            notes = {"language": voice.language, "consent": voice.consent, "licence": voice.licence}
            rows.append({"id": name, "name": name, "seconds": round(voice.seconds, 2), **notes})
        return rows


def _seconds(path: Path) -> int:
    try:
        return int(path.stat().st_mtime)
    except OSError:
        return 0


async def _read(request: Request, most: int) -> bytes:
    """The whole body. Raises ApiError if it has more bytes than `most`."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise ApiError(413, f"the body has more than {most} bytes; send a shorter text", "input")
    return bytes(body)


def build_api(api: SpeechApi) -> FastAPI:
    """The application with all endpoints; the page may be mounted into it."""
    app = FastAPI(title="Vallet", docs_url=None, redoc_url=None, openapi_url=None)
    router = APIRouter(prefix="/v1", dependencies=[Depends(api.check_key)])

    @router.post("/audio/speech")
    async def speech(request: Request) -> Response:
        try:
            body = await api.read_body(request)
        except ClientDisconnect:
            api.metrics.requests.labels(CLIENT_LEFT).inc()
            return Response(status_code=CLIENT_LEFT)
        queued = await run_in_threadpool(api.queued, body)
        file_format = body.response_format or "mp3"
        return SpeechResponse(api.queue, api.limits, api.metrics, queued, file_format, body.stream_format)

    @router.get("/audio/voices")
    def voices(model: str | None = None) -> dict[str, Any]:
        return {"voices": api.voices(model)}

    @router.get("/models")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": api.models()}

    @router.get("/models/{name}")
    def model(name: str) -> dict[str, Any]:
        for row in api.models():
            if row["id"] == name:
                return row
        raise ApiError(404, f"there is no model {name!r}", "model", "model_not_found")

    # With the page in the same application, it would answer for paths that nobody else answers for.
    @router.api_route("/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"])
    def unknown(request: Request) -> Response:
        raise ApiError(404, f"there is no {request.method} {request.url.path}", code="unknown_url")

    app.include_router(router)

    @app.get("/health")
    def health() -> JSONResponse:
        is_open = not api.queue.is_draining
        return JSONResponse({"status": "ok" if is_open else "shutting down"}, 200 if is_open else 503)

    @app.get("/metrics")
    def metrics() -> PlainTextResponse:
        return PlainTextResponse(generate_latest(api.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.exception_handler(ApiError)
    def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        if request.url.path == "/v1/audio/speech":
            api.metrics.requests.labels(error.status).inc()
        return error_response(error)

    @app.exception_handler(HTTPException)
    def refuse_request(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return error_response(ApiError(error.status_code, f"{error.detail}: {request.method} {request.url.path}"))

    @app.exception_handler(Exception)
    def fail(request: Request, error: Exception) -> Response:
        return error_response(ApiError(500, "something went wrong on the server; see its log"))

    return app
