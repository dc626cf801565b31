"""Recordings in any format are read, and found with their speakers and texts."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from recordings.sources import Span, find_recordings, readable
from utils.errors import UserError

RATE_HZ = 16000


def tone() -> np.ndarray:
    time = np.arange(2 * RATE_HZ) / RATE_HZ
    return (0.3 * np.sin(2 * np.pi * (200 + 100 * time) * time)).astype(np.float32)


def write_m4a(path: Path, audio: np.ndarray) -> None:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=RATE_HZ, layout="mono")
        frame = av.AudioFrame.from_ndarray(audio[None], format="fltp", layout="mono")
        frame.rate = RATE_HZ
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".m4a"])
def test_a_format_is_decoded(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".m4a":
        write_m4a(path, tone())
    else:
        soundfile.write(path, tone(), RATE_HZ)
    with readable(path) as decoded:
        audio, rate_hz = soundfile.read(decoded)
        assert (decoded == path) == (suffix not in (".mp3", ".m4a"))
    # Lossy formats may add silence at the beginning.
    assert rate_hz == RATE_HZ and 2 <= len(audio) / rate_hz < 2.2
    matches = np.correlate(audio, tone(), mode="valid") if len(audio) > len(tone()) else [np.dot(audio, tone())]
    assert max(matches) > 0.95 * np.sum(tone() ** 2)
    assert decoded == path or not decoded.exists()


@pytest.mark.parametrize("suffix", [".mp3", ".m4a"])
def test_what_is_no_audio_is_one_line(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_text("no audio")
    with pytest.raises(UserError, match=f"a{suffix}: cannot be read as audio"), readable(path):
        pass


def test_folders_are_speakers(tmp_path: Path) -> None:
    for name in ("anna/tape/1.wav", "ben/2.mp3", "3.flac", ".hidden/4.wav", "anna/notes.doc", "corpus/audio/5.flac"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_recordings(tmp_path, tmp_path / "corpus", with_texts=False)
    assert [(recording.id, recording.speaker) for recording in found] == [
        ("3.flac", ""),
        ("anna/tape/1.wav", "anna"),
        ("ben/2.mp3", "ben"),
    ]
    assert all(recording.spans is None for recording in found)


def test_a_table_gives_texts_to_recordings(tmp_path: Path) -> None:
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).touch()
    (tmp_path / "metadata.csv").write_text("file|speaker|text\na.wav|anna|Hello.\nlost.wav|ben|Gone.\n")
    found = {recording.id: recording for recording in find_recordings(tmp_path, tmp_path / "corpus", with_texts=True)}
    assert found["a.wav"].spans == (Span("Hello.", speaker="anna"),)
    assert found["lost.wav"].spans == (Span("Gone.", speaker="ben"),)
    assert [span.text for span in found["b.wav"].spans or ()] == [None]
