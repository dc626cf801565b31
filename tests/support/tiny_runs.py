"""The programs in this process, on a corpus of noise that has no splits of its own, small enough to run many times."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, get_origin

import json5
import numpy as np
import soundfile
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file

import bins.inference
import bins.preprocess
import bins.train
from config.schema import Section, ValleExperiment
from utils.checkpoint import resolve_checkpoint

RATE_HZ = 24000
WORDS = ("early", "birds", "often", "find", "small", "green", "apples", "under", "tall", "trees", "near", "rivers")


class Program(Protocol):
    """A module of `bins`."""

    def main(self, arguments: Sequence[str] | None) -> int: ...


def write_custom(folder: Path, num: int, seed: int = 0) -> Path:
    """A custom corpus of three speakers, utterances of 0.8 to 1.6 s."""
    rng = np.random.default_rng(seed)
    (folder / "wavs").mkdir(parents=True)
    lines = []
    for index in range(num):
        _write_noise(folder / "wavs" / f"u{index:02d}.wav", rng)
        lines.append(f"u{index:02d}|s{index % 3}|{_text(rng)}\n")
    (folder / "metadata.csv").write_text("".join(lines))
    return folder


def write_ljspeech(folder: Path, num: int, seed: int = 1) -> Path:
    """The like in LJSpeech's layout."""
    rng = np.random.default_rng(seed)
    (folder / "wavs").mkdir(parents=True)
    lines = []
    for index in range(num):
        _write_noise(folder / "wavs" / f"LJ001-{index:04d}.wav", rng)
        text = _text(rng)
        lines.append(f"LJ001-{index:04d}|{text}|{text}\n")
    (folder / "metadata.csv").write_text("".join(lines))
    return folder


def _text(rng: np.random.Generator) -> str:
    return " ".join(rng.choice(WORDS, 3)).capitalize() + "."


def _write_noise(path: Path, rng: np.random.Generator) -> None:
    """Syllable-like bursts of two sines and noise."""
    pieces = []
    for _ in range(int(rng.integers(8, 17))):
        time = np.arange(RATE_HZ // 10) / RATE_HZ
        first, second = rng.uniform(100, 400), rng.uniform(500, 4000)
        burst = np.sin(2 * math.pi * first * time) + 0.5 * np.sin(2 * math.pi * second * time)
        pieces.append(burst * rng.uniform(0.05, 0.4) + 0.01 * rng.standard_normal(len(time)))
    soundfile.write(path, np.concatenate(pieces), RATE_HZ)


def write_config(path: Path, corpus: Path, folder: Path) -> Path:
    """An `exp_config.json` that writes into `folder`, everything in this process."""
    config = {
        "base_config": "config/valle.json",
        "dataset": ["custom"],
        "dataset_path": {"custom": str(corpus)},
        "log_dir": str(folder / "ckpts"),
        "preprocess": {
            "processed_dir": str(folder / "data"),
            "acoustic_token_extractor": "MelRVQ",
            "mel_rvq": {
                "frame_rate_hz": 25,
                "num_mels": 20,
                "fit_frames": 2000,
                "fit_iterations": 2,
                "griffin_lim_iterations": 4,
            },
            "valid_fraction": 0.2,
            "test_fraction": 0.1,
            "shard_size": 5,
            "num_workers": 0,
        },
        "model": {"decoder_dim": 16, "nhead": 2, "num_decoder_layers": 1, "text_token_num": 64, "dropout": 0.1},
        "train": {
            "max_sentences": 3,
            "max_steps": 3,
            "base_lr": 1e-2,
            "warmup_steps": 2,
            "total_training_steps": 100,
            "precision": "fp32",
            "log_interval": 1,
            "tracker": [],
            "dataloader": {"num_worker": 0},
        },
        "infer": {
            "min_seconds_per_phone": 0.02,
            "max_seconds_per_phone": 0.04,
            "min_seconds": 0,
            "slack_seconds": 0,
            # Texts have one part, though they are longer than the corpus's.
            "max_part_seconds": 60,
            "max_total_seconds": 60,
            "max_tries": 2,
            "continual_prompt_seconds": 0.5,
        },
    }
    path.write_text(json5.dumps(config, quote_keys=True))
    return path


def call(program: Program, *flags: str) -> int:
    """A program in this process, with nothing in accelerate of the one before it, or for the one after it."""
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        return program.main(flags)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def sets(changes: dict[str, Any]) -> list[str]:
    """Changes of settings as flags."""
    return [part for key, value in changes.items() for part in ("--set", f"{key}={json.dumps(value)}")]


def prepare(config: Path, changes: dict[str, Any]) -> None:
    assert call(bins.preprocess, "--config", str(config), *sets(changes)) == 0


def prepare_custom(folder: Path, num: int = 14) -> Path:
    """A config whose custom corpus is made and went through stage 1; all of it is in `folder`."""
    config = write_config(folder / "exp_config.json", write_custom(folder / "corpus", num), folder)
    prepare(config, {})
    return config


def train(config: Path, name: str, stage: int, changes: dict[str, Any], *flags: str, status: int = 0) -> None:
    own = ("--config", str(config), "--name", name, "--model_train_stage", str(stage))
    assert call(bins.train, *own, *flags, *sets(changes)) == status


def infer(experiment: Path, output: Path, changes: dict[str, Any], *flags: str) -> None:
    own = ("--infer_expt_dir", str(experiment), "--infer_output_dir", str(output))
    status = call(bins.inference, *own, *flags, *sets(changes))
    rows = [json.loads(line) for line in (output / "results.jsonl").read_text().splitlines()]
    # A model that has learned nothing seldom ends its speech by itself, which is a failure. But it speaks.
    assert all("audio" in row for row in rows) and status == any("error" in row for row in rows)


# Room enough for the speech of `let_speech_end` to end.
ROOMY = {"infer.min_seconds": 0.2, "infer.slack_seconds": 2, "infer.max_tries": 5}


def let_speech_end(experiment: Path) -> None:
    """Make the end of speech win in one frame of some ten, as no training of a few steps does."""
    path = resolve_checkpoint(experiment, "").weights
    weights = load_file(path)
    weights["ar_predict_layer.weight"][-1] *= 3
    save_file(weights, path)


def keys(section: type[Section] = ValleExperiment, prefix: str = "") -> Iterator[tuple[str, type[Section]]]:
    """Every dotted key of the settings, and the class whose field it is; a section is no key itself."""
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from keys(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", section


def has_a_choice(key: str, section: type[Section]) -> bool:
    """False for a key that allows one value alone, such as model_type: nothing can depend on it."""
    annotation = section.model_fields[key.split(".")[-1]].annotation
    return get_origin(annotation) is not Literal or len(get_args(annotation)) > 1
