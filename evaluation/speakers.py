"""Speaker similarity: cosines of speaker embeddings (VALL-E, section 5.1)."""

from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from evaluation.fairseq_weights import load_tensors
from evaluation.ge2e import Ge2eEmbeddings
from evaluation.ge2e_weights import ge2e_weights
from evaluation.recognizers import CPU, RATE_HZ, model_name
from evaluation.wavlm_speakers import ENCODER, WavLmEmbeddings
from utils.errors import UserError, first_line
from utils.hub import quiet_transformers

MODEL = "microsoft/wavlm-base-plus-sv"
GE2E = "ge2e"
"""The speaker model whose weights come from PyPI."""


class Embedder(Protocol):
    """Computes speaker embeddings. `name` identifies the model in the report, and `kind` says what it is.

    Cosines can be compared only between embeddings of one kind.
    """

    name: str
    kind: str

    def embed(self, audio: np.ndarray) -> np.ndarray:
        """Map (N,) audio at 16 kHz to a unit-length embedding (E,)."""
        ...


class XVectors:
    """WavLM or another transformers model with an x-vector head."""

    kind = "x-vectors"

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
    """Load a speaker model: `GE2E`, a file, or a folder or a name on the hub with x-vectors.

    A file is the checkpoint of a GE2E encoder, or UniSpeech's of a WavLM with an ECAPA-TDNN head. Raises UserError with
    how to get one if `source` is None or cannot be loaded.
    """
    how = (
        f"give --speaker_model {GE2E} or {MODEL} to download it once, a folder with a model with x-vectors, the file "
        "of a GE2E encoder, or UniSpeech's wavlm_large_finetune.pth"
    )
    if source is None:
        raise UserError(how)
    try:
        path = ge2e_weights() if source == GE2E else Path(source)
        if path.is_file():
            return _from_file(path, device, how)
        return XVectors(source, device)
    except (ImportError, OSError, ValueError) as error:
        reason = first_line(error)
        raise UserError(f"{source} cannot be loaded ({reason}); pip install 'vallet[eval]', and {how}") from error


def _from_file(path: Path, device: torch.device, how: str) -> Embedder:
    content = load_tensors(path, how)
    weights = content.get("model")
    if isinstance(weights, dict) and any(str(name).startswith(ENCODER) for name in weights):
        return WavLmEmbeddings(path, {str(name): weight for name, weight in weights.items()}, device, how)
    return Ge2eEmbeddings(path, content, device)
