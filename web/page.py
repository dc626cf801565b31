"""The handlers of the web page's events."""

import html
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import gradio as gr
from pydantic import ValidationError

from config.schema import InferSettings, SpeechSettings
from models.experiment import Experiment
from synthesis.queue import QueuedRequest, SpokenText, SynthesisQueue
from synthesis.results import suspects_line
from synthesis.subtitles import FORMATS, make_cues, write_subtitles
from synthesis.synthesizer import Synthesizer
from synthesis.voices import (
    Voice,
    codec_of,
    default_voice,
    find_voice,
    list_voices,
    load_prompt,
    new_voice_path,
    usable_voices,
    write_voice,
)
from utils.audio import write_audio
from utils.checkpoint import Checkpoint, experiment_of
from utils.errors import UserError
from utils.log import log
from utils.paths import PRETRAINED
from utils.prompts import Prompt
from web.experiments import ExperimentList
from web.live import LiveSpeeches
from web.pictures import draw_speech
from web.prompts import check_prompt, check_text, read_prompt
from web.speech_response import ApiLimits
from web.word_marks import word_notes

_MAX_HISTORY = 10
_UPDATE_SECONDS = 0.2
# Everyone who can open the page can save some.
_MAX_VOICES = 1000
RECORDING = "From the recording below"
"""The choice beside the names of the saved voices."""
# Audio, picture, line, player, result and history.
_UNCHANGED = tuple(gr.skip() for _ in range(6))


@dataclass(frozen=True)
class Remembered:
    """An entry of the history of a browser session."""

    time: str
    text: str
    audio: Path


# Compared by identity: gradio hashes what it keeps of a session.
@dataclass(frozen=True, eq=False)
class SpokenResult:
    """What the page shows of a text besides its audio: its words, what may be wrong with each, and subtitle files."""

    text: str
    words: list[dict[str, Any]]
    notes: list[str]
    subtitles: list[Path]


class _VoiceSavedError(Exception):
    """Ends a request that only prepares its prompt: the codec may be used in the queue's thread alone."""

    def __init__(self, voice: Voice, warnings: Sequence[str]) -> None:
        super().__init__("a voice was saved")
        self.voice, self.warnings = voice, warnings


