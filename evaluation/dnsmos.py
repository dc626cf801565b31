"""DNSMOS: predicted listener ratings of audio quality (arXiv 2010.15258, 2110.01763)."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from evaluation.locked_librosa import librosa
from evaluation.recognizers import RATE_HZ
from utils.errors import UserError, first_line

FILES = ("sig_bak_ovr.onnx", "model_v8.onnx")
_WINDOW = 144160
_HOP = RATE_HZ
# Polynomials that map the network's outputs to P.835 ratings: speech, background, overall.
_CALIBRATION = (
    np.poly1d([-0.08397278, 1.22083953, 0.0052439]),
    np.poly1d([-0.13166888, 1.60915514, -0.39604546]),
    np.poly1d([-0.06766283, 1.11546468, 0.04602535]),
)


class Dnsmos:
    """Predicts ratings from 1 to 5: P.835 (speech, background, overall) and P.808. `folder` holds both networks."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # Threads that wait by spinning slow each other down where there are fewer cores than threads.
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._p835, self._p808 = (
            onnxruntime.InferenceSession(str(folder / name), options, providers=["CPUExecutionProvider"])
            for name in FILES
        )

    def rate(self, audio: np.ndarray) -> tuple[float, float, float, float]:
        """Rate (N,) audio at 16 kHz: the mean over windows of 9.01 s, 1 s apart. Shorter audio is repeated."""
        audio = np.tile(audio, -(-_WINDOW // max(1, len(audio)))) if len(audio) < _WINDOW else audio
        windows = np.lib.stride_tricks.sliding_window_view(audio, _WINDOW)[::_HOP].astype(np.float32)
        raw = _run(self._p835, windows).mean(0)
        speech, background, overall = (float(curve(value)) for curve, value in zip(_CALIBRATION, raw, strict=True))
        p808 = _run(self._p808, np.stack([_log_mel(window) for window in windows])).mean()
        return speech, background, overall, float(p808)


def _run(network: Any, inputs: np.ndarray) -> np.ndarray:
    return network.run(None, {network.get_inputs()[0].name: inputs})[0]


def _log_mel(window: np.ndarray) -> np.ndarray:
    """The P.808 network's input: (900, 120) scaled decibels."""
    mel = librosa.feature.melspectrogram(y=window[: -RATE_HZ // 100], sr=RATE_HZ, n_fft=321, hop_length=160, n_mels=120)
    return ((librosa.power_to_db(mel, ref=np.max) + 40) / 40).T.astype(np.float32)


def build_dnsmos(folder: Path | None) -> Dnsmos:
    """Load the networks from `folder`. Raises UserError with how to get them if they cannot be loaded."""
    how = f"give --dnsmos_dir DIR with {' and '.join(FILES)} of Microsoft's DNS-Challenge, DNSMOS/DNSMOS"
    if folder is None:
        raise UserError(how)
    try:
        return Dnsmos(folder)
    except Exception as error:  # The runtime raises many types.
        reason = first_line(error)
        raise UserError(f"DNSMOS cannot be loaded ({reason}); pip install 'vallet[eval]' and {how}") from error
