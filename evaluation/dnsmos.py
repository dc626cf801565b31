"""DNSMOS: how people would rate the sound, as a model of their ratings says (arXiv 2010.15258, 2110.01763)."""

from pathlib import Path
from typing import Any

import librosa
import numpy as np

from evaluation.recognizers import RATE_HZ
from utils.errors import UserError, first_line

FILES = ("sig_bak_ovr.onnx", "model_v8.onnx")
_WINDOW = 144160
_HOP = RATE_HZ
# From the networks' scale to that of the ratings, P.835: speech, background, overall.
_CALIBRATION = (
    np.poly1d([-0.08397278, 1.22083953, 0.0052439]),
    np.poly1d([-0.13166888, 1.60915514, -0.39604546]),
    np.poly1d([-0.06766283, 1.11546468, 0.04602535]),
)


class Dnsmos:
    """Ratings from 1 to 5 by P.835 (speech, background, overall) and P.808, from a folder with both networks."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._p835, self._p808 = (
            onnxruntime.InferenceSession(str(folder / name), options, providers=["CPUExecutionProvider"])
            for name in FILES
        )

    def rate(self, audio: np.ndarray) -> tuple[float, float, float, float]:
        """(N,) audio at 16 kHz; means over windows of 9.01 s, a second apart, which shorter audio fills repeatedly."""
        audio = np.tile(audio, -(-_WINDOW // max(1, len(audio)))) if len(audio) < _WINDOW else audio
        windows = np.lib.stride_tricks.sliding_window_view(audio, _WINDOW)[::_HOP].astype(np.float32)
        raw = _run(self._p835, windows).mean(0)
        speech, background, overall = (float(curve(value)) for curve, value in zip(_CALIBRATION, raw, strict=True))
        p808 = _run(self._p808, np.stack([_log_mel(window) for window in windows])).mean()
        return speech, background, overall, float(p808)


def _run(network: Any, inputs: np.ndarray) -> np.ndarray:
    return network.run(None, {network.get_inputs()[0].name: inputs})[0]


def _log_mel(window: np.ndarray) -> np.ndarray:
    """(900, 120), as the network was trained on."""
    mel = librosa.feature.melspectrogram(y=window[: -RATE_HZ // 100], sr=RATE_HZ, n_fft=321, hop_length=160, n_mels=120)
    return ((librosa.power_to_db(mel, ref=np.max) + 40) / 40).T.astype(np.float32)


def build_dnsmos(folder: Path | None) -> Dnsmos:
    """Raises UserError where the networks are not there, saying how to get them."""
    how = f"give --dnsmos_dir DIR with {' and '.join(FILES)} of Microsoft's DNS-Challenge, DNSMOS/DNSMOS"
    if folder is None:
        raise UserError(how)
    try:
        return Dnsmos(folder)
    except Exception as error:  # Of many types, from the runtime.
        reason = first_line(error)
        raise UserError(f"DNSMOS cannot be loaded ({reason}); pip install 'vallet[eval]' and {how}") from error