@dataclass(frozen=True)
class Page:
    """Handlers of the page's events. `settings` reads the infer section of an experiment.

    Audio is written below `folder`, gradio's cache, which deletes old files. `voice` is selected at first if the
    experiment has it. `max_characters` is the limit of a text. `unfinished` has the requests that are not done, each
    with its browser session. `live` has the speech that browsers play while it is made.
    """

    queue: SynthesisQueue
    experiments: ExperimentList
    settings: Callable[[Experiment], InferSettings]
    folder: Path
    voice: str | None = None
    max_characters: int = ApiLimits.max_characters
    unfinished: list[tuple[str | None, QueuedRequest]] = field(default_factory=list)
    live: LiveSpeeches = field(default_factory=LiveSpeeches)

    def speak(
        self,
        text: str,
        voice: str | None,
        prompt_audio: str | None,
        prompt_text: str,
        experiment: str | None,
        top_k: int | None,
        top_p: float | None,
        temperature: float | None,
        seed: int | None,
        speed: float | None,
        play: bool,
        history: Sequence[Remembered],
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (gradio looks for it among the defaults)
        session: gr.Request | None = None,
    ) -> Iterator[tuple[Any, ...]]:
        """Yield the audio file, its picture, a line about it, a player, the result, and the history with it.

        The player comes first if `play`, while the others are made, and plays what is there.
        """
        try:
            text = check_text(text, "the text", self.max_characters)
            checkpoint = self._checkpoint(experiment)
            load = self._prompt_loader(voice, prompt_audio, prompt_text, checkpoint)
            settings = self._speech_settings(
                checkpoint, top_k=top_k, top_p=top_p, temperature=temperature, seed=seed, speed=speed
            )
            request = QueuedRequest(checkpoint, settings, text, load)
            source, live = self.live.add(request) if play else ("", None)
            # The speech before this one is not played any more.
            yield (*_UNCHANGED[:3], "", *_UNCHANGED[4:])
            is_shown = False
            for _ in self._progress(request, session, progress):
                if live is not None and live.has_audio and not is_shown:
                    is_shown = True
                    yield (*_UNCHANGED[:3], _player(source), *_UNCHANGED[4:])
            speech = request.done.result()
            if not speech.has_speech:
                raise UserError(speech.summary["error"])
            # The folder makes the path unique; the file's name is the one that a user downloads.
            audio = self.folder / uuid4().hex / f"{experiment}_{datetime.now():%H%M%S}.wav"
            write_audio(audio, speech.audio, speech.sample_rate_hz)
            picture = draw_speech(speech.audio, speech.sample_rate_hz)
            result = _result(speech, audio)
        except UserError as error:
            raise _toast(str(error)) from None
        except Exception:
            log.exception("a request to the page failed")
            raise _toast("something went wrong on the server; see its log") from None
        history = [Remembered(f"{datetime.now():%H:%M:%S}", text, audio), *history][:_MAX_HISTORY]
        player = _player(source) if live is not None else ""
        # One that plays already stays as it is.
        player = gr.skip() if is_shown else player
        yield audio, picture, _line(speech, settings.seed), player, result, history

    def save_voice(
        self,
        name: str,
        consent: str,
        licence: str,
        prompt_audio: str | None,
        prompt_text: str,
        experiment: str | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
        session: gr.Request | None = None,
    ) -> dict:
        """Save the recording and its text as a voice of the server's user, and select it."""
        try:
            if not name.strip():
                raise UserError("the voice has no name; write one, such as anna")
            text, audio = self._recording(prompt_text, prompt_audio)
            checkpoint = self._checkpoint(experiment)
            folder = experiment_of(checkpoint)
            path = self._new_voice(name.strip(), folder)
            notes = {"consent": " ".join(consent.split()), "licence": " ".join(licence.split())}

            def save(synthesizer: Synthesizer) -> Prompt:
                prompt = read_prompt(audio, text, synthesizer.codec.sample_rate_hz)
                made = Voice.from_prompt(prompt, synthesizer, **notes)
                # Another user may have saved one while this request waited.
                write_voice(made, self._new_voice(path.stem, folder))
                raise _VoiceSavedError(made, prompt.warnings)

            request = QueuedRequest(checkpoint, self._speech_settings(checkpoint), "", save)
            for _ in self._progress(request, session, progress):
                pass
            request.done.result()
        except _VoiceSavedError as saved:
            for warning in saved.warnings:
                gr.Warning(html.escape(warning, quote=False))
            if not saved.voice.consent:
                gr.Warning("The voice has no consent note. Use it only if its speaker agreed.")
            gr.Info(f"The voice {html.escape(path.stem)} is saved and selected.")
        except UserError as error:
            raise _toast(str(error)) from None
        except OSError as error:
            raise _toast(f"the voice cannot be written: {error.strerror}") from None
        except Exception:
            log.exception("saving a voice failed")
            raise _toast("something went wrong on the server; see its log") from None
        return self.list_voices(experiment, path.stem)

    def _new_voice(self, name: str, experiment: Path) -> Path:
        """Where to write a voice. Raises UserError, without the server's folders, if it cannot have this name."""
        voices = list_voices(experiment)
        if name in voices:
            raise UserError(f"there is a voice {name} already; choose another name")
        if len(voices) >= _MAX_VOICES:
            raise UserError(f"there are {len(voices)} voices; remove some with bins/voices.py remove")
        return new_voice_path(name, experiment)

    def _prompt_loader(
        self, voice: str | None, prompt_audio: str | None, prompt_text: str, checkpoint: Checkpoint
    ) -> Callable[[Synthesizer], Prompt]:
        """What reads the prompt: a saved voice, or the recording of the fields.

        Without both it is the voice that the server was started with.
        """
        if not voice and not prompt_audio and not prompt_text.strip():
            voice = self.voice
        if voice:
            folder = experiment_of(checkpoint)
            return partial(load_prompt, source=find_voice(voice, folder, "the voice", codec_of(checkpoint)), text="")
        text, audio = self._recording(prompt_text, prompt_audio)
        return lambda synthesizer: read_prompt(audio, text, synthesizer.codec.sample_rate_hz)

    def _recording(self, text: str, audio: str | None) -> tuple[str, Path]:
        """The checked fields of the recording. Raises UserError if one is empty or cannot be used."""
        return check_text(text, "the recording's text", self.max_characters), check_prompt(audio)

    def _progress(self, request: QueuedRequest, session: gr.Request | None, progress: gr.Progress) -> Iterator[None]:
        """Queue a request and show its progress until it is done. Yields after each update."""
        entry = (None if session is None else session.session_hash, request)
        self.unfinished.append(entry)
        self.queue.submit(request)
        try:
            while not wait([request.done], timeout=_UPDATE_SECONDS).done:
                # The length is a guess, so the bar stops short of its end.
                progress(min(0.95, request.num_seconds / request.guessed_seconds), desc=_state(request))
                yield
        finally:
            # It is not done if whoever iterates stopped: then nobody waits for it.
            self.queue.cancel(request)
            self.unfinished.remove(entry)

    def cancel(self, session: gr.Request) -> str:
        """Cancel all requests of a browser session; returns a player without anything to play."""
        for owner, request in list(self.unfinished):
            if owner == session.session_hash:
                self.queue.cancel(request)
        return ""

    def _speech_settings(self, checkpoint: Checkpoint, **given: float | None) -> SpeechSettings:
        """The experiment's own settings, replaced by the values of the page's fields."""
        if any(value is None for value in given.values()):
            raise UserError("top-k, top-p, temperature, seed and speed each need a number")
        try:
            return self.settings(Experiment.of(checkpoint)).speech_settings(given)
        except ValidationError as error:
            first = error.errors()[0]
            raise UserError(f"{first['loc'][0]}: {first['msg'].lower()}; got {first['input']}") from None

    def _checkpoint(self, name: str | None) -> Checkpoint:
        if not name:
            raise UserError("there is no experiment; train one, then reload the page and choose it")
        checkpoint = self.experiments.find().get(name)
        if checkpoint is None:
            raise UserError(f"there is no experiment {name}; reload the page and choose another")
        return checkpoint

    def list_experiments(self, chosen: str | None) -> dict:
        """Update the dropdown's choices from the disk; the selection stays if it still exists."""
        names = list(self.experiments.find())
        return gr.update(choices=names, value=chosen if chosen in names else next(iter(names), None))

    def list_voices(self, experiment: str | None, chosen: str | None = None) -> dict:
        """Update the choices of voices from the disk. The selection stays if it still exists; None is the default."""
        checkpoint = self.experiments.find().get(experiment or "")
        folder = None if checkpoint is None else experiment_of(checkpoint)
        names = [] if checkpoint is None else list(usable_voices(experiment_of(checkpoint), codec_of(checkpoint)))
        if chosen is None or (chosen and chosen not in names):
            chosen = self.voice if self.voice in names else ""
            if folder is not None and not chosen:
                with suppress(UserError):
                    chosen = default_voice(folder).stem
        return gr.update(choices=[(RECORDING, ""), *((name, name) for name in names)], value=chosen)

    def is_pretrained(self, experiment: str | None) -> bool:
        """Whether this is the pretrained pair of the repository."""
        checkpoint = self.experiments.find().get(experiment or "")
        return checkpoint is not None and experiment_of(checkpoint).resolve() == PRETRAINED.resolve()

    def list_sampling(self, experiment: str | None) -> list[dict]:
        """Set the sampling fields to the experiment's own settings."""
        try:
            infer = self.settings(Experiment.of(self._checkpoint(experiment)))
        except UserError as error:
            raise _toast(str(error)) from None
        return [gr.update(**field) for field in sampling_fields(infer)]


