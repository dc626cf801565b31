"""Reads corpora in their official layouts.

No audio is opened here: stage 1 decodes each file once, in its workers, and reports those that fail. So a transcript
without audio gives a row, too, and audio without a transcript gives a row whose text is None. Lhotse's recipes for
these corpora are not used, as they open every file first, stop at the first broken one, and silently leave out audio
without a transcript.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from config.schema import Dataset, PreprocessSettings
from processors.custom import read_custom
from processors.custom.files import json_lines, read_text, unreadable_line
from processors.languages import AUTO, language_name
from processors.manifest import SourceUtterance, Split
from processors.splits import FoundUtterance, assign_splits, hash_splits, make_ids_unique, split_unit
from utils.errors import UserError

# Not allowed in file names: separators, control characters, line ends, lone surrogates and "..".
_UNSAFE = re.compile(r"[/\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]|\.\.")
_PART = re.compile(r"(train|dev|test)[-_](clean|other)([-_]\d+)?")
_HIFITTS_MANIFEST = re.compile(r"(.+)_manifest_(?:clean|other)_(train|dev|test)\.json")
_NO_LANGUAGE = "no language: neither the corpus nor preprocess.dataset_languages names one"
_PART_SPLITS: dict[str, Split] = {"train": "train", "dev": "valid", "test": "test"}


def read_corpus(name: Dataset, path: Path, settings: PreprocessSettings) -> list[SourceUtterance]:
    """All utterances of the corpus at `path`, sorted by id, independent of the order of files on disk.

    `path` is the corpus's folder or its parent; for custom it is a file or folder, see `read_custom`. Ids are unique
    and safe as file names: unsafe characters become `_`, and repeated ids get `__2`, `__3`. If the corpus has no split
    of its own, `processors.splits.hash_splits` makes one.

    Raises UserError if `path` does not exist, has another layout, or has a folder or manifest that cannot be read.
    """
    reader = _READERS[name]
    if not path.exists():
        raise UserError(f"dataset_path.{name}: {path} does not exist; expected {reader.layout}")
    try:
        found = [_with_language(_cleaned(row), name, settings) for row in reader.read(path)]
    except OSError as error:
        raise UserError(f"dataset_path.{name}: {error}") from error
    if not found:
        raise UserError(f"dataset_path.{name}: nothing to read in {path}; expected {reader.layout}")
    if all(row.problem == _NO_LANGUAGE for row in found):
        raise UserError(
            f"preprocess.language is {AUTO}, and no utterance of {path} names its language; set "
            f"preprocess.dataset_languages.{name}"
        )
    return sorted(assign_splits(make_ids_unique(found), settings), key=lambda row: row.id)


def describe_split(name: Dataset, rows: list[SourceUtterance], settings: PreprocessSettings) -> str:
    """One line that describes how `rows`, the result of `read_corpus`, were split.

    A custom corpus may have its own split: its rows are compared with the split by hash.
    """
    if _READERS[name].has_own_split:
        return "the corpus's own parts"
    if name == "custom" and [row.split for row in rows] != hash_splits(rows, settings):
        return "the corpus's own parts"
    return (
        f"hash of the {split_unit(rows, settings)}, seed {settings.split_seed}, "
        f"valid {settings.valid_fraction}, test {settings.test_fraction}"
    )


def _cleaned(row: FoundUtterance) -> FoundUtterance:
    safe_id = _UNSAFE.sub("_", row.id)
    text = " ".join(_encodable(row.text or "").split())
    return replace(
        row,
        id=safe_id if safe_id.strip(" .") else "_",
        text=text or None,
        speaker=" ".join(_encodable(row.speaker).split()) or "unknown",
    )


def _with_language(row: FoundUtterance, name: Dataset, settings: PreprocessSettings) -> FoundUtterance:
    """The row with its language, or with none where all texts have that of the settings."""
    if settings.language != AUTO:
        return replace(row, language="")
    named = row.language or settings.dataset_languages.get(name) or _READERS[name].language
    problem = row.problem or (None if named else _NO_LANGUAGE)
    return replace(row, language=language_name(named), problem=problem)


def _encodable(text: str) -> str:
    # JSON can contain lone surrogates, which cannot be encoded.
    return text.encode("utf-8", errors="replace").decode("utf-8")


def _corpus_folder(path: Path, names: tuple[str, ...], holds_corpus: Callable[[Path], bool]) -> Path:
    """The first of `path` and its subfolders `names` that holds the corpus; `path` if none does."""
    candidates = (path, *(path / name for name in names))
    return next((folder for folder in candidates if folder.is_dir() and holds_corpus(folder)), path)


def _has_parts(folder: Path) -> bool:
    return any(_PART.fullmatch(part.name) for part in folder.iterdir())


def _visible(folder: Path, suffix: str) -> set[str]:
    """Names in `folder` that end with `suffix`, without it. Hidden files, such as macOS's `._*`, are left out."""
    if not folder.is_dir():
        return set()
    names = (entry.name for entry in folder.iterdir())
    return {name[: -len(suffix)] for name in names if name.endswith(suffix) and not name.startswith(".")}


