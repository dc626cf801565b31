"""Pictures of sound and of numbers, as PNG."""

import io
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.measures import Column
from utils.spectrogram import spectrogram

# There may be no screen.
matplotlib.use("agg")

_NUM_MELS, _COLUMNS_PER_SECOND = 80, 100


def draw_spectrogram(axes: Axes, audio: np.ndarray, sample_rate_hz: int) -> None:
    """Time across in seconds, mel bands upwards."""
    seconds = len(audio) / sample_rate_hz
    levels = spectrogram(audio, sample_rate_hz, max(1, round(seconds * _COLUMNS_PER_SECOND)), _NUM_MELS)
    extent = (0, seconds, 0, _NUM_MELS)
    axes.imshow(levels, origin="lower", aspect="auto", cmap="magma", vmin=0, vmax=1, extent=extent)


def spectrogram_picture(audio: np.ndarray, sample_rate_hz: int) -> bytes:
    """A small spectrogram, for beneath an audio player."""
    figure, axes = pyplot.subplots(figsize=(3.2, 1.1), dpi=100)
    draw_spectrogram(axes, audio, sample_rate_hz)
    axes.set_yticks([])
    axes.tick_params(labelsize=6, length=2, pad=1)
    return _png(figure)


def distributions_picture(columns: Sequence[Column], values: Mapping[str, Mapping[str, Sequence[float]]]) -> bytes:
    """A box and its points for each system in a panel for each metric; `values` are by system and key."""
    names = list(values)
    num_across = min(3, len(columns))
    num_down = -(-len(columns) // num_across)
    size = (4 * num_across, (0.9 + 0.28 * len(names)) * num_down)
    figure, grid = pyplot.subplots(num_down, num_across, figsize=size, squeeze=False, sharey=True)
    for axes in grid.flat[len(columns) :]:
        axes.set_visible(False)
    rng = np.random.default_rng(0)
    for column, axes in zip(columns, grid.flat, strict=False):
        for row, name in enumerate(names):
            of_system = np.array(values[name].get(column.key, [])) * column.scale
            of_system = of_system[np.isfinite(of_system)]
            heights = row + rng.uniform(-0.25, 0.25, len(of_system))
            axes.scatter(of_system, heights, s=6, alpha=0.4, color=f"C{row}", linewidths=0)
            if len(of_system):
                axes.boxplot(of_system, positions=[row], vert=False, widths=0.6, showfliers=False, manage_ticks=False)
        axes.set_title(column.title, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
    figure.tight_layout()
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight", pad_inches=0.03)
    pyplot.close(figure)
    return buffer.getvalue()
