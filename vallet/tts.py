"""A loaded model that speaks: requests of all threads go through one queue, which forms batches."""

import weakref
from collections.abc import Callable, Generator, Sequence
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType

from pydantic import ValidationError
from torch import Tensor

from evaluation.candidates import add_error_rate
from models.experiment import Experiment
from synthesis.load import find_pretrained, load_experiment
from synthesis.queue import QueuedRequest, SpokenText, SynthesisQueue
from synthesis.synthesizer import Synthesizer
from synthesis.voices import SUFFIX, default_voice, find_voice, load_prompt, usable_voices
from utils.checkpoint import Checkpoint, resolve_checkpoint
from utils.cli import find_experiment, find_path
from utils.errors import UserError
from utils.log import log


class TTS:
    """A model in memory. All methods may be called from any thread; what several threads ask for is decoded together.

    The same text, prompt, sampling and seed give the same audio. `close` frees the model, as does the end of a `with`
    block, or of the program.
    """

    def __init__(self, checkpoint: Checkpoint, overrides: Sequence[str] = ()) -> None:
        self._checkpoint, self._experiment = checkpoint, Experiment.of(checkpoint)

        def build(source: Checkpoint) -> Synthesizer:
            synthesizer, _ = load_experiment(source.path, "vallet.load", overrides)
            add_error_rate(synthesizer)
            return synthesizer

        self._queue = SynthesisQueue(build)
        synthesizer = self._queue.load(checkpoint)
        self.sample_rate_hz = synthesizer.codec.sample_rate_hz
        self._codec = synthesizer.codec.fingerprint()
        self._settings = synthesizer.settings
        self._queue.start()
        self.close: Callable[[], object] = weakref.finalize(self, self._queue.close)
        """Stop: requests that are not done raise UserError, and so do later ones."""

    @property
    def voices(self) -> list[str]:
        """The names of the saved voices that the model can use, those in its own folder first."""
        return list(usable_voices(self._experiment.folder, self._codec))

    def say(
        self,
        text: str,
        *,
        voice: str | None = None,
        prompt: str | Path | None = None,
        prompt_text: str | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        speed: float | None = None,
        loudness_lufs: float | None = None,
    ) -> SpokenText:
        """Synthesize a text of any length in a saved voice, or in that of a recording, `prompt`, of `prompt_text`.

        `voice` is the name of a saved voice, or the path of its file. Without both, it is the first voice in the
        model's own folder. Parameters that are not given are the model's own settings. `speed` is 0.5 to 2, and
        `loudness_lufs` -60 to 0.

        The speech is returned even if it failed, with a warning in the log: see its `ended` and `error`. Raises
        UserError if the text or the prompt cannot be used.
        """
        sampling = {"top_k": top_k, "top_p": top_p, "temperature": temperature, "seed": seed}
        given = {**sampling, "speed": speed, "loudness_lufs": loudness_lufs}
        request = self._request(text, voice, prompt, prompt_text, given)
        self._queue.submit(request)
        return self._finish(request)

    def stream(
        self,
        text: str,
        *,
        voice: str | None = None,
        prompt: str | Path | None = None,
        prompt_text: str | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        speed: float | None = None,
        loudness_lufs: float | None = None,
    ) -> Generator[Tensor, None, SpokenText]:
        """As `say`, but yields the audio as it is made: blocks (N,) of the first part, then one for each further part.

        With `infer.stream_first_frames` 0 the first part is one block, and all blocks put together are the audio of
        `say`, bit for bit if the model runs in fp32. Otherwise the first part sounds slightly different. Closing the
        generator cancels the rest. Synthesis begins with the first `next`.
        """
        sampling = {"top_k": top_k, "top_p": top_p, "temperature": temperature, "seed": seed}
        given = {**sampling, "speed": speed, "loudness_lufs": loudness_lufs}
        return self._stream(self._request(text, voice, prompt, prompt_text, given))

    def _stream(self, request: QueuedRequest) -> Generator[Tensor, None, SpokenText]:
        blocks: SimpleQueue[Tensor | None] = SimpleQueue()
        request.on_block, request.in_chunks = blocks.put, True
        # None marks the end, or an error.
        request.done.add_done_callback(lambda _: blocks.put(None))
        self._queue.submit(request)
        try:
            while (block := blocks.get()) is not None:
                yield block
            return self._finish(request)
        finally:
            self._queue.cancel(request)

    def _request(
        self,
        text: str,
        voice: str | None,
        prompt: str | Path | None,
        prompt_text: str | None,
        given: dict[str, float | None],
    ) -> QueuedRequest:
        if voice is not None and prompt is not None:
            raise UserError("voice, prompt: give one of the two")
        if (prompt is None) != (prompt_text is None):
            raise UserError("prompt, prompt_text: a recording and its text are needed together")
        folder = self._experiment.folder
        if prompt is not None:
            source = find_path(str(prompt), "prompt")
        elif voice is None:
            source = default_voice(folder)
        else:
            source = (
                find_path(voice, "voice") if voice.endswith(SUFFIX) else find_voice(voice, folder, "voice", self._codec)
            )
        try:
            settings = self._settings.speech_settings(given)
        except ValidationError as error:
            first = error.errors()[0]
            raise UserError(f"{first['loc'][0]}: {first['msg'].lower()}; got {first['input']!r}") from None
        load = partial(load_prompt, source=source, text=prompt_text or "")
        return QueuedRequest(self._checkpoint, settings, text, load)

    def _finish(self, request: QueuedRequest) -> SpokenText:
        """Wait for a request. An interrupt cancels it."""
        try:
            speech = request.done.result()
        except BaseException:
            self._queue.cancel(request)
            raise
        if speech.error is not None:
            log.warning("%s", speech.error)
        return speech

    def __enter__(self) -> "TTS":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load(folder: str | Path | None = None, *, overrides: Sequence[str] = ()) -> TTS:
    """Load the newest model of an experiment's folder or of a released one; without a folder, the pretrained pair.

    `hub:user/model` or `hub:user/model@revision` is a model on the Hugging Face hub, which is downloaded once. It
    runs on the first GPU, or on the CPU if there is none. `overrides` change settings, as --set of the stages does:
    `["infer.precision=int8"]`. Raises UserError if there is no complete model.
    """
    if folder is None:
        path = find_pretrained("give vallet.load a folder")
    else:
        path = find_experiment(str(folder), "vallet.load")
    return TTS(resolve_checkpoint(path, "vallet.load"), overrides)
