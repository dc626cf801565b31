"""The web page: its fields and events."""

import html
import textwrap
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from uuid import uuid4

import gradio as gr
from PIL.Image import Image
from pydantic import ValidationError

from config.schema import InferSettings, SamplingSettings
from models.experiment import Experiment
from utils.audio import write_audio
from utils.checkpoint import Checkpoint
from utils.errors import UserError
from utils.log import log
from utils.prompts import MAX_SECONDS, MIN_SECONDS
from web.experiments import ExperimentList
from web.pictures import draw_speech
from web.prompts import MAX_CHARACTERS, check_prompt, check_text
from web.synthesis_queue import QueuedRequest, QueuedSpeech, SynthesisQueue

# Requests in the synthesis queue, which batches them, and in gradio's queue before it.
_MAX_WAITING = 32
_MAX_QUEUED = 256
_MAX_HISTORY = 10
_MAX_SHOWN = 80
_UPDATE_SECONDS = 0.2
_INTRODUCTION = (
    "# Vallet\nReads a text in the voice of a prompt: a recording of about three seconds and its transcript."
)


@dataclass(frozen=True)
class Remembered:
    """An entry of the history of a browser session."""

    time: str
    text: str
    audio: Path


@dataclass(frozen=True)
class Page:
    """Handlers of the page's events. `settings` reads the infer section of an experiment.

    Audio is written below `folder`, gradio's cache, which deletes old files. `unfinished` has the requests that
    are not done, each with its browser session.
    """

    queue: SynthesisQueue
    experiments: ExperimentList
    settings: Callable[[Experiment], InferSettings]
    folder: Path
    unfinished: list[tuple[str | None, QueuedRequest]] = field(default_factory=list)

    def speak(
        self,
        text: str,
        prompt_audio: str | None,
        prompt_text: str,
        experiment: str | None,
        top_k: int | None,
        top_p: float | None,
        temperature: float | None,
        seed: int | None,
        history: Sequence[Remembered],
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (gradio looks for it among the defaults)
        session: gr.Request | None = None,
    ) -> tuple[Path, Image, str, list[Remembered]]:
        """Return the audio file, its picture, a line about it, and the history with it as the first entry."""
        try:
            text, prompt_text = check_text(text, "the text"), check_text(prompt_text, "the prompt's text")
            prompt = check_prompt(prompt_audio)
            checkpoint = self._checkpoint(experiment)
            sampling = self._sampling(checkpoint, top_k=top_k, top_p=top_p, temperature=temperature, seed=seed)
            request = QueuedRequest(checkpoint, sampling, text, prompt_text, prompt)
            self._wait(request, None if session is None else session.session_hash, progress)
            speech = request.done.result()
            # The folder makes the path unique; the file's name is the one that a user downloads.
            audio = self.folder / uuid4().hex / f"{experiment}_{datetime.now():%H%M%S}.wav"
            write_audio(audio, speech.audio, speech.sample_rate_hz)
            picture = draw_speech(speech.audio, speech.sample_rate_hz)
        except UserError as error:
            raise _toast(str(error)) from None
        except Exception:
            log.exception("a request to the page failed")
            raise _toast("something went wrong on the server; see its log") from None
        remembered = Remembered(f"{datetime.now():%H:%M:%S}", text, audio)
        return audio, picture, _line(speech, sampling.seed), [remembered, *history][:_MAX_HISTORY]

    def _wait(self, request: QueuedRequest, session: str | None, progress: gr.Progress) -> None:
        """Queue a request and show its progress until it is done."""
        self.unfinished.append((session, request))
        self.queue.submit(request)
        try:
            while not wait([request.done], timeout=_UPDATE_SECONDS).done:
                # The length is a guess, so the bar stops short of its end.
                progress(min(0.95, request.num_seconds / request.guessed_seconds), desc=_state(request))
        finally:
            self.unfinished.remove((session, request))

    def cancel(self, session: gr.Request) -> None:
        """Cancel all requests of a browser session."""
        for owner, request in list(self.unfinished):
            if owner == session.session_hash:
                self.queue.cancel(request)

    def _sampling(self, checkpoint: Checkpoint, **given: float | None) -> SamplingSettings:
        """The experiment's sampling settings, replaced by the values of the page's fields."""
        if any(value is None for value in given.values()):
            raise UserError("top-k, top-p, temperature and seed each need a number")
        own = self.settings(Experiment.of(checkpoint)).model_dump(include=set(SamplingSettings.model_fields))
        try:
            # The browser may send whole numbers as floats.
            return SamplingSettings.model_validate({**own, **given}, strict=False)
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

    def list_sampling(self, experiment: str | None) -> list[dict]:
        """Set the sampling fields to the experiment's own settings."""
        try:
            infer = self.settings(Experiment.of(self._checkpoint(experiment)))
        except UserError as error:
            raise _toast(str(error)) from None
        return [gr.update(**field) for field in sampling_fields(infer)]


def sampling_fields(infer: InferSettings) -> list[dict]:
    """Value and limits of each sampling field. The limits are wide enough for the experiment's own value."""
    return [
        {"value": infer.top_k, "minimum": 0, "maximum": max(1024, infer.top_k)},
        {"value": infer.top_p, "minimum": min(0.05, infer.top_p), "maximum": 1},
        {
            "value": infer.temperature,
            "minimum": min(0.1, infer.temperature),
            "maximum": max(2, infer.temperature),
        },
        {"value": infer.seed, "minimum": 0, "maximum": max(2**32 - 1, infer.seed)},
    ]


