"""Writes `report.html`: one self-contained page with what is in the corpus, what is left out and why, and sound."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import soundfile

from recordings.tables import Row
from utils.audio import read_audio
from utils.errors import UserError
from utils.files import atomic_write
from utils.log import progress_bar

_RATE_HZ = 16000
_NUM_BARS = 30
_KEPT = "in the corpus"
_TITLES = {
    "duration": "length, s",
    "snr_db": "speech above noise, dB",
    "characters_per_second": "characters per second",
    "dnsmos": "DNSMOS, overall",
}


def write_report(path: Path, folder: Path, rows: Sequence[Row], stats: dict[str, Any], num_clips: int) -> None:
    """Write the page, with sound of `num_clips` segments of `folder` for each reason, and of as many that are kept."""
    by_category: dict[str, list[Row]] = {_KEPT: []}
    for row in rows:
        by_category.setdefault(row.category or _KEPT, []).append(row)
    total = sum(min(num_clips, len(found)) for found in by_category.values())
    groups = []
    with progress_bar(total=total, desc="report", unit="segment", disable=not total) as bar:
        for category in [_KEPT, *stats["left_out_why"]]:
            clips = []
            for row in _spread(by_category[category], num_clips):
                clips.append(_clip(folder, row))
                bar.update()
            groups.append({"title": category, "num": len(by_category[category]), "clips": clips})
    page = jinja2.Environment(autoescape=True).from_string(
        Path(__file__).with_name("report.html.jinja").read_text(encoding="utf-8")
    )
    text = page.render(stats=stats, groups=groups, charts=_charts([row.content for row in rows if not row.reason]))
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _spread(rows: Sequence[Row], num: int) -> list[Row]:
    """At most `num` rows from the whole of the corpus, those with sound first."""
    heard = [row for row in rows if "audio" in row.content] or list(rows)
    places = np.linspace(0, len(heard) - 1, min(num, len(heard))).round().astype(int)
    return [heard[place] for place in places]


def _clip(folder: Path, row: Row) -> dict[str, Any]:
    content = row.content
    numbers = [f"{content['start']:.2f} to {content['end']:.2f} s"] if "start" in content else []
    if "snr_db" in content:
        numbers += [f"speech {content['snr_db']:g} dB above noise", f"{content['loudness_lufs']:g} LUFS"]
    if "dnsmos" in content:
        numbers.append(f"DNSMOS {content['dnsmos']['overall']:g}")
    return {
        "id": content["id"],
        "text": content.get("text") or "",
        "speaker": content.get("speaker", ""),
        "reason": row.reason,
        "numbers": ", ".join(numbers),
        "sound": _sound(folder / content["audio"]) if "audio" in content else None,
    }


def _sound(path: Path) -> str | None:
    """The audio as the page holds it; None if the file is gone."""
    try:
        audio = read_audio(path, _RATE_HZ)
    except UserError:
        return None
    buffer = io.BytesIO()
    soundfile.write(buffer, audio.numpy(), _RATE_HZ, format="FLAC", subtype="PCM_16")
    return f"data:audio/flac;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _charts(contents: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A histogram of each measure, as heights from 0 to 100."""
    charts = []
    for key, title in _TITLES.items():
        values = [
            content[key]["overall"] if key == "dnsmos" else content[key] for content in contents if key in content
        ]
        if len(set(values)) > 1:
            counts, edges = np.histogram(values, _NUM_BARS)
            heights = (100 * counts / counts.max()).round(1).tolist()
            charts.append({"title": title, "heights": heights, "low": f"{edges[0]:.3g}", "high": f"{edges[-1]:.3g}"})
    return charts
