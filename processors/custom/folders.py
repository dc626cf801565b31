"""Custom corpora in known folder layouts: audio beside text files, Kaldi, AISHELL-3, MLS."""

import re
from collections.abc import Iterator
from pathlib import Path

from processors.custom.files import (
    SPLIT_NAMES,
    find_audio,
    is_audio_name,
    is_file,
    read_text,
    text_lines,
    without_suffix,
)
from processors.splits import FoundUtterance

_TEXT_SUFFIXES = (".txt", ".lab")
_CHINESE = re.compile(r"[\u3400-\u9fff\U00020000-\U0003134f]")


def has_pairs(folder: Path) -> bool:
    return any(_text_beside(audio) is not None for audio in _all_audio(folder))


def read_pairs(folder: Path) -> Iterator[FoundUtterance]:
    """Audio with a .txt or .lab file of the same name beside it.

    The speaker is the first folder below the corpus, or the corpus folder itself.
    """
    for audio in _all_audio(folder):
        parts = audio.relative_to(folder).parts
        speaker = parts[0] if len(parts) > 1 else folder.resolve().name
        text = _text_beside(audio)
        yield FoundUtterance("_".join(audio.relative_to(folder).with_suffix("").parts), str(audio), text, speaker)


def _all_audio(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("[!.]*")):
        if is_audio_name(path.name) and is_file(path):
            yield path


def _text_beside(audio: Path) -> str | None:
    return next((read_text(path) for suffix in _TEXT_SUFFIXES if is_file(path := audio.with_suffix(suffix))), None)


def is_kaldi(folder: Path) -> bool:
    return is_file(folder / "wav.scp") and is_file(folder / "text")


def read_kaldi(folder: Path) -> Iterator[FoundUtterance]:
    """Kaldi's `wav.scp`, `text`, `utt2spk` and, optionally, `segments`. A command in wav.scp is never run."""
    recordings, texts, speakers = (_pairs_of_lines(folder / name) for name in ("wav.scp", "text", "utt2spk"))
    segments = {id_: value.split() for id_, value in _pairs_of_lines(folder / "segments").items()}
    default_speaker = folder.resolve().name
    # Without segments, each recording is one utterance.
    utterances = segments or {id_: [id_] for id_ in recordings}
    for id_ in sorted({*utterances, *texts}):
        recording, *times = utterances.get(id_, [id_])
        source = recordings.get(recording, "")
        problem = None
        if source.endswith("|"):
            problem = "wav.scp has a command here, which is not run; write its output to a file"
        elif not source:
            problem = f"wav.scp has no {recording}"
        start, end = 0.0, None
        if times:
            try:
                # A channel may follow. A negative end means the end of the recording.
                start, end = float(times[0]), float(times[1])
                end = None if end < 0 else end
            except (IndexError, ValueError):
                problem = f"segments gives no start and end in seconds: {' '.join(times)}"
        yield FoundUtterance(
            id=id_,
            # Kaldi resolves paths from its working folder; a file beside the list is likelier if there is one.
            audio_path=str(folder / source if is_file(folder / source) else Path(source)),
            text=texts.get(id_) or None,
            speaker=speakers.get(id_, default_speaker),
            start_seconds=start,
            duration_seconds=None if end is None else max(0.0, end - start),
            problem=problem,
        )


def _pairs_of_lines(path: Path) -> dict[str, str]:
    """The rest of each line by its first word; empty if there is no such file."""
    lines = text_lines(path) if is_file(path) else []
    return {
        fields[0]: fields[1].strip() if len(fields) > 1 else "" for line in lines if (fields := line.split(maxsplit=1))
    }


def is_aishell3(folder: Path) -> bool:
    return is_file(folder / "train" / "content.txt")


def read_aishell3(folder: Path) -> Iterator[FoundUtterance]:
    """`<part>/content.txt` with lines `file.wav<tab>character pinyin character ...`; the text is the characters."""
    for part in ("train", "test"):
        for line in text_lines(folder / part / "content.txt"):
            name, _, content = line.partition("\t")
            if name.strip():
                # A file's name starts with its speaker: SSB0005 in SSB00050001.wav.
                speaker = name[:7]
                audio = folder / part / "wav" / speaker / name
                text = "".join(_CHINESE.findall(content))
                id_, split = without_suffix(name), SPLIT_NAMES[part]
                yield FoundUtterance(id_, str(audio), text or None, speaker, split, language="cmn")


def is_mls(folder: Path) -> bool:
    return is_file(folder / "train" / "transcripts.txt")


def read_mls(folder: Path) -> Iterator[FoundUtterance]:
    """`<part>/transcripts.txt` with lines `speaker_book_number<tab>text`; `<part>/audio/<speaker>/<book>/<id>.flac`."""
    for part in ("train", "dev", "test"):
        for line in text_lines(folder / part / "transcripts.txt"):
            id_, _, text = line.partition("\t")
            fields = id_.strip().split("_")
            if len(fields) == 3:
                audio = find_audio(folder / part / "audio" / fields[0] / fields[1], id_.strip(), ())
                yield FoundUtterance(id_.strip(), str(audio), text.strip() or None, fields[0], SPLIT_NAMES[part])
