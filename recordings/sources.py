"""Finds the recordings of a folder, their speakers, and the texts that are there already."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import soundfile

from processors.custom import read_custom
from processors.custom.files import is_audio_name, is_file
from utils.audio import FOREIGN_SUFFIXES, read_duration_seconds
from utils.errors import UserError, first_line

# Formats that are slow or wrong to read from the middle.
_SEQUENTIAL_SUFFIXES = frozenset({".mp3", ".mpga"})


@dataclass(frozen=True)
class Span:
    """A part of a recording with its text, as a transcript has it; `end` is None for the end of the recording.

    `problem` is why the text cannot be used, where the reader of the transcript knows it.
    """

    text: str | None
    start: float = 0.0
    end: float | None = None
    speaker: str = ""
    language: str = ""
    problem: str | None = None


@dataclass(frozen=True)
class Recording:
    """A file of the folder of recordings. `id` is its path there, with the suffix.

    `spans` are None if a recognizer finds the texts. `speaker` is "" for a file that lies in no folder.
    """

    id: str
    path: Path
    speaker: str = ""
    spans: tuple[Span, ...] | None = None


def find_recordings(folder: Path, output: Path, with_texts: bool) -> list[Recording]:
    """All recordings of a folder, sorted, without hidden files and without what lies in `output`.

    The speaker is the first folder below `folder`. `with_texts`: texts, and speakers where they are named, are those
    of the layouts of a custom corpus; such a row without an audio file is a recording, too, which cannot be read.
    Raises UserError if there is nothing, or a transcript table is broken.
    """
    found: dict[Path, Recording] = {}
    for path in sorted(folder.rglob("[!.]*")):
        parts = path.relative_to(folder).parts
        is_hidden = any(part.startswith(".") for part in parts)
        if is_audio_name(path.name) and is_file(path) and not is_hidden and not path.is_relative_to(output):
            speaker = parts[0] if len(parts) > 1 else ""
            found[path] = Recording("/".join(parts), path, speaker, spans=() if with_texts else None)
    if with_texts:
        _add_texts(found, folder, output)
    if not found:
        raise UserError(f"--audio_dir: {folder} has no audio files; give the folder with the recordings")
    return sorted(found.values(), key=lambda recording: recording.id)


def _add_texts(found: dict[Path, Recording], folder: Path, output: Path) -> None:
    """Add the rows of a transcript table, or the text files beside the audio, to their recordings."""
    for row in read_custom(folder):
        path = Path(os.path.normpath(row.audio_path))
        if path.is_relative_to(output):
            continue
        known = found.get(path)
        if known is None:
            # Outside of the folder, or missing: the id is the whole path.
            inside = path.relative_to(folder if path.is_relative_to(folder) else path.anchor)
            known = Recording(inside.as_posix(), path)
        end = None if row.duration_seconds is None else row.start_seconds + row.duration_seconds
        # Where nothing names a speaker, readers give the name of the corpus.
        speaker = row.speaker if row.speaker != folder.name else ""
        span = Span(row.text, row.start_seconds, end, speaker, row.language, row.problem)
        found[path] = replace(known, spans=(*(known.spans or ()), span))


@contextmanager
def readable(path: Path) -> Iterator[Path]:
    """A file that libsndfile reads, at any place: the recording itself, or a decoded, temporary copy of it.

    Other formats than libsndfile's are decoded by FFmpeg, through PyAV. Raises UserError if neither can read it.
    """
    suffix = path.suffix.lower()
    if suffix not in FOREIGN_SUFFIXES and suffix not in _SEQUENTIAL_SUFFIXES:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        # W64 has no limit of 4 GB.
        decoded = Path(folder) / "decoded.w64"
        rate_hz, blocks = _decode_foreign(path) if suffix in FOREIGN_SUFFIXES else _decode(path)
        try:
            with soundfile.SoundFile(str(decoded), "w", rate_hz, 1, "FLOAT", format="W64") as file:
                for block in blocks:
                    file.write(block)
        except soundfile.SoundFileError as error:
            raise UserError(f"{path}: cannot be decoded to its end ({first_line(error)})") from error
        yield decoded


def _decode(path: Path) -> tuple[int, Iterator[np.ndarray]]:
    """The sample rate, and the mono audio in blocks, by libsndfile."""
    read_duration_seconds(path)  # Raises UserError if it is no audio.
    with soundfile.SoundFile(str(path)) as file:
        rate_hz = file.samplerate
    return rate_hz, (block.mean(1) for block in soundfile.blocks(str(path), 2**20, dtype="float32", always_2d=True))


def _decode_foreign(path: Path) -> tuple[int, Iterator[np.ndarray]]:
    """The same by FFmpeg."""
    try:
        import av
    except ImportError:
        raise UserError(
            f"{path}: {path.suffix[1:]} needs PyAV: pip install av, or convert it: ffmpeg -i {path.name} "
            f"{path.stem}.flac"
        ) from None

    def blocks() -> Iterator[np.ndarray]:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=rate_hz)
        try:
            with av.open(str(path)) as container:
                for frame in chain(container.decode(audio=0), [None]):
                    for part in resampler.resample(frame):
                        yield part.to_ndarray()[0]
        except av.FFmpegError as error:
            raise UserError(f"{path}: cannot be read as audio ({first_line(error)})") from error

    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise UserError(f"{path}: has no audio")
            rate_hz = container.streams.audio[0].rate
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"{path}: cannot be read as audio ({first_line(error)})") from error
    return rate_hz, blocks()
