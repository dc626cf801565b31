"""One recording to segments: found, cut, measured and written. No text is recognized here."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from torch.utils.data import Dataset

from config.schema import RecordingsSettings
from evaluation.dnsmos import Dnsmos, build_dnsmos
from evaluation.speakers import Embedder, build_embedder
from recordings.cutting import Segment, cut
from recordings.measures import fingerprint, loudness_lufs, snr_db
from recordings.sources import Recording, Span, readable
from recordings.speakers import voices_of
from recordings.voice import MIN_PAUSE_SECONDS, RATE_HZ, Listened, Region, listen
from utils.audio import read_audio
from utils.errors import UserError
from utils.files import atomic_write

# A segment begins and ends with a short fade, so that noise does not click.
_FADE_SECONDS = 0.005
NO_TEXT = "no transcript: there is no text beside it or in a table; --asr whisper recognizes it"

Result = dict[str, Any]
"""What is known of a recording, as JSON: `seconds`, `rate_hz`, `content`, `voices` and `segments`, or `problem`.

A segment has `start`, `end`, and either `audio` and what was measured, or `problem`.
"""


@dataclass(frozen=True)
class Models:
    """The models that a recording is measured with. `speaker_model` is None where voices are not compared."""

    speaker_model: str | None
    dnsmos_dir: Path | None


class RecordingCutter(Dataset[Result]):
    """The results of recordings, whose segments it writes below `folder`. Each process loads its own models."""

    def __init__(
        self, recordings: Sequence[Recording], folder: Path, settings: RecordingsSettings, models: Models
    ) -> None:
        self.recordings, self.folder, self.settings, self.models = recordings, folder, settings, models
        self._embedder: Embedder | None = None
        self._dnsmos: Dnsmos | None = None

    def __len__(self) -> int:
        return len(self.recordings)

    def __getitem__(self, index: int) -> Result:
        if self._embedder is None and self.models.speaker_model is not None:
            self._embedder = build_embedder(self.models.speaker_model)
        if self._dnsmos is None and self.models.dnsmos_dir is not None:
            self._dnsmos = build_dnsmos(self.models.dnsmos_dir)
        recording = self.recordings[index]
        spans = recording.spans
        if spans is not None and all(span.problem or not (span.text or "").strip() for span in spans):
            # Nothing of it can be used, so that it need not be read.
            return {"problem": next((span.problem for span in spans if span.problem), NO_TEXT)}
        try:
            with readable(recording.path) as path:
                return self._cut(recording, path)
        except UserError as error:
            return {"problem": str(error)}

    def _cut(self, recording: Recording, path: Path) -> Result:
        listened = listen(path, self.settings.vad_threshold)
        voices, means = [0] * len(listened.regions), np.zeros((0, 0))
        if self._embedder is not None:
            embed = partial(self._embed, path, self._embedder)
            voices, means = voices_of(listened.regions, embed, self.settings.max_voice_distance)
        if recording.spans is None:
            rows: list[tuple[Segment, Result]] = [
                (segment, {}) for segment in cut(listened.regions, voices, listened.levels_db, self.settings)
            ]
        else:
            rows = [row for span in recording.spans for row in _of_span(span, listened, voices, self.settings)]
        segments = []
        for number, (segment, known) in enumerate(rows, start=1):
            row = {"start": round(segment.start, 3), "end": round(segment.end, 3), "voice": segment.speaker, **known}
            if "problem" not in row:
                target = self.folder / "audio" / recording.id / f"{number:04d}.{self.settings.audio_format}"
                row |= self._write(path, segment, listened, target)
            segments.append(row)
        return {
            "seconds": round(listened.seconds, 3),
            "rate_hz": soundfile.info(str(path)).samplerate,
            "content": listened.content,
            "voices": [encode(mean.astype(np.float32)) for mean in means],
            "segments": segments,
        }

    def _embed(self, path: Path, embedder: Embedder, region: Region) -> np.ndarray:
        return embedder.embed(_read(path, region.start, region.end))

    def _write(self, path: Path, segment: Segment, listened: Listened, target: Path) -> Result:
        """Write the audio of a segment, and measure it."""
        settings = self.settings
        start = max(0.0, segment.start - settings.padding)
        end = min(listened.seconds, segment.end + settings.padding)
        audio = read_audio(path, settings.sample_rate, start, end - start).numpy()
        measured = loudness_lufs(audio, settings.sample_rate)
        peak = float(np.abs(audio).max())
        if not np.isfinite(measured) or not peak:
            return {"problem": "silent throughout"}
        gain = 1.0
        if settings.loudness_lufs is not None:
            # No louder than it may be without clipping.
            gain = min(10 ** ((settings.loudness_lufs - measured) / 20), 1 / peak)
        fade = np.linspace(0, 1, round(_FADE_SECONDS * settings.sample_rate), dtype=np.float32)
        audio[: len(fade)] *= fade
        audio[-len(fade) :] *= fade[::-1]
        with atomic_write(target) as temporary:
            kind = settings.audio_format.upper()
            soundfile.write(str(temporary), gain * audio, settings.sample_rate, format=kind, subtype="PCM_16")
        row: Result = {
            "audio": target.relative_to(self.folder).as_posix(),
            "duration": round(len(audio) / settings.sample_rate, 3),
            "loudness_lufs": round(measured + 20 * float(np.log10(gain)), 2),
            "snr_db": round(snr_db(listened, segment.start, segment.end), 1),
            "fingerprint": encode(fingerprint(audio, settings.sample_rate)),
        }
        if self._dnsmos is not None:
            names = ("speech", "background", "overall", "p808")
            ratings = self._dnsmos.rate(_read(path, segment.start, segment.end))
            row["dnsmos"] = {name: round(value, 2) for name, value in zip(names, ratings, strict=True)}
        return row


def _read(path: Path, start: float, end: float) -> np.ndarray:
    """A part of a recording, (N,) at 16 kHz."""
    return read_audio(path, RATE_HZ, start, end - start).numpy()


def _of_span(
    span: Span, listened: Listened, voices: Sequence[int], settings: RecordingsSettings
) -> Iterator[tuple[Segment, Result]]:
    """The one segment of a part that has a text: its speech, without the silence at both ends."""
    end = listened.seconds if span.end is None else min(span.end, listened.seconds)
    known: Result = {"text": span.text, "speaker": span.speaker, "language": span.language}
    inside = [
        (max(region.start, span.start), min(region.end, end), voice)
        for region, voice in zip(listened.regions, voices, strict=True)
        # Not the end of a neighbour's speech.
        if min(region.end, end) - max(region.start, span.start) >= MIN_PAUSE_SECONDS
    ]
    whole = Segment(span.start, end)
    if span.problem or not (span.text or "").strip():
        known["problem"] = span.problem or NO_TEXT
    elif not inside:
        known["problem"] = "no speech is found in it"
    else:
        # The voice of most of it.
        seconds: dict[int, float] = {}
        for first, last, voice in inside:
            seconds[voice] = seconds.get(voice, 0.0) + last - first
        whole = Segment(inside[0][0], inside[-1][1], max(seconds, key=lambda voice: seconds[voice]))
        if whole.seconds > settings.max_duration:
            known["problem"] = (
                f"one text for {whole.seconds:.1f} s of speech, above max_duration, and nothing says where its words "
                "are; --asr whisper cuts it"
            )
    yield whole, known


def encode(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()


def decode(text: str, dtype: type[np.generic]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype)
