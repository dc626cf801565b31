"""Speaker embeddings of a GE2E encoder (arXiv 1710.10467, section 2) in the checkpoint format of Resemblyzer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from evaluation.cepstra import trim
from evaluation.locked_librosa import librosa
from evaluation.recognizers import RATE_HZ
from utils.errors import UserError

_NUM_MELS, _WIDTH, _NUM_LAYERS = 40, 256, 3
_FFT_SAMPLES, _HOP_SAMPLES = 400, 160
_WINDOW_FRAMES, _STEP_FRAMES = 160, 80
# Quieter audio is raised to this level.
_MIN_LEVEL_DB = -30
_HOW = "give --speaker_model the file pretrained.pt of the Resemblyzer package, or a model with x-vectors"


class Ge2eEncoder(nn.Module):
    """An LSTM whose last state is projected to an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(_NUM_MELS, _WIDTH, _NUM_LAYERS, batch_first=True)
        self.linear = nn.Linear(_WIDTH, _WIDTH)

    def forward(self, mels: Tensor) -> Tensor:
        """Map windows (B, 160, 40) of mel frames to unit-length embeddings (B, 256)."""
        _, (hidden, _) = self.lstm(mels)
        return normalize(self.linear(hidden[-1]).relu(), dim=1)


class Ge2eEmbeddings:
    """Embeds a clip as the mean over its windows of 1.6 s, which overlap by half."""

    kind = "GE2E of Resemblyzer"

    def __init__(self, path: Path, content: Mapping[str, Any], device: torch.device) -> None:
        self.name = path.name
        self._encoder = _load_encoder(path, content).to(device)
        self._device = device

    @torch.inference_mode()
    def embed(self, audio: np.ndarray) -> np.ndarray:
        windows = mel_windows(audio).to(self._device)
        return normalize(self._encoder(windows).mean(0), dim=0).cpu().numpy()


def mel_windows(audio: np.ndarray) -> Tensor:
    """Cut the mel spectrogram of (N,) audio at 16 kHz into windows (B, 160, 40), without silence at the ends."""
    audio = trim(audio)
    level_db = 20 * np.log10(np.sqrt(np.mean(audio**2)) + 1e-9)
    audio = audio * 10 ** (max(0.0, _MIN_LEVEL_DB - level_db) / 20)
    # The encoder was trained on energies, not on their logarithms.
    energies = librosa.feature.melspectrogram(
        y=audio, sr=RATE_HZ, n_fft=_FFT_SAMPLES, hop_length=_HOP_SAMPLES, n_mels=_NUM_MELS
    )
    mels = torch.from_numpy(energies).float().T
    mels = nn.functional.pad(mels, (0, 0, 0, max(0, _WINDOW_FRAMES - len(mels))))
    return mels.unfold(0, _WINDOW_FRAMES, _STEP_FRAMES).transpose(1, 2)


def _load_encoder(path: Path, content: Mapping[str, Any]) -> Ge2eEncoder:
    weights = content.get("model_state")
    if not isinstance(weights, dict):
        raise UserError(f"{path}: has no model_state; {_HOW}")
    encoder = Ge2eEncoder().eval()
    try:
        # The scale and offset of training's similarities are no part of an embedding.
        encoder.load_state_dict({name: w for name, w in weights.items() if not str(name).startswith("similarity_")})
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: its model_state is not that of a GE2E encoder; {_HOW}") from error
    return encoder
