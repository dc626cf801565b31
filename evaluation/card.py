"""The model card of a model on the hub, from its settings and from what stage 4 measured."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.schema import Settings
from evaluation.evaluate import GROUND_TRUTH, RESYNTHESIS
from evaluation.measures import COLUMNS, Column
from synthesis.voices import Voice
from utils.errors import UserError

_CARD = """---
{metadata}
---

# {title}

A text-to-speech model that speaks in the voice of a prompt of some seconds: a neural codec language model
([VALL-E](https://arxiv.org/abs/2301.02111)), trained with Vallet. It has {num_weights:.1f} million weights, and the
codec is {codec} at {sample_rate} Hz. Languages: {languages}.

## Use

```python
import vallet

tts = vallet.load("hub:{model}")
speech = tts.say("{text}", {prompt})
speech.save("speech.wav")
```

`--infer_expt_dir hub:{model}` of the stages takes it as well. `{model}@revision` is one revision of it.

Use a voice only if its speaker agreed, and say that the speech is synthetic.

## Voices

{voices}

## Data

{data}

## Measured

{measured}

## Licence

{licence}. What the model was trained on, and the weights of its codec, may have licences of their own.
"""


@dataclass(frozen=True)
class Measured:
    """The part of a `metrics.json` that a card shows: rows of a table by name, and the models that measured.

    `name` is the row of the pushed model, and `checkpoint` that which was measured, None if it is not recorded.
    """

    rows: Mapping[str, Mapping[str, Any]]
    name: str
    by: Sequence[str]
    checkpoint: str | None

    @classmethod
    def read(cls, path: Path, name: str, checkpoint: str) -> "Measured":
        """The rows of a checkpoint of the experiment `name`, of the recordings and of their codec.

        Raises UserError if the experiment or the checkpoint was not measured.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            systems, recognizer = content["systems"], content["recognizer"]
            # Stage 4 numbers systems of the same name, such as several checkpoints of an experiment.
            found = {key: systems[key].get("checkpoint") for key in systems if _is_numbered(key, name)}
            if not found:
                there = ", ".join(systems) or "none"
                raise UserError(f"{path}: has no system {name}, but {there}; measure this experiment with stage 4")
            # Without any recorded checkpoint, the first row counts: an earlier release measured it.
            wanted = checkpoint if any(found.values()) else None
            name = next((key for key, measured in found.items() if measured == wanted), "")
            if not name:
                others = ", ".join(filter(None, found.values()))
                raise UserError(
                    f"{path}: has figures of {others}, not of {checkpoint}; measure that with stage 4, or name its "
                    "figures with --metrics"
                )
            rows = {key: systems[key] for key in (GROUND_TRUTH, RESYNTHESIS, name) if key in systems}
            for row in rows.values():
                for value in row["metrics"].values():
                    _ = (float(value["mean"]), float(value["low"]), float(value["high"]))
                _ = (int(row["num_utterances"]), len(row["failures"]))
            by = [] if recognizer is None else [f"recognizer: {_described(recognizer)}"]
            by += [f"{key.replace('_', ' ')}: {_described(model)}" for key, model in content.get("models", {}).items()]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: is no metrics.json of stage 4, or damaged; run stage 4 again") from error
        return cls(rows, name, by, found[name])

    def to_markdown(self) -> str:
        """The table, with means and their 95 % intervals, and what it was measured with."""
        columns = [column for column in COLUMNS if any(column.key in row["metrics"] for row in self.rows.values())]
        lines = ["| | " + " | ".join(column.title for column in columns) + " |", "| --- " * (len(columns) + 1) + "|"]
        for key, row in self.rows.items():
            cells = [_interval(row["metrics"].get(column.key), column) for column in columns]
            lines.append(f"| {_plain('this model' if key == self.name else key)} | {' | '.join(cells)} |")
        own = self.rows[self.name]
        text = (
            f"Stage 4 of Vallet, {own['num_utterances']} utterances measured; {len(own['failures'])} texts failed. "
            "Means, with 95 % confidence intervals by bootstrap over utterances:"
        )
        by = [f"Measured by: {_plain('; '.join(self.by))}."] if self.by else []
        return "\n\n".join([text, "\n".join(lines), *by])


def model_card(
    model: str,
    settings: Settings,
    num_weights: int,
    licence: str,
    languages: Sequence[str],
    data: str | None,
    voices: Mapping[str, Voice],
    measured: Measured | None,
) -> str:
    """The text of a card, with YAML metadata, for the model `user/model` on the hub.

    `licence` is an identifier of the hub, `languages` are ISO codes, and `data` says what the model was trained on,
    beside the names of the corpora in the settings.
    """
    from huggingface_hub import ModelCardData

    metadata = ModelCardData(
        language=list(languages),
        license=licence,
        library_name="vallet",
        pipeline_tag="text-to-speech",
        tags=["text-to-speech", "voice-cloning", "vall-e", "vallet"],
    )
    prompt = f'voice="{next(iter(voices))}"' if voices else 'prompt="prompt.wav", prompt_text="What is said in it."'
    rows = [
        f"| {_plain(name)} | {_plain(voice.language)} | {_plain(voice.licence)} | {_plain(voice.consent)} |"
        for name, voice in voices.items()
    ]
    table = "\n".join(["| voice | language | licence | consent |", "| --- | --- | --- | --- |", *rows])
    corpora = f"Corpora of the training: {', '.join(settings.dataset)}."
    return _CARD.format(
        metadata=metadata.to_yaml().strip(),
        title=model.split("/")[1],
        model=model,
        num_weights=num_weights / 1e6,
        codec=settings.preprocess.acoustic_token_extractor,
        sample_rate=settings.preprocess.sample_rate,
        languages=", ".join(languages),
        text="The quick brown fox jumps over the lazy dog." if "en" in languages else "A text in one of the languages.",
        prompt=prompt,
        voices=table if voices else "The model has no voices of its own: give it a recording and its text.",
        data=f"{' '.join(data.split())}\n\n{corpora}" if data else corpora,
        measured="Not measured." if measured is None else measured.to_markdown(),
        licence=licence,
    )


def _interval(value: Mapping[str, float] | None, column: Column) -> str:
    if value is None:
        return "-"
    mean, low, high = (f"{value[key] * column.scale:.{column.digits}f}" for key in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


def _is_numbered(key: str, name: str) -> bool:
    """Whether a row is that of an experiment, or has a number after its name."""
    return key == name or (key.startswith(f"{name} ") and key[len(name) + 1 :].isdecimal())


def _described(model: Mapping[str, str]) -> str:
    """A model's name and what else is recorded of it."""
    name, *others = (str(value) for value in model.values())
    return f"{name} ({', '.join(others)})" if others else name


def _plain(text: str) -> str:
    """A text as one cell of a table, without markup."""
    return "".join(f"\\{character}" if character in "\\|`*_[]<>" else character for character in text)