def _chapters(root: Path) -> Iterator[tuple[Split, Path]]:
    """The folders `<part>/<speaker>/<chapter>` of LibriTTS and LibriSpeech, with their splits."""
    for part in sorted(root.glob("*")):
        match = _PART.fullmatch(part.name)
        if match:
            for chapter in sorted(part.glob("[!.]*/[!.]*")):
                if chapter.is_dir():
                    yield _PART_SPLITS[match[1]], chapter


def _read_libritts(path: Path) -> Iterator[FoundUtterance]:
    root = _corpus_folder(path, ("LibriTTS", "LibriTTS_R"), _has_parts)
    for split, chapter in _chapters(root):
        speaker = chapter.parent.name
        table = read_text(chapter / f"{speaker}_{chapter.name}.trans.tsv") or ""
        columns = [line.split("\t") for line in table.split("\n")]
        texts = {fields[0]: fields[2] for fields in columns if len(fields) == 3 and fields[0] and fields[2].strip()}
        for id_ in sorted({*_visible(chapter, ".wav"), *_visible(chapter, ".normalized.txt"), *texts}):
            text = texts.get(id_) or read_text(chapter / f"{id_}.normalized.txt")
            yield FoundUtterance(id_, str(chapter / f"{id_}.wav"), text, speaker, split)


def _read_librispeech(path: Path) -> Iterator[FoundUtterance]:
    root = _corpus_folder(path, ("LibriSpeech",), _has_parts)
    for split, chapter in _chapters(root):
        speaker = chapter.parent.name
        lines = (read_text(chapter / f"{speaker}-{chapter.name}.trans.txt") or "").split("\n")
        pairs = (line.split(maxsplit=1) for line in lines)
        # The text is in upper case, in which espeak spells some words: IT as "eye tee", US as "you ess".
        texts = {pair[0]: pair[1].lower() for pair in pairs if len(pair) == 2}
        for id_ in sorted({*_visible(chapter, ".flac"), *texts}):
            yield FoundUtterance(id_, str(chapter / f"{id_}.flac"), texts.get(id_), speaker, split)


def _read_ljspeech(path: Path) -> Iterator[FoundUtterance]:
    root = _corpus_folder(path, ("LJSpeech-1.1",), lambda folder: (folder / "metadata.csv").is_file())
    listed = set()
    for line in (read_text(root / "metadata.csv") or "").split("\n"):
        id_, *texts = line.split("|")
        text = next((text for text in reversed(texts) if text.strip()), None)
        if id_.strip() and text:
            listed.add(id_)
            yield FoundUtterance(id_, str(root / "wavs" / f"{id_}.wav"), text, "LJ")
    for id_ in sorted(_visible(root / "wavs", ".wav") - listed):
        yield FoundUtterance(id_, str(root / "wavs" / f"{id_}.wav"), None, "LJ")