def sampling_fields(infer: InferSettings) -> list[dict]:
    """Value and limits of each field below Sampling. The limits are wide enough for the experiment's own value."""
    return [
        {"value": infer.top_k, "minimum": 0, "maximum": max(1024, infer.top_k)},
        {"value": infer.top_p, "minimum": min(0.05, infer.top_p), "maximum": 1},
        {
            "value": infer.temperature,
            "minimum": min(0.1, infer.temperature),
            "maximum": max(2, infer.temperature),
        },
        {"value": infer.seed, "minimum": 0, "maximum": max(2**32 - 1, infer.seed)},
        {"value": infer.speed, "minimum": 0.5, "maximum": 2},
    ]


def _result(speech: SpokenText, audio: Path) -> SpokenResult:
    """The words of the speech, and files with subtitles beside its audio if it has words."""
    notes = word_notes(speech.words, speech.suspects)
    subtitles = [audio.with_suffix(f".{suffix}") for suffix in FORMATS if speech.words]
    for path in subtitles:
        write_subtitles(path, make_cues(speech.text, speech.words, speech.language))
    return SpokenResult(speech.text, speech.words, notes, subtitles)


def _player(source: str) -> str:
    """Plays an address at once, and goes away after it: the complete audio has a player of its own."""
    remove = "this.parentElement.remove()"
    return (
        f'<div class="live"><span>Playing</span><audio controls autoplay src="{source}" onended="{remove}" '
        f'onerror="{remove}"></audio></div>'
    )


def _state(request: QueuedRequest) -> str:
    """What a request is doing."""
    if not request.num_seconds:
        return request.state
    seconds = f"{request.num_seconds:.1f} s generated"
    if request.long_text is None or len(request.long_text.parts) == 1:
        return seconds
    return f"{request.long_text.num_done} of {len(request.long_text.parts)} parts done, {seconds}"


def _line(speech: SpokenText, seed: int) -> str:
    summary = speech.summary
    parts = f"{len(summary['parts'])} parts; " if len(summary["parts"]) > 1 else ""
    tries = f"try {summary['tries']}; " if summary["tries"] > 1 else ""
    line = f"{summary['seconds']:.2f} s; {parts}{tries}real-time factor {summary['real_time_factor']:.2f}; seed {seed}"
    if "error" in summary:
        line += f"; {html.escape(summary['error'], quote=False)}"
    if summary.get("suspects"):
        line += f"; {html.escape(suspects_line(summary['suspects']), quote=False)}"
    return line


def _toast(message: str) -> gr.Error:
    """An error that stays on the page until it is closed. Escaped, as the page takes it as HTML."""
    # Capitalize it, unless it begins with the name of a file, a setting or a flag.
    if message.split(maxsplit=1)[0].rstrip(",;:").isalpha():
        message = message[0].upper() + message[1:]
    return gr.Error(html.escape(message, quote=False), duration=None, print_exception=False)
