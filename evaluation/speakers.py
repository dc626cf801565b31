"""Speaker similarity: cosines of speaker embeddings (VALL-E, section 5.1)."""

from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from evaluation.ge2e import Ge2eEmbeddings
from evaluation.ge2e_weights import ge2e_weights
from evaluation.recognizers import CPU, RATE_HZ, model_name, quiet_transformers
from utils.errors import UserError, first_line

MODEL = "microsoft/wavlm-base-plus-sv"
GE2E = "ge2e"
"""The speaker model whose weights come from PyPI."""


class Embedder(Protocol):
    """Computes speaker embeddings. `name` identifies the model in the report."""

    name: str

    def embed(self, audio: np.ndarray) -> np.ndarray:
        """Map (N,) audio at 16 kHz to a unit-length embedding (E,)."""
        ...


class XVectors:
    """WavLM or another transformers model with an x-vector head."""

    def __init__(self, source: str, device: torch.device) -> None:
        from transformers import AutoFeatureExtractor, AutoModelForAudioXVector

        quiet_transformers()
        self.name = model_name(source)
        self._features = AutoFeatureExtractor.from_pretrained(source)
        self._model = AutoModelForAudioXVector.from_pretrained(source).eval().to(device)
        self._device = device

    @torch.inference_mode()
    def embed(self, audio: np.ndarray) -> np.ndarray:
        inputs = self._features(audio, sampling_rate=RATE_HZ, return_tensors="pt").to(self._device)
        embedding = self._model(**inputs).embeddings[0].cpu().numpy()
        return embedding / np.linalg.norm(embedding)


def build_embedder(source: str | None, device: torch.device = CPU) -> Embedder:
    """Load a speaker model: `GE2E`, the file of such an encoder, or a folder or a name on the hub with x-vectors.

    Raises UserError with how to get one if `source` is None or cannot be loaded.
    """
    how = (
        f"give --speaker_model {GE2E} or {MODEL} to download it once, a folder with a model with x-vectors, or the "
        "file of a GE2E encoder"
    )
    if source is None:
        raise UserError(how)
    if source == GE2E:
        return Ge2eEmbeddings(ge2e_weights(), device)
    if Path(source).is_file():
        return Ge2eEmbeddings(Path(source), device)
    try:
        return XVectors(source, device)
    except (ImportError, OSError, ValueError) as error:
        reason = first_line(error)
        raise UserError(f"{source} cannot be loaded ({reason}); pip install 'vallet[eval]', and {how}") from error
