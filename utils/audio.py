"""Reads and writes audio files as mono float32 waveforms in [-1, 1]."""

import io
import os
import struct
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from utils.errors import UserError
from utils.files import atomic_write

# libsndfile lists formats, not suffixes: these are further suffixes of formats that it reads.
AUDIO_SUFFIXES = frozenset(f".{name.lower()}" for name in soundfile.available_formats()) | {
    *(".opus", ".oga", ".aif", ".aifc", ".mpga")
}
"""Suffixes of audio files that can be read."""
FOREIGN_SUFFIXES = frozenset({".m4a", ".mp4", ".aac", ".webm", ".wma", ".amr", ".ac3", ".mka", ".3gp", ".mov", ".mkv"})
"""Suffixes of audio files that must be converted first."""
MAX_WAV_SAMPLES = (2**32 - 1 - 36) // 2
"""The most samples of a 16-bit WAV, whose sizes are 32-bit numbers."""


def read_duration_seconds(path: Path) -> float:
    """The duration that the header states. Raises UserError if the file cannot be read as audio."""
    _check_file(path)
    try:
        return soundfile.info(str(path)).duration
    except (soundfile.SoundFileError, OSError, TypeError) as error:
        raise _unreadable(path, error) from error


def read_audio(
    path: Path, sample_rate_hz: int, start_seconds: float = 0.0, duration_seconds: float | None = None
) -> Tensor:
    """A file, or a part of it, as (N,) samples at `sample_rate_hz`; channels are averaged.

    Raises UserError if the file is missing, not audio, empty, or has samples that are not finite.
    """
    return to_float(torch.from_numpy(read_samples(path, sample_rate_hz, start_seconds, duration_seconds)))


def read_samples(
    path: Path, sample_rate_hz: int, start_seconds: float = 0.0, duration_seconds: float | None = None
) -> np.ndarray:
    """As `read_audio`, in the least memory: int16 where the samples are stored so, and need no change, else float32."""
    _check_file(path)
    try:
        with soundfile.SoundFile(str(path)) as file:
            rate = file.samplerate
            file.seek(min(round(start_seconds * rate), file.frames))
            num_samples = -1 if duration_seconds is None else round(duration_seconds * rate)
            is_exact = file.subtype == "PCM_16" and file.channels == 1 and rate == sample_rate_hz
            samples = file.read(num_samples, dtype="int16" if is_exact else "float32", always_2d=True)
    except (soundfile.SoundFileError, OSError, TypeError) as error:
        raise _unreadable(path, error) from error
    if not len(samples):
        raise UserError(f"{path}: the audio is empty")
    if is_exact:
        return samples[:, 0]
    if not np.isfinite(samples).all():
        raise UserError(f"{path}: the audio has samples that are not finite")
    waveform = samples.mean(axis=1)
    if rate == sample_rate_hz:
        return waveform
    return _resampler(rate, sample_rate_hz)(torch.from_numpy(waveform)).numpy()


def to_float(samples: Tensor) -> Tensor:
    """Samples of `read_samples` as float32 in [-1, 1]. Exact: libsndfile divides 16-bit samples by 32768, too."""
    return samples.float().div_(32768) if samples.dtype == torch.int16 else samples


def write_audio(path: Path, waveform: Tensor, sample_rate_hz: int) -> None:
    """Write (N,) samples as 16-bit WAV, clipped to [-1, 1], atomically."""
    samples = waveform.detach().float().clamp(-1, 1).cpu().numpy()
    with atomic_write(path) as temporary:
        soundfile.write(str(temporary), samples, sample_rate_hz, subtype="PCM_16", format="WAV")


def append_audio(path: Path, waveform: Tensor, sample_rate_hz: int, num_samples: int) -> None:
    """Write (N,) samples after the first `num_samples` of a 16-bit WAV, and remove what follows those.

    The file is complete after each call, the same as `write_audio` of all samples, and is synced to disk. It is made if
    `num_samples` is 0.
    """
    samples = io.BytesIO()
    clipped = waveform.detach().float().clamp(-1, 1).cpu().numpy()
    soundfile.write(samples, clipped, sample_rate_hz, subtype="PCM_16", format="RAW", endian="LITTLE")
    num_bytes = 2 * (num_samples + len(waveform))
    sizes = (16, 1, 1, sample_rate_hz, 2 * sample_rate_hz, 2, 16)
    header = b"RIFF" + struct.pack("<I", 36 + num_bytes) + b"WAVEfmt " + struct.pack("<IHHIIHH", *sizes)
    header += b"data" + struct.pack("<I", num_bytes)
    with path.open("r+b" if num_samples else "wb") as file:
        file.truncate(len(header) + 2 * num_samples)
        file.seek(0, io.SEEK_END)
        file.write(samples.getvalue())
        file.seek(0)
        file.write(header)
        file.flush()
        os.fsync(file.fileno())


@lru_cache(maxsize=16)
def _resampler(from_hz: int, to_hz: int) -> torch.nn.Module:
    # Building the filter is expensive, and a corpus has few sample rates.
    from torchaudio.transforms import Resample

    return Resample(from_hz, to_hz)


def _check_file(path: Path) -> None:
    """Raise UserError unless `path` is a regular file: reading a pipe or a device might never end."""
    try:
        if path.is_file():
            return
        reason = "not a file" if path.exists() else "no such audio file"
        if "\\" in str(path):
            reason += "; its path has backslashes, which do not separate folders here; use /"
    except (OSError, RuntimeError, ValueError) as error:
        reason = f"not a valid file name ({error})"
    raise UserError(f"{path}: {reason}")


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = str(error).splitlines()[-1]
    if path.suffix.lower() in FOREIGN_SUFFIXES:
        reason = f"{path.suffix[1:]} is not supported; convert it: ffmpeg -i {path.name} {path.stem}.flac"
    return UserError(f"{path}: cannot be read as audio ({reason})")
