"""Encodes audio block by block in the formats of the HTTP API."""

import io
import math
import struct
import zlib

import soundfile
import torch
from torch import Tensor
from torchaudio.functional import resample

PCM_RATE_HZ = 24000
"""The rate of headerless audio: what clients of this API expect."""
CONTENT_TYPES = {
    "wav": "audio/wav",
    "flac": "audio/flac",
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "pcm": "audio/pcm",
}
# libsndfile's format and subtype, and the rates that the format has; no rates: any.
_FORMATS: dict[str, tuple[str, str, tuple[int, ...]]] = {
    "wav": ("WAV", "PCM_16", ()),
    "flac": ("FLAC", "PCM_16", ()),
    "mp3": ("MP3", "MPEG_LAYER_III", (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)),
    "opus": ("OGG", "OPUS", (8000, 12000, 16000, 24000, 48000)),
    "pcm": ("RAW", "PCM_16", (PCM_RATE_HZ,)),
}
# Of libsndfile: 96 kbit/s at 24 kHz. A constant rate, as the length of a stream is guessed from it.
_MP3_COMPRESSION = 0.4
_UNKNOWN_BYTES = 0xFFFFFFFF
_REVERSED_BYTES = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class AudioEncoder:
    """Encodes blocks (N,) of audio. The bytes depend on the format and the blocks alone.

    A stream is encoded as it comes, and its header does not have its length. Otherwise all bytes come with the end.
    FLAC always does: what reads it needs the length.
    """

    def __init__(self, file_format: str, sample_rate_hz: int, is_stream: bool) -> None:
        name, subtype, rates = _FORMATS[file_format]
        rate_hz = sample_rate_hz if not rates or sample_rate_hz in rates else PCM_RATE_HZ
        self._format, self._is_stream = file_format, is_stream and file_format != "flac"
        self._resampler = _BlockResampler(sample_rate_hz, rate_hz)
        self._sink, self._head = _Sink(), b""
        # The start of an MP3 until its second frame; None once that was found.
        self._rest: bytes | None = b""
        if file_format == "wav" and self._is_stream:
            sizes = (16, 1, 1, rate_hz, 2 * rate_hz, 2, 16)
            self._head = b"RIFF" + struct.pack("<I", _UNKNOWN_BYTES) + b"WAVEfmt " + struct.pack("<IHHIIHH", *sizes)
            self._head += b"data" + struct.pack("<I", _UNKNOWN_BYTES)
            name = "RAW"
        options = {"bitrate_mode": "CONSTANT", "compression_level": _MP3_COMPRESSION} if file_format == "mp3" else {}
        endian = "LITTLE" if name == "RAW" else None
        self._file = soundfile.SoundFile(self._sink, "w", rate_hz, 1, subtype, endian, name, **options)

    def add(self, block: Tensor) -> bytes:
        """The next bytes, which may be none."""
        self._write(self._resampler.add(block))
        return self._take() if self._is_stream else b""

    def finish(self) -> bytes:
        """The last bytes."""
        self._write(self._resampler.finish())
        self._file.close()
        return self._take()

    def _write(self, samples: Tensor) -> None:
        if len(samples):
            self._file.write(samples.float().clamp(-1, 1).cpu().numpy())

    def _take(self) -> bytes:
        found, self._head = self._head + self._sink.take(), b""
        if self._format == "opus":
            return _with_fixed_serial(found)
        if self._format == "mp3" and self._is_stream and self._rest is not None:
            # Leave out the first frame, which has the length of a file: its numbers are missing in a stream.
            self._rest += found
            second = self._rest.find(self._rest[:2], 2)
            found, self._rest = (b"", self._rest) if second < 0 else (self._rest[second:], None)
        return found


class _Sink(io.RawIOBase):
    """Takes what libsndfile writes. What was taken out cannot be changed any more: such writes are dropped."""

    def __init__(self) -> None:
        self._bytes, self._num_taken, self._position = bytearray(), 0, 0

    def write(self, data: bytes) -> int:  # type: ignore[override]
        start = self._position - self._num_taken
        if start >= 0:
            self._bytes[start : start + len(data)] = data
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position}.get(whence, self._num_taken + len(self._bytes))
        self._position = origin + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def take(self) -> bytes:
        """All bytes that were not taken before."""
        found = bytes(self._bytes)
        self._num_taken += len(found)
        self._bytes.clear()
        return found


class _BlockResampler:
    """Resamples a signal that comes in blocks, as if it came in one piece."""

    def __init__(self, from_hz: int, to_hz: int) -> None:
        divisor = math.gcd(from_hz, to_hz)
        self._from, self._to = from_hz // divisor, to_hz // divisor
        # More than the filter reads on each side, in whole steps of both rates.
        self._margin = 64 * self._from
        # Input that was used, but is needed at the left of the next one, and input that was not.
        self._samples, self._num_used = torch.zeros(0), 0

    def add(self, block: Tensor) -> Tensor:
        if self._from == self._to:
            return block
        self._samples = torch.cat([self._samples, block])
        ready = (len(self._samples) - self._margin) // self._from * self._from
        return self._resampled(max(ready, self._num_used), self._samples)

    def finish(self) -> Tensor:
        return self._resampled(len(self._samples), self._samples)

    def _resampled(self, end: int, samples: Tensor) -> Tensor:
        """The output for the input from what was used up to `end`."""
        start = self._num_used
        if end == start:
            return samples[:0]
        audio = resample(samples, self._from, self._to)
        kept = max(0, end - self._margin) // self._from * self._from
        self._samples, self._num_used = samples[kept:], end - kept
        return audio[start * self._to // self._from : -(-end * self._to // self._from)]


def _with_fixed_serial(pages: bytes) -> bytes:
    """Ogg pages with the serial number 1 instead of a random one: the same audio then has the same bytes."""
    done, start = bytearray(pages), 0
    while start < len(done):
        num_segments = done[start + 26]
        end = start + 27 + num_segments + sum(done[start + 27 : start + 27 + num_segments])
        done[start + 14 : start + 18] = struct.pack("<I", 1)
        done[start + 22 : start + 26] = bytes(4)
        done[start + 22 : start + 26] = struct.pack("<I", _ogg_checksum(bytes(done[start:end])))
        start = end
    return bytes(done)


def _ogg_checksum(page: bytes) -> int:
    """Ogg's CRC-32: that of zlib with the bits of each byte in the other order, and without its inversions."""
    reversed_crc = zlib.crc32(page.translate(_REVERSED_BYTES), _UNKNOWN_BYTES) ^ _UNKNOWN_BYTES
    return int(f"{reversed_crc:032b}"[::-1], 2)
