"""Whether a codec's round trip of a clip is sane: weights of another model, or damaged ones, give noise."""

from dataclasses import dataclass

import torch
import torchaudio
from torch import Tensor

from processors.codecs.base import Codec

# What trained codecs do not exceed on clean speech, with room to spare; noise is far beyond.
MAX_ERROR_SHARE = 0.75
MAX_LEVEL_DB, MAX_DELAY_SECONDS, MAX_CLIPPED = 6.0, 0.03, 0.01
MIN_SECONDS = 1.0
# Frames and bands that are this much weaker than the strongest do not count.
_RANGE_DB, _STEP_SECONDS, _NUM_MELS, _MAX_LAG = 50.0, 0.01, 40, 20


@dataclass(frozen=True)
class RoundTrip:
    """What a codec does to a clip.

    `error_share` is the mean distance of mel spectrograms in dB, as a share of how much the clip's own spectrum
    varies; the level is not counted. `codes_used` is the number of different codes of each codebook.
    """

    seconds: float
    num_frames: int
    codes_used: tuple[int, ...]
    error_db: float
    error_share: float
    level_db: float
    delay_seconds: float
    clipped: float
    is_finite: bool

    @property
    def problems(self) -> list[str]:
        """Why the round trip is not sane, in words; empty if it is."""
        if not self.is_finite:
            return ["the audio is not finite"]
        found = []
        if self.error_share > MAX_ERROR_SHARE:
            share = f"{self.error_share:.2f} of its own variation, at most {MAX_ERROR_SHARE} is sane"
            found.append(f"the sound is not that of the clip (a distance of {share})")
        if abs(self.level_db) > MAX_LEVEL_DB:
            found.append(f"the level changes by {self.level_db:+.1f} dB")
        if abs(self.delay_seconds) > MAX_DELAY_SECONDS:
            found.append(f"the audio is shifted by {1000 * self.delay_seconds:+.0f} ms")
        if self.clipped > MAX_CLIPPED:
            found.append(f"{100 * self.clipped:.0f} % of the samples are clipped")
        if min(self.codes_used) < 2 and self.num_frames > 1:
            found.append(f"codebook {self.codes_used.index(min(self.codes_used))} always has the same code")
        return found


def round_trip(codec: Codec, audio: Tensor) -> RoundTrip:
    """Encode and decode (N,) audio at the codec's rate."""
    codes, lens = codec.encode(audio[None], torch.tensor([len(audio)]))
    decoded, _ = codec.decode(codes, lens)
    codes, decoded = codes[0].cpu(), decoded[0, : len(audio)].cpu()
    is_finite = bool(decoded.isfinite().all())
    before, after = (_mel_db(wave, codec.sample_rate_hz) for wave in (audio, decoded.nan_to_num()))
    # Only what is loud enough in the clip is compared.
    counts = before > before.max() - _RANGE_DB
    floor = before.max() - _RANGE_DB
    before, after = before.clamp(min=floor), after.clamp(min=floor)
    level_db = _power_db(decoded.nan_to_num()) - _power_db(audio)
    delay = _delay_frames(before.mean(1), after.mean(1))
    after = after.roll(-delay, 0)
    difference = (after - before)[counts]
    error_db = float((difference - difference.mean()).abs().mean())
    variation_db = float((before - before.mean(0))[counts].abs().mean())
    return RoundTrip(
        seconds=len(audio) / codec.sample_rate_hz,
        num_frames=len(codes),
        codes_used=tuple(len(book.unique()) for book in codes.T),
        error_db=error_db,
        error_share=error_db / max(variation_db, 1e-3),
        level_db=level_db,
        delay_seconds=delay * _STEP_SECONDS,
        clipped=float((decoded.abs() >= 1).float().mean()),
        is_finite=is_finite,
    )


def _mel_db(wave: Tensor, rate_hz: int) -> Tensor:
    """(T, M) mel powers of (N,) samples in dB, up to 8 kHz."""
    step = round(rate_hz * _STEP_SECONDS)
    transform = torchaudio.transforms.MelSpectrogram(
        rate_hz, n_fft=4 * step, hop_length=step, f_max=min(8000, rate_hz / 2), n_mels=_NUM_MELS, center=False
    )
    return 10 * transform(wave).clamp(min=1e-10).log10().T


def _power_db(wave: Tensor) -> float:
    return float(10 * wave.square().mean().clamp(min=1e-10).log10())


def _delay_frames(before: Tensor, after: Tensor) -> int:
    """The shift of one (T,) loudness curve against another that correlates best."""
    before, after = before - before.mean(), after - after.mean()
    longest = min(_MAX_LAG, len(before) // 4)
    products = {lag: float((before * after.roll(-lag)).sum()) for lag in range(-longest, longest + 1)}
    return max(products, key=lambda lag: (products[lag], -abs(lag)))
