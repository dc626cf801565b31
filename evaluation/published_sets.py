"""Writes test lists from published test sets: Seed-TTS-eval, and LibriSpeech-PC with F5-TTS's own list.

https://github.com/BytedanceSpeech/seed-tts-eval, https://www.openslr.org/145 (LibriSpeech-PC), and
https://github.com/SWivid/F5-TTS/tree/main/data (the list).
"""

from pathlib import Path

from evaluation.protocol import cross_sentence, pair_line, write_list
from processors.custom.files import json_lines
from processors.manifest import SourceUtterance
from utils.errors import UserError
from utils.log import log
from utils.text_files import read_text_file

# Part of Seed-TTS-eval: its list of sentences.
_SEED_FILES = {"test_en": "en/meta.lst", "test_zh": "zh/meta.lst", "hardcase": "zh/hardcase.lst"}
_MANIFEST, _F5_LIST = "test-clean.json", "librispeech_pc_test_clean_cross_sentence.lst"


def write_seed_lists(folder: Path, output: Path) -> list[Path]:
    """Write the lists of Seed-TTS-eval whose meta files are in its folder, with en and zh in it.

    A line of a meta file is name|text of the prompt|prompt|text, or has a recording of the text as a fifth field. The
    paths start in the folder of the meta file. Without the fifth field, wavs/<name>.wav beside it is the recording, if
    it is there. Raises UserError if there is no meta file, a line has another form, or a prompt is missing.
    """
    paths = []
    for part, file in _SEED_FILES.items():
        meta = folder / file
        if not meta.is_file():
            log.info("%s: not there, so no list of it", meta)
            continue
        lines = [_seed_line(meta, number, line) for number, line in _lines(meta)]
        paths.append(output / f"seed_tts_eval_{part}.txt")
        write_list(paths[-1], f"seed-tts-eval {part}", lines)
    if not paths:
        raise UserError(f"--test_set {folder}: has none of {', '.join(_SEED_FILES.values())} of Seed-TTS-eval")
    return paths


def _seed_line(meta: Path, number: int, line: str) -> str:
    fields = [field.strip() for field in line.split("|")]
    if len(fields) not in (4, 5):
        raise UserError(f"{meta}: line {number}: has {len(fields)} fields, and name|prompt text|prompt|text has 4 or 5")
    name, prompt_text, prompt, text, *reference = fields
    audio = meta.parent / prompt
    if not audio.is_file():
        raise UserError(f"{meta}: line {number}: {audio} is missing; unpack the whole test set")
    recording = meta.parent / (reference[0] if reference and reference[0] else f"wavs/{name}.wav")
    ending = f"|{recording.absolute()}" if recording.is_file() else ""
    return f"{name}|{prompt_text}|{audio.absolute()}|{text}{ending}\n"


def write_librispeech_pc_lists(source: Path, librispeech: Path, output: Path) -> list[Path]:
    """Write lists of LibriSpeech's test-clean with punctuation and capitals.

    `source` is LibriSpeech-PC's manifest test-clean.json, F5-TTS's list, or a folder with either or both. From the
    manifest come the utterances of 4 to 10 s, each with a prompt as in `cross_sentence`; F5-TTS's list has its own
    prompts, and is that of published results. Raises UserError if there is neither, a line has another form, or the
    audio is not in `librispeech`.
    """
    audio = next(
        (part for part in (librispeech / "test-clean", librispeech / "LibriSpeech" / "test-clean") if part.is_dir()),
        None,
    )
    if audio is None:
        raise UserError(f"dataset_path.librispeech: {librispeech} has no test-clean")
    folder = source if source.is_dir() else source.parent
    wanted = [folder / _MANIFEST, folder / _F5_LIST] if source.is_dir() else [source]
    paths = []
    for file in wanted:
        if file.is_file() and file.suffix == ".lst":
            paths.append(output / "librispeech_pc_f5_tts.txt")
            write_list(paths[-1], "librispeech-pc test-clean f5-tts", _f5_lines(file, audio))
        elif file.is_file():
            rows, seconds = _manifest(file, audio)
            paths.append(output / "librispeech_pc_cross_sentence.txt")
            pairs = cross_sentence(rows, seconds)
            write_list(paths[-1], "librispeech-pc test-clean cross_sentence", (pair_line(*pair) for pair in pairs))
    if not paths:
        raise UserError(f"--test_set {source}: has neither {_MANIFEST} of LibriSpeech-PC nor {_F5_LIST} of F5-TTS")
    return paths


def _manifest(path: Path, audio: Path) -> tuple[list[SourceUtterance], dict[str, float]]:
    """The utterances of a manifest, and their seconds. Each line is JSON: audio_filepath, duration, text, text_raw."""
    rows, seconds = [], {}
    for number, row in json_lines(path):
        file, duration = (row or {}).get("audio_filepath"), (row or {}).get("duration")
        # text is written as it is spoken; text_raw is as it stands in the book.
        text = (row or {}).get("text") or (row or {}).get("text_raw")
        if not isinstance(file, str) or not isinstance(duration, int | float) or not isinstance(text, str):
            raise UserError(f"{path}: line {number}: has no audio_filepath, duration and text")
        name = Path(file).stem
        # A bar separates the fields of a list's line.
        if "|" not in text:
            recording = _recording(path, number, name, audio)
            rows.append(SourceUtterance(name, str(recording), " ".join(text.split()), name.split("-")[0], "test"))
            seconds[name] = float(duration)
    return rows, seconds


def _f5_lines(path: Path, audio: Path) -> list[str]:
    """Lines of a list from F5-TTS's: id, seconds and text of the prompt, and the same of the text, with tabs."""
    lines = []
    for number, line in _lines(path):
        fields = line.split("\t")
        if len(fields) != 6:
            raise UserError(f"{path}: line {number}: has {len(fields)} fields with tabs between them, and needs 6")
        prompt, _, prompt_text, name, _, text = (field.strip() for field in fields)
        prompt_audio, recording = (_recording(path, number, id_, audio) for id_ in (prompt, name))
        lines.append(f"{name}|{prompt_text}|{prompt_audio}|{text}|{recording}\n")
    return lines


def _recording(path: Path, number: int, name: str, audio: Path) -> Path:
    """The file of an utterance such as 4992-41806-0009. Raises UserError if it is missing."""
    parts = name.split("-")
    recording = audio.joinpath(*parts[:2], f"{name}.flac").absolute()
    if len(parts) != 3 or not recording.is_file():
        raise UserError(f"{path}: line {number}: {recording} is missing")
    return recording


def _lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a file that are not blank, with their numbers. Raises UserError if there are none."""
    lines = [(number, line) for number, line in enumerate(read_text_file(path).splitlines(), start=1) if line.strip()]
    if not lines:
        raise UserError(f"{path}: has no lines")
    return lines
