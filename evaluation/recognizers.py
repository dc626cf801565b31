"""Speech recognizers for word error rates, behind one interface."""

import os
from collections.abc import Callable
from typing import Any, Literal, Protocol

import numpy as np
import torch

from utils.errors import UserError, first_line

RATE_HZ = 16000
"""Sample rate of what recognizers, speaker models and DNSMOS take."""
CPU = torch.device("cpu")
RecognizerName = Literal["pocketsphinx", "whisper", "hubert", "none"]


class Recognizer(Protocol):
    """Transcribes speech. `name` identifies the model in the report."""

    name: str

    def transcribe(self, audio: np.ndarray) -> str:
        """Return the words in (N,) audio at 16 kHz."""
        ...


def quiet_transformers() -> None:
    """Silence the logs and progress bars of transformers and the hub: errors are raised anyway."""
    # Nothing about an evaluation is sent to other machines.
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    hub_logging.set_verbosity(hub_logging.CRITICAL)


class PocketSphinx:
    """A small, fast recognizer that includes its English model. Far less accurate than current models."""

    name = "PocketSphinx"

    def __init__(self) -> None:
        import pocketsphinx

        self._decoder = pocketsphinx.Decoder(samprate=RATE_HZ, loglevel="FATAL")

    def transcribe(self, audio: np.ndarray) -> str:
        samples = (audio.clip(-1, 1) * 32767).astype(np.int16)
        self._decoder.start_utt()
        self._decoder.process_raw(samples.tobytes(), full_utt=True)
        self._decoder.end_utt()
        hypothesis = self._decoder.hyp()
        return hypothesis.hypstr if hypothesis else ""


class Transformers:
    """Whisper, HuBERT or another transformers model; `source` is a folder or a name on the hub."""

    def __init__(self, source: str, device: torch.device) -> None:
        from transformers import pipeline

        quiet_transformers()
        self.name = source.rstrip("/").split("/")[-1]
        self._pipeline: Any = pipeline("automatic-speech-recognition", model=source, device=device)

    def transcribe(self, audio: np.ndarray) -> str:
        # Only Whisper takes a task, and needs timestamps for audio longer than its window of 30 s.
        is_whisper = self._pipeline.type == "seq2seq_whisper"
        options = {"return_timestamps": True, "generate_kwargs": {"task": "transcribe"}} if is_whisper else {}
        return str(self._pipeline({"raw": audio, "sampling_rate": RATE_HZ}, **options)["text"])


MODELS: dict[RecognizerName, str] = {
    "whisper": "openai/whisper-large-v3",
    "hubert": "facebook/hubert-large-ls960-ft",
}


def build_recognizer(name: RecognizerName, source: str | None, device: torch.device = CPU) -> Recognizer:
    """Load a recognizer; `source` replaces the default model of `MODELS` by a folder or a name on the hub.

    PocketSphinx runs on the CPU. Raises UserError with how to get the recognizer if it cannot be loaded.
    """
    if name == "none":
        raise UserError("give --asr pocketsphinx, whisper or hubert")
    try:
        return PocketSphinx() if name == "pocketsphinx" else Transformers(source or MODELS[name], device)
    except (ImportError, OSError, ValueError) as error:
        reason = first_line(error)
        where = "" if name == "pocketsphinx" else f", or give --asr_model DIR with a copy of {MODELS[name]}"
        raise UserError(f"{name} cannot be loaded ({reason}); pip install 'vallet[eval]'{where}") from error


def build_normalizer(language: str) -> Callable[[str], str]:
    """Return Whisper's text normalizer: it also unifies numbers and contractions if the language is English."""
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

    return EnglishTextNormalizer({}) if language.startswith("en") else BasicTextNormalizer()
