"""Speech as a picture: the waveform, and below it the spectrogram."""

from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from utils.spectrogram import spectrogram

_WIDTH, _WAVE_HEIGHT, _SPECTROGRAM_HEIGHT = 880, 130, 260
_LEFT, _RIGHT, _TOP, _GAP, _BOTTOM = 64, 20, 36, 18, 54
_FONT_SIZE, _TICK = 20, 6
_PAPER, _INK, _WAVE = (255, 255, 255), (70, 70, 78), (79, 70, 229)
# From silence to the loudest: dark to light, so that the colours read in grey as well.
_COLOURS = np.array([(8, 6, 30), (62, 18, 98), (142, 40, 110), (218, 74, 78), (250, 150, 60), (252, 250, 200)])


def draw_speech(audio: Tensor, sample_rate_hz: int) -> Image.Image:
    """Audio (N,), at least one sample, as a picture with seconds across and kHz upwards."""
    samples = audio.detach().float().cpu().numpy()
    seconds = len(samples) / sample_rate_hz
    spectrogram_top = _TOP + _WAVE_HEIGHT + _GAP
    picture = Image.new("RGB", (_LEFT + _WIDTH + _RIGHT, spectrogram_top + _SPECTROGRAM_HEIGHT + _BOTTOM), _PAPER)
    draw = ImageDraw.Draw(picture)
    for x, (low, high) in enumerate(envelope(samples, _WIDTH)):
        ends = [_TOP + _WAVE_HEIGHT / 2 * (1 - level) for level in (high, low)]
        draw.line([(_LEFT + x, ends[0]), (_LEFT + x, ends[1])], fill=_WAVE)
    levels = spectrogram(samples, sample_rate_hz, _WIDTH)
    colours = np.stack([np.interp(levels, np.linspace(0, 1, len(_COLOURS)), part) for part in _COLOURS.T], axis=-1)
    plane = Image.fromarray(colours[::-1].astype(np.uint8)).resize((_WIDTH, _SPECTROGRAM_HEIGHT))
    picture.paste(plane, (_LEFT, spectrogram_top))
    _draw_axes(draw, seconds, sample_rate_hz / 2000, spectrogram_top)
    return picture


def envelope(samples: np.ndarray, num_columns: int) -> np.ndarray:
    """Lowest and highest sample (num_columns, 2) of each column, of at most 1 as the loudest is."""
    edges = np.linspace(0, len(samples), num_columns + 1).astype(int)
    parts = [samples[first : max(last, first + 1)] for first, last in pairwise(edges)]
    extremes = np.array([(part.min(), part.max()) for part in parts])
    return extremes / max(1.0, np.abs(extremes).max())


def ticks(most: float, num: int) -> list[float]:
    """At most `num` round numbers beside 0, up to `most`."""
    step = next(
        digit * 10.0**power for power in range(-3, 6) for digit in (1, 2, 5) if digit * 10.0**power * num >= most
    )
    return [index * step for index in range(int(most / step + 1e-9) + 1)]


def _draw_axes(draw: ImageDraw.ImageDraw, seconds: float, most_khz: float, top: int) -> None:
    font = ImageFont.load_default(_FONT_SIZE)
    bottom = top + _SPECTROGRAM_HEIGHT
    draw.line([(_LEFT, _TOP), (_LEFT, _TOP + _WAVE_HEIGHT)], fill=_INK)
    for tick in ticks(seconds, 8):
        x = _LEFT + _WIDTH * tick / seconds
        draw.line([(x, bottom), (x, bottom + _TICK)], fill=_INK)
        unit = " s" if tick == 0 else ""
        draw.text((x, bottom + 2 * _TICK), f"{tick:g}{unit}", fill=_INK, font=font, anchor="mt")
    for tick in ticks(most_khz, 4):
        y = bottom - _SPECTROGRAM_HEIGHT * tick / most_khz
        draw.line([(_LEFT - _TICK, y), (_LEFT, y)], fill=_INK)
        draw.text((_LEFT - 2 * _TICK, y), f"{tick:g}", fill=_INK, font=font, anchor="rm")
    draw.text((4, top - 2), "kHz", fill=_INK, font=font, anchor="lm")
