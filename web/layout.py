"""The fields of the web page, and what they call."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from models.experiment import Experiment
from utils.prompts import MAX_SECONDS, MIN_SECONDS
from web.page import Page, Remembered, SpokenResult, sampling_fields
from web.word_marks import PROBLEMS, marked_text, time_rows

# Requests in the synthesis queue, which batches them, and in gradio's queue before it.
_MAX_WAITING = 32
_MAX_QUEUED = 256
_MAX_SHOWN = 80
# For all that does not wait for speech. gradio's queue answers through a stream that it closes after the last open
# event of a browser session; a click on Speak at that moment would never be answered.
_AT_ONCE: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
_INTRODUCTION = (
    "# Vallet\nReads a text in a voice that you choose: a saved one, or that of a recording of a few seconds. "
    "Use a voice only if its speaker agreed."
)
_PRETRAINED_LIMIT = (
    "The pretrained pair is not understood with recordings of real voices. It speaks well in voices like those that it "
    "comes with."
)
_MARK_COLOURS = ("#f59e0b", "#8b5cf6", "#ef4444", "#0ea5e9")
CSS = """
/* Keep a long label beside the player's button, not below it. */
.remembered > label { max-width: calc(100% - 3rem); }
.live { display: flex; align-items: center; gap: 0.75rem; }
.live audio { flex: 1; min-width: 0; height: 2.5rem; }
/* No room for what is not there yet. */
#live:not(:has(audio)), #picture:not(:has(img)) { display: none; }
"""


@dataclass(frozen=True)
class _Inputs:
    """The fields of the page. `texts` and `sampling` are in the order of the arguments of `Page.speak`."""

    text: gr.Textbox
    voice: gr.Dropdown
    recording: gr.Column
    limit: gr.Markdown
    prompt_audio: gr.Audio
    prompt_text: gr.Textbox
    saving: tuple[gr.Textbox, gr.Textbox, gr.Textbox, gr.Button]
    experiment: gr.Dropdown
    sampling: list[gr.Component]
    play: gr.Checkbox
    speak: gr.Button
    cancel: gr.Button


def build_page(page: Page) -> gr.Blocks:
    """Build the page. It fetches nothing from other machines, and reports nothing to them."""
    with gr.Blocks(title="Vallet", analytics_enabled=False, delete_cache=(3600, 86400)) as blocks:
        gr.Markdown(_INTRODUCTION)
        with gr.Row():
            with gr.Column(min_width=300):
                inputs = _build_inputs(page)
            with gr.Column(min_width=300):
                live = gr.HTML(elem_id="live")
                speech = gr.Audio(
                    label="Speech", type="filepath", interactive=False, buttons=["download"], elem_id="speech"
                )
                line = gr.Markdown(label="Result", elem_id="line")
                result, history = gr.State(None), gr.State([])
                gr.render(inputs=[result], **_AT_ONCE)(_show_words)
                picture = gr.Image(
                    label="Waveform and spectrogram",
                    interactive=False,
                    format="png",
                    show_label=False,
                    buttons=["fullscreen"],
                    elem_id="picture",
                )
                gr.render(inputs=[history], **_AT_ONCE)(_show_history)
        texts = [inputs.text, inputs.voice, inputs.prompt_audio, inputs.prompt_text]
        # Each request waits in its own thread for the queue, so as many run at once as may wait.
        inputs.speak.click(
            page.speak,
            inputs=[*texts, inputs.experiment, *inputs.sampling, inputs.play, history],
            outputs=[speech, picture, line, live, result, history],
            show_progress_on=[speech],
            concurrency_limit=_MAX_WAITING,
            api_name="speak",
        )
        inputs.cancel.click(page.cancel, outputs=live, api_name="cancel", **_AT_ONCE)
        _connect_voices(page, blocks, inputs)
    return blocks.queue(max_size=_MAX_QUEUED)


def _connect_voices(page: Page, blocks: gr.Blocks, inputs: _Inputs) -> None:
    """What happens when a voice or an experiment is chosen, a voice is saved, and the page is opened."""
    voice, experiment = inputs.voice, inputs.experiment
    private: dict[str, Any] = {**_AT_ONCE, "api_visibility": "private"}
    name, consent, licence, save = inputs.saving
    save.click(
        page.save_voice,
        inputs=[name, consent, licence, inputs.prompt_audio, inputs.prompt_text, experiment],
        outputs=voice,
        show_progress_on=[save],
        concurrency_limit=_MAX_WAITING,
        api_visibility="private",
    )
    voice.change(lambda chosen: gr.update(visible=not chosen), voice, inputs.recording, **private)
    experiment.change(page.list_sampling, experiment, inputs.sampling, **private)
    experiment.change(page.list_voices, [experiment, voice], voice, **private)
    experiment.change(lambda chosen: gr.update(visible=page.is_pretrained(chosen)), experiment, inputs.limit, **private)
    # The default voice is selected here and not when the page is built: programs that give a recording name no voice.
    opened = blocks.load(page.list_experiments, experiment, experiment, **private)
    opened.then(page.list_voices, experiment, voice, **private)


def _build_inputs(page: Page) -> _Inputs:
    found = page.experiments.find()
    names = list(found)
    top_k, top_p, temperature, seed, speed = sampling_fields(page.settings(Experiment.of(found[names[0]])))
    text = gr.Textbox(
        label="Text",
        info=f"What is to be said, up to {page.max_characters} characters. [pause 1s] makes a pause.",
        placeholder="The quick brown fox jumps over the lazy dog.",
        lines=3,
        max_lines=8,
        max_length=page.max_characters,
        elem_id="text",
    )
    # Custom values, as voices and experiments that are made while the server runs are accepted, too.
    voice = gr.Dropdown(
        page.list_voices(names[0], "")["choices"],
        value="",
        label="Voice",
        info="Choose a saved voice, or give a recording.",
        allow_custom_value=True,
        elem_id="voice",
    )
    with gr.Column(elem_id="recording") as recording:
        limit = gr.Markdown(_PRETRAINED_LIMIT, visible=page.is_pretrained(names[0]), elem_id="limit")
        prompt_audio = gr.Audio(
            label=f"Recording, {MIN_SECONDS:g} to {MAX_SECONDS:g} s",
            sources=["upload", "microphone"],
            type="filepath",
            buttons=[],
            elem_id="prompt",
        )
        prompt_text = gr.Textbox(
            label="Text of the recording",
            info="Exactly what is said in the recording. One person, about 3 s, without noise or music, is best.",
            lines=2,
            max_length=page.max_characters,
            elem_id="prompt_text",
        )
        saving = _build_saving()
    play = gr.Checkbox(
        value=True,
        label="Play while it is made",
        info="Off: play it when you like, once all of it is there.",
        elem_id="play",
    )
    with gr.Row():
        speak = gr.Button("Speak", variant="primary", min_width=120, elem_id="speak")
        cancel = gr.Button("Cancel", min_width=120, elem_id="cancel")
    experiment = gr.Dropdown(
        names,
        value=names[0],
        label="Experiment",
        info="The trained model that speaks.",
        allow_custom_value=True,
        elem_id="experiment",
    )
    with gr.Accordion("Sampling and speed", open=False, elem_id="sampling"):
        sampling: list[gr.Component] = [
            gr.Slider(
                label="Speed", info="1: as the model speaks; higher: faster, at the same pitch", step=0.05, **speed
            ),
            gr.Number(
                label="Seed",
                info="The same seed gives the same speech; try another if a word is wrong",
                precision=0,
                **seed,
            ),
            gr.Slider(label="Temperature", info="Lower: safer; higher: more varied", step=0.01, **temperature),
            gr.Number(label="Top-k", info="Sample among the k likeliest codes; 0: all", precision=0, **top_k),
            gr.Slider(label="Top-p", info="Sample among the likeliest codes of this mass; 1: all", step=0.01, **top_p),
        ]
    # In the order of the handler's arguments, not of the page.
    ordered = [sampling[index] for index in (3, 4, 2, 1, 0)]
    prompt = prompt_audio, prompt_text
    return _Inputs(text, voice, recording, limit, *prompt, saving, experiment, ordered, play, speak, cancel)


def _build_saving() -> tuple[gr.Textbox, gr.Textbox, gr.Textbox, gr.Button]:
    """The fields that make a voice of the recording: name, consent, licence, and the button."""
    with gr.Accordion("Save the recording as a voice", open=False, elem_id="saving"):
        with gr.Row():
            name = gr.Textbox(
                label="Name",
                info="Letters, digits, and . _ -",
                placeholder="anna",
                max_lines=1,
                max_length=64,
                elem_id="voice_name",
            )
            licence = gr.Textbox(
                label="Licence",
                info="What may be done with it.",
                placeholder="CC BY 4.0",
                max_lines=1,
                max_length=200,
                elem_id="licence",
            )
        consent = gr.Textbox(
            label="Consent",
            info="How the speaker agreed. Everyone who uses the voice can read it.",
            placeholder="Anna agreed by mail on 3 May.",
            max_lines=1,
            max_length=1000,
            elem_id="consent",
        )
        button = gr.Button("Save voice", size="sm", elem_id="save_voice")
    return name, consent, licence, button


def _show_words(result: SpokenResult | None) -> None:
    """The text with its suspects, the times of its words, and subtitles."""
    if result is None or not result.words:
        return
    if any(result.notes):
        # Of several notes on a word, the first gives the colour.
        colours = dict(zip(PROBLEMS.values(), _MARK_COLOURS, strict=True))
        gr.HighlightedText(
            marked_text(result.text, result.words, result.notes),
            label="Words to check",
            color_map={note: colours[note.split(", ")[0]] for note in result.notes if note},
            elem_id="marked",
        )
    with gr.Accordion("Word times and subtitles", open=False, elem_id="words"):
        has_notes = any(result.notes)
        gr.Dataframe(
            [row if has_notes else row[:3] for row in time_rows(result.words, result.notes)],
            headers=["Word", "Start", "End", "Note"][: 4 if has_notes else 3],
            column_widths=["130px", "80px", "80px", "190px"] if has_notes else ["50%", "25%", "25%"],
            label="Seconds",
            max_height=260,
            interactive=False,
            buttons=["copy"],
        )
        with gr.Row():
            for path in result.subtitles:
                gr.DownloadButton(f"Subtitles ({path.suffix[1:]})", path, size="sm")


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
