"""Reads the test lists of stages 3 and 4: texts, prompts, and the names of the outputs."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import soundfile

from synthesis.spoken_languages import split_language_tag
from synthesis.voices import SUFFIX, find_voice, read_voice
from utils.errors import UserError
from utils.text_files import read_text_file

FORMS = (
    "text|text_prompt|audio_prompt",
    "text_prompt|audio_prompt|text",
    "id|text_prompt|audio_prompt|text",
)
VOICE_PREFIX = "voice:"
"""A field such as voice:anna stands for the two fields of a prompt."""
# Not allowed in file names.
_UNSAFE = re.compile(r"[/\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]|\.\.")
_AUDIO_SUFFIXES = {f".{name.lower()}" for name in soundfile.available_formats()} | {".opus", ".m4a", ".webm", ".aac"}
# File systems allow 255 bytes, and a line number and a suffix are added.
_MAX_NAME_BYTES = 200


@dataclass(frozen=True)
class ListItem:
    """One text to synthesize; `name` is the output's path below the output folder, without suffix.

    `prompt_audio` may be the file of a voice. `reference_audio` is a recording of the text, for evaluation. `place`
    begins an error line, such as "line 3: ".
    """

    name: str
    text: str
    prompt_text: str
    prompt_audio: Path
    reference_audio: Path | None = None
    language: str = ""
    prompt_language: str = ""
    place: str = ""

    @property
    def has_voice(self) -> bool:
        return self.prompt_audio.suffix == SUFFIX


@dataclass(frozen=True)
class InvalidLine:
    """A line of a list that cannot be used, and the reason."""

    name: str
    reason: str


def read_test_list(
    path: Path, find: Callable[[str], Path], experiment: Path | None = None, voice: Path | None = None
) -> list[ListItem | InvalidLine]:
    """The items of a list with one of `FORMS` in each line; `find` resolves a path to an existing one.

    Voices that lines name are those of the experiment's folder and the user's. `voice` is the file of a voice that
    replaces all prompts: lines may then be texts alone.

    A text or a prompt's text may begin with its language, as in [language zh]. The fields that are existing audio files
    determine the form of a line. A last field may name a reference audio. The
    outputs are called `batch/<line number>_<prompt>`, or `batch/<id>` if the list has ids. Blank lines and lines that
    start with # are skipped. Raises UserError if there are no other lines.
    """
    items: list[ListItem | InvalidLine] = []
    names: set[str] = set()
    for number, line in enumerate(read_text_file(path).splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            item: ListItem | InvalidLine = _parse_line(line, number, find, experiment, voice)
        except UserError as error:
            item = InvalidLine(f"batch/{number}", f"line {number}: {error}")
        if item.name in names:
            item = replace(item, name=f"{item.name}__{number}")
        names.add(item.name)
        items.append(item)
    if not items:
        raise UserError(f"{path}: no lines; each is {' or '.join(FORMS)}")
    return items


def with_languages(item: ListItem | InvalidLine, language: str, prompt_language: str) -> ListItem | InvalidLine:
    """The item with these languages, where its line names none."""
    if isinstance(item, InvalidLine):
        return item
    return replace(item, language=item.language or language, prompt_language=item.prompt_language or prompt_language)


def output_name(prompt_audio: Path) -> str:
    """The name of the prompt's file, as part of an output's name, cut to a valid length."""
    return _cut_name(prompt_audio.stem)


def _parse_line(
    line: str, number: int, find: Callable[[str], Path], experiment: Path | None, voice: Path | None
) -> ListItem:
    """The item of a line. Raises UserError naming the field that is wrong."""
    fields = [field.strip() for field in line.split("|")]
    while len(fields) > 3 and not fields[-1]:
        fields.pop()  # An empty reference.
    if voice is not None and len(fields) == 1:
        return _item("", number, fields[0], read_voice(voice).text, voice, None)
    named = [index for index, field in enumerate(fields) if field.startswith(VOICE_PREFIX)]
    if named and len(fields) > 1:
        id_, text, reference_audio = _around_voice(fields, named[0], find)
        name = fields[named[0]].removeprefix(VOICE_PREFIX).strip()
        own = voice or find_voice(name, experiment, fields[named[0]])
        return _item(id_, number, text, read_voice(own).text, own, reference_audio)
    if len(fields) < 3:
        raise UserError(f"it has {len(fields)} fields, and needs three or more: {' or '.join(FORMS)}")
    audio = _audio_fields(fields, find)
    if not audio:
        # Report the field that looks most like audio as missing.
        meant = next((i for i, field in enumerate(fields) if i and _looks_like_audio(field)), 2)
        if find(fields[meant]).is_dir():
            raise UserError(f"field {meant + 1}: {fields[meant]}: a folder, not a file")
        audio = [meant]
    prompt, last = audio[0], len(fields) - 1
    reference = audio[-1] if audio[-1] == last and len(audio) > 1 else None
    before = fields[:prompt]
    after = fields[prompt + 1 : reference if reference is not None else last + 1]
    # Languages without spaces between words have texts with a slash, too.
    is_path = bool(after) and "/" in after[0] and " " not in after[0] and after[0].isascii()
    if reference is None and len(after) == 1 and len(before) == 2 and (is_path or _looks_like_audio(after[0])):
        find(after[0])  # Not a text but a reference that does not exist: raises the error that names it.
    if after and len(before) in (1, 2):
        # The text is the last field, so a | in it is unambiguous.
        id_, prompt_text, text = before[0] if len(before) == 2 else "", before[-1], "|".join(after)
    elif not after and len(before) == 2:
        id_, (text, prompt_text) = "", before
    else:
        raise UserError(
            f"it has {len(fields)} fields, {len(before)} of them before the prompt's audio (field {prompt + 1}), where "
            f"one or two belong: a | in a text divides it; write such a text last, as in {FORMS[1]}"
        )
    prompt_audio = find(fields[prompt])
    if voice is not None:
        prompt_text, prompt_audio = read_voice(voice).text, voice
    reference_audio = None if reference is None else find(fields[reference])
    return _item(id_, number, text, prompt_text, prompt_audio, reference_audio)


def _around_voice(fields: Sequence[str], voice: int, find: Callable[[str], Path]) -> tuple[str, str, Path | None]:
    """The id, the text and the reference audio of a line with a voice: [id|]text|voice, [id|]voice|text."""
    before, after = list(fields[:voice]), list(fields[voice + 1 :])
    reference_audio = None
    if after and _looks_like_audio(after[-1]) and (len(after) > 1 or before):
        reference_audio = find(after.pop())
    if after and len(before) < 2:
        return (before or [""])[0], "|".join(after), reference_audio
    if before and len(before) < 3 and not after:
        return ["", *before][-2], before[-1], reference_audio
    raise UserError(
        f"it has {len(fields)} fields, and a line with a voice is [id|]text|voice:NAME or [id|]voice:NAME|text"
    )


def _item(
    id_: str, number: int, text: str, prompt_text: str, prompt_audio: Path, reference_audio: Path | None
) -> ListItem:
    """The item of a line, with the name of its output."""
    name = _UNSAFE.sub("_", _cut_name(id_)).strip(" .") if id_ else f"{number}_{output_name(prompt_audio)}"
    language, text = split_language_tag(text)
    prompt_language, prompt_text = split_language_tag(prompt_text)
    languages = language, prompt_language
    place = f"line {number}: "
    return ListItem(f"batch/{name or number}", text, prompt_text, prompt_audio, reference_audio, *languages, place)


def _audio_fields(fields: Sequence[str], find: Callable[[str], Path]) -> list[int]:
    """The fields that are existing files: those with an audio suffix, or any if there are none."""
    existing = [index for index, field in enumerate(fields) if index and _is_file(field, find)]
    return [index for index in existing if _looks_like_audio(fields[index])] or existing


def _looks_like_audio(field: str) -> bool:
    return Path(field).suffix.lower() in _AUDIO_SUFFIXES


def _is_file(path: str, find: Callable[[str], Path]) -> bool:
    try:
        return bool(path) and find(path).is_file()
    except (UserError, OSError):
        return False


def _cut_name(name: str) -> str:
    return name.encode("utf-8", "replace")[:_MAX_NAME_BYTES].decode("utf-8", "ignore")
