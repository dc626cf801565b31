"""Builds the measures of stage 4 from what is installed, and collects what is missing."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from evaluation.dnsmos import build_dnsmos
from evaluation.measures import Measures
from evaluation.normalizers import NormalizerName, build_normalizer
from evaluation.recognizers import CPU, RecognizerName, build_recognizer
from evaluation.speakers import build_embedder
from evaluation.utmos import build_utmos
from utils.errors import UserError

Tool = TypeVar("Tool")


def build_measures(
    language: str,
    asr: RecognizerName,
    asr_model: str | None,
    speaker_model: str | None,
    dnsmos_dir: Path | None,
    device: torch.device = CPU,
    utmos: Path | None = None,
    normalizer: NormalizerName = "whisper",
) -> tuple[Measures, dict[str, str]]:
    """Build all measures that are available. The second value maps each missing metric to how to get it."""
    missing: dict[str, str] = {}

    def attempt(metric: str, build: Callable[[], Tool]) -> Tool | None:
        try:
            return build()
        except UserError as error:
            missing[metric] = str(error)
            return None

    return Measures(
        normalizer=build_normalizer(language, normalizer),
        recognizer=attempt("WER and CER", lambda: build_recognizer(asr, asr_model, device, language)),
        embedder=attempt("speaker similarity", lambda: build_embedder(speaker_model, device)),
        dnsmos=attempt("DNSMOS", lambda: build_dnsmos(dnsmos_dir)),
        utmos=attempt("UTMOS", lambda: build_utmos(utmos, device)),
    ), missing