def _read_vctk(path: Path) -> Iterator[FoundUtterance]:
    root = _corpus_folder(path, ("VCTK-Corpus-0.92",), lambda folder: (folder / "wav48_silence_trimmed").is_dir())
    audio_root, text_root = root / "wav48_silence_trimmed", root / "txt"
    if not audio_root.is_dir():
        return
    folders = (folder for parent in (audio_root, text_root) for folder in parent.glob("[!.]*") if folder.is_dir())
    for speaker in sorted({folder.name for folder in folders}):
        # Microphone 2 sounds more consistent; p280 and p315 have microphone 1 only.
        mic2, mic1 = (_visible(audio_root / speaker, f"_mic{number}.flac") for number in (2, 1))
        for id_ in sorted(mic2 | mic1 | _visible(text_root / speaker, ".txt")):
            microphone = "mic1" if id_ in mic1 - mic2 else "mic2"
            audio_path = audio_root / speaker / f"{id_}_{microphone}.flac"
            yield FoundUtterance(id_, str(audio_path), read_text(text_root / speaker / f"{id_}.txt"), speaker)


def _read_hifitts(path: Path) -> Iterator[FoundUtterance]:
    root = _corpus_folder(path, ("hi_fi_tts_v0",), lambda folder: any(folder.glob("*_manifest_*.json")))
    for manifest in sorted(root.glob("[!.]*_manifest_*.json")):
        match = _HIFITTS_MANIFEST.fullmatch(manifest.name)
        if not match:
            continue
        speaker, split = match[1], _PART_SPLITS[match[2]]
        for line_number, row in json_lines(manifest):
            audio = row and row.get("audio_filepath")
            if not row or not isinstance(audio, str) or not audio:
                yield replace(unreadable_line(manifest, line_number, speaker), split=split)
                continue
            texts = (row.get(key) for key in ("text_normalized", "text"))
            text = next((text for text in texts if isinstance(text, str) and text.strip()), None)
            id_ = "_".join(part for part in Path(audio).with_suffix("").parts if part != "/")
            yield FoundUtterance(id_, str(root / audio), text, speaker, split)


@dataclass(frozen=True)
class _Reader:
    """How to read a corpus: its layout in words, the function, whether it has its own split, and its language."""

    layout: str
    read: Callable[[Path], Iterator[FoundUtterance]]
    has_own_split: bool = False
    language: str = ""


# A new corpus is a function above, a line here and its name in the schema.
_READERS: dict[Dataset, _Reader] = {
    "libritts": _Reader(
        "LibriTTS or LibriTTS_R with train-clean-100/<speaker>/<chapter>/*.wav", _read_libritts, True, "en-us"
    ),
    "librispeech": _Reader(
        "LibriSpeech with train-clean-100/<speaker>/<chapter>/*.flac and *.trans.txt", _read_librispeech, True, "en-us"
    ),
    "ljspeech": _Reader(
        "LJSpeech-1.1 with metadata.csv (id|text|normalized text) and wavs/*.wav", _read_ljspeech, language="en-us"
    ),
    "vctk": _Reader(
        "VCTK-Corpus-0.92 with txt/<speaker>/*.txt and wav48_silence_trimmed/<speaker>/*_mic2.flac",
        _read_vctk,
        language="en-us",
    ),
    "hifitts": _Reader(
        "Hi-Fi TTS with <speaker>_manifest_<clean|other>_<train|dev|test>.json and the audio that they name",
        _read_hifitts,
        True,
        "en-us",
    ),
    "custom": _Reader(
        "a folder with metadata.csv or .tsv, audio beside .txt files, a .jsonl of audio, text, speaker, a lhotse "
        "CutSet (cuts*.jsonl.gz), or the layout of Kaldi, Common Voice, AISHELL-3 or MLS (egs/datasets/README.md)",
        read_custom,
    ),
}
