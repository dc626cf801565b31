"""UTMOS: a predicted listener rating of naturalness (arXiv 2204.02152), the strong learner."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from evaluation.fairseq_weights import build_encoder, fill, load_tensors, part_of
from utils.errors import UserError

KIND = "UTMOS22 strong learner"
FILE = "utmos22_strong_step7459_v1.pt"
_ENCODER = "wav2vec2."
_HOW = f"give --utmos FILE, {FILE} of github.com/tarepan/SpeechMOS/releases/tag/v1.0.0"


class Head(nn.Module):
    """Rates each frame from the encoder's output and the embeddings of a listener and of a domain of training."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        hidden, width = weights["blstm.weight_hh_l0"].shape[1], weights["blstm.weight_ih_l0"].shape[1]
        self.domain_emb = nn.Parameter(torch.zeros_like(weights["domain_emb"]))
        self.judge_emb = nn.Parameter(torch.zeros_like(weights["judge_emb"]))
        self.blstm = nn.LSTM(width, hidden, batch_first=True, bidirectional=True)
        inner = len(weights["projection.0.weight"])
        self.projection = nn.Sequential(nn.Linear(2 * hidden, inner), nn.ReLU(), nn.Linear(inner, 1))

    def forward(self, frames: Tensor) -> Tensor:
        """Map (B, T, D) to ratings (B,)."""
        context = torch.cat([self.domain_emb, self.judge_emb], dim=1).expand(*frames.shape[:2], -1)
        ratings = self.projection(self.blstm(torch.cat([frames, context], dim=2))[0])
        # The network was trained on ratings from -1 to 1.
        return 3 + 2 * ratings.mean(dim=(1, 2))


class Utmos:
    """Predicts a rating from 1 to 5, from a checkpoint in the format of SpeechMOS."""

    kind = KIND

    def __init__(self, path: Path, device: torch.device) -> None:
        weights = load_tensors(path, _HOW)
        self.name = path.name
        self._encoder = build_encoder(part_of(weights, _ENCODER), path, _HOW).to(device)
        head = {name: weight for name, weight in weights.items() if not name.startswith(_ENCODER)}
        try:
            model = Head(head)
        except (KeyError, ValueError, AttributeError, TypeError, IndexError) as error:
            raise UserError(f"{path}: has no head of UTMOS's strong learner ({error}); {_HOW}") from error
        self._head = fill(model, head, path, _HOW).to(device)
        self._device = device

    @torch.inference_mode()
    def rate(self, audio: np.ndarray) -> float:
        """Rate (N,) audio at 16 kHz."""
        waveform = torch.from_numpy(audio).float().to(self._device)[None]
        return float(self._head(self._encoder(waveform).last_hidden_state))


def build_utmos(path: Path | None, device: torch.device) -> Utmos:
    """Load the network from a file. Raises UserError with how to get it."""
    if path is None:
        raise UserError(_HOW)
    try:
        return Utmos(path, device)
    except ImportError as error:
        raise UserError(f"UTMOS needs {error.name}: pip install 'vallet[eval]'") from error