def build_page(page: Page) -> gr.Blocks:
    """Build the page. It fetches nothing from other machines, and reports nothing to them."""
    with gr.Blocks(title="Vallet", analytics_enabled=False, delete_cache=(3600, 86400)) as blocks:
        gr.Markdown(_INTRODUCTION)
        with gr.Row():
            with gr.Column(min_width=300):
                texts, experiment, sampling = _build_inputs(page)
                with gr.Row():
                    button = gr.Button("Speak", variant="primary", elem_id="speak")
                    cancel = gr.Button("Cancel", elem_id="cancel")
            with gr.Column(min_width=300):
                speech = gr.Audio(
                    label="Speech", type="filepath", interactive=False, buttons=["download"], elem_id="speech"
                )
                line = gr.Markdown(label="Result", elem_id="line")
                picture = gr.Image(
                    label="Waveform and spectrogram",
                    interactive=False,
                    format="png",
                    show_label=False,
                    buttons=["fullscreen"],
                    elem_id="picture",
                )
                history = gr.State([])
                gr.render(inputs=[history], show_progress="hidden")(_show_history)
        # Each request waits in its own thread for the queue, so as many run at once as may wait.
        button.click(
            page.speak,
            inputs=[*texts, experiment, *sampling, history],
            outputs=[speech, picture, line, history],
            show_progress_on=[speech],
            concurrency_limit=_MAX_WAITING,
            api_name="speak",
        )
        # Not through gradio's queue, where it would wait behind the requests that it is to cancel.
        cancel.click(page.cancel, queue=False, show_progress="hidden", api_name="cancel")
        experiment.change(page.list_sampling, experiment, sampling, show_progress="hidden", api_visibility="private")
        blocks.load(page.list_experiments, experiment, experiment, show_progress="hidden", api_visibility="private")
    return blocks.queue(max_size=_MAX_QUEUED)


def _build_inputs(page: Page) -> tuple[list[gr.Component], gr.Dropdown, list[gr.Component]]:
    """Build the fields of the text, the prompt and its text; the experiments; and the fields of sampling."""
    found = page.experiments.find()
    names = list(found)
    top_k, top_p, temperature, seed = sampling_fields(page.settings(Experiment.of(found[names[0]])))
    texts: list[gr.Component] = [
        gr.Textbox(label="Text", lines=3, max_lines=8, max_length=MAX_CHARACTERS, elem_id="text"),
        gr.Audio(
            label=f"Prompt, {MIN_SECONDS:g} to {MAX_SECONDS:g} s",
            sources=["upload", "microphone"],
            type="filepath",
            buttons=[],
            elem_id="prompt",
        ),
        gr.Textbox(label="Text of the prompt", lines=2, max_length=MAX_CHARACTERS, elem_id="prompt_text"),
    ]
    # Custom values, as experiments that finish while the server runs are accepted, too.
    experiment = gr.Dropdown(names, value=names[0], label="Experiment", allow_custom_value=True, elem_id="experiment")
    with gr.Accordion("Sampling", open=False, elem_id="sampling"):
        sampling: list[gr.Component] = [
            gr.Number(label="Top-k", info="Sample among the k likeliest codes; 0: all", precision=0, **top_k),
            gr.Slider(label="Top-p", info="Sample among the likeliest codes of this mass", step=0.01, **top_p),
            gr.Slider(label="Temperature", info="Lower: safer; higher: more varied", step=0.01, **temperature),
            gr.Number(label="Seed", info="The same seed gives the same speech", precision=0, **seed),
        ]
    return texts, experiment, sampling


def _show_history(history: Sequence[Remembered]) -> None:
    if history:
        gr.Markdown("### History")
    for entry in history:
        if not entry.audio.is_file():
            continue
        gr.Audio(
            entry.audio,
            label=f"{entry.time} {textwrap.shorten(entry.text, _MAX_SHOWN, placeholder=' ...')}",
            interactive=False,
            buttons=["download"],
            elem_classes="remembered",
        )


def _state(request: QueuedRequest) -> str:
    """What a request is doing."""
    if not request.num_seconds:
        return request.state
    seconds = f"{request.num_seconds:.1f} s generated"
    if request.long_text is None or len(request.long_text.parts) == 1:
        return seconds
    return f"{request.long_text.num_done} of {len(request.long_text.parts)} parts done, {seconds}"


def _line(speech: QueuedSpeech, seed: int) -> str:
    summary = speech.summary
    parts = f"{len(summary['parts'])} parts; " if len(summary["parts"]) > 1 else ""
    tries = f"try {summary['tries']}; " if summary["tries"] > 1 else ""
    line = f"{summary['seconds']:.2f} s; {parts}{tries}real-time factor {summary['real_time_factor']:.2f}; seed {seed}"
    return f"{line}; {html.escape(summary['error'], quote=False)}" if "error" in summary else line


def _toast(message: str) -> gr.Error:
    """An error that stays on the page until it is closed. Escaped, as the page takes it as HTML."""
    # Capitalize it, unless it begins with the name of a file, a setting or a flag.
    if message.split(maxsplit=1)[0].rstrip(",;:").isalpha():
        message = message[0].upper() + message[1:]
    return gr.Error(html.escape(message, quote=False), duration=None, print_exception=False)
