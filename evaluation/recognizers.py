"""Speech recognition, for word error rates: one interface, and what hears behind it."""

import os
from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
import torch

from utils.errors import UserError, first_line

RATE_HZ = 16000
"""Sample rate of what recognizers, speaker models and DNSMOS take."""
CPU = torch.device("cpu")
RecognizerName = Literal["pocketsphinx", "whisper", "hubert", "none"]


class Recognizer(Protocol):
    """Hears words. `name` says which model does."""

    name: str

    def transcribe(self, audio: np.ndarray) -> str:
        """The words of (N,) audio at 16 kHz."""
        ...


def quiet_transformers() -> None:
    """Errors are told by what is raised; logs and bars of the libraries beneath are not ours."""
    # What is measured here is nobody else's business.
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    hub_logging.set_verbosity(hub_logging.CRITICAL)


class PocketSphinx:
    """The recognizer that brings its English model with it: small, fast, and far from today's best."""

    name = "PocketSphinx"

    def __init__(self) -> None:
        import pocketsphinx

        self._decoder = pocketsphinx.Decoder(samprate=RATE_HZ, loglevel="FATAL")

    def transcribe(self, audio: np.ndarray) -> str:
        samples = (audio.clip(-1, 1) * 32767).astype(np.int16)
        self._decoder.start_utt()
        self._decoder.process_raw(samples.tobytes(), full_utt=True)
        self._decoder.end_utt()
        heard = self._decoder.hyp()
        return heard.hypstr if heard else ""


class Transformers:
    """Whisper, HuBERT or another recognizer in the format of transformers: a folder, or a model's name on the hub."""

    def __init__(self, source: str, device: torch.device) -> None:
        from transformers import pipeline

        quiet_transformers()
        self.name = source.rstrip("/").split("/")[-1]
        self._pipeline: Any = pipeline("automatic-speech-recognition", model=source, device=device)

    def transcribe(self, audio: np.ndarray) -> str:
        return str(self._pipeline({"raw": audio, "sampling_rate": RATE_HZ}, **self._options)["text"])

    @cached_property
    def _options(self) -> dict[str, Any]:
        # What a CTC model hears has no language to be told and no end to be cut at.
        if self._pipeline.type != "seq2seq_whisper":
            return {}
        return {"return_timestamps": True, "generate_kwargs": {"task": "transcribe"}}


MODELS: dict[RecognizerName, str] = {
    "whisper": "openai/whisper-large-v3",
    "hubert": "facebook/hubert-large-ls960-ft",
}


def build_recognizer(name: RecognizerName, source: str | None, device: torch.device = CPU) -> Recognizer:
    """The recognizer of a name; `source` is its folder or another model on the hub. PocketSphinx knows no device.

    Raises UserError where it is not to be had, saying how to get it.
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
    """Text to the words that are compared: Whisper's rules, which for English also unify numbers and short forms."""
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

    return EnglishTextNormalizer({}) if language.startswith("en") else BasicTextNormalizer()
