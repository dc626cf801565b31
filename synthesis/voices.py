"""Voices: prompts in files of their own. A file has codes instead of audio, and is used by its name."""

import json
import os
import re
from pathlib import Path
from typing import Annotated

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from processors.symbols import language_of_symbol
from synthesis.spoken_languages import choose_language, split_language_tag
from synthesis.synthesizer import Synthesizer
from utils.checkpoint import Checkpoint, load_meta
from utils.errors import UserError, first_line
from utils.files import atomic_write
from utils.log import log
from utils.paths import PRETRAINED
from utils.prompts import MAX_SECONDS, Prompt, prepare_prompt

SUFFIX = ".safetensors"
FORMAT = "vallet-voice-1"
# The longest prompt has some 100 kB.
MAX_BYTES = 1_000_000
_NAME = re.compile(r"\w[\w.-]{0,63}")


def _without_control_characters(text: str) -> str:
    if re.search(r"[\x00-\x1f\x7f-\x9f]", text):
        raise ValueError("it has control characters")
    return text


def _is_codes(codes: Tensor) -> Tensor:
    if codes.dtype != torch.int16 or codes.ndim != 2 or not codes.numel() or codes.min() < 0:
        raise ValueError("codes must be a (T, Q) table of int16 numbers, none of them negative")
    return codes


Line = Annotated[str, Field(max_length=10_000), AfterValidator(_without_control_characters)]


class Voice(BaseModel):
    """A prepared prompt: codes (T, Q) of `num_samples` of audio, its text and its phones.

    `codec` is the fingerprint of the codec that made the codes. `phone_extractor` and `language` made the phones.
    `consent` says how the speaker agreed to the use of the voice, and `licence` what may be done with it.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, frozen=True)

    codes: Annotated[Tensor, AfterValidator(_is_codes)]
    text: Line
    phones: tuple[Line, ...]
    num_samples: Annotated[int, Field(gt=0, lt=2**31)]
    sample_rate_hz: Annotated[int, Field(gt=0, lt=2**31)]
    codec: Line
    phone_extractor: Line
    language: Line
    consent: Line = ""
    licence: Line = ""

    @property
    def seconds(self) -> float:
        return self.num_samples / self.sample_rate_hz

    @classmethod
    def from_prompt(cls, prompt: Prompt, synthesizer: Synthesizer, language: str = "", **notes: str) -> "Voice":
        """Encode and phonemize a prompt. `notes` are `consent` and `licence`.

        The language matters only in experiments with several; "" means that of the text's tag, or by its script.
        Raises UserError if the text cannot be read, or a note has control characters.
        """
        tokenizer = synthesizer.tokenizer
        tag, text = split_language_tag(" ".join(prompt.text.split()))
        language = choose_language("the prompt's text", text, tag or language, synthesizer.languages)
        if refusal := tokenizer.reader(language).refusal("the prompt's text", text):
            raise UserError(refusal)
        [phones] = tokenizer.phones([text], [language])
        if not any(phone.isalnum() for phone in phones):
            raise UserError(f"the prompt's text {text!r} has nothing that can be spoken")
        made = {
            "codes": synthesizer.encode([prompt.audio])[0].to(torch.int16),
            "text": text,
            "phones": phones,
            "num_samples": len(prompt.audio),
            "sample_rate_hz": synthesizer.codec.sample_rate_hz,
            "codec": synthesizer.codec.fingerprint(),
            "phone_extractor": synthesizer.phone_extractor,
            "language": language,
        }
        try:
            return cls.model_validate({**made, **notes})
        except ValidationError as error:
            raise UserError(_reason(error)) from None

    def prompt(self, synthesizer: Synthesizer) -> Prompt:
        """The voice as a prompt without audio. Raises UserError if another codec made its codes."""
        codec = synthesizer.codec
        if self.codec != codec.fingerprint():
            raise UserError(
                "the voice was made with another codec than the model's; make it again with bins/voices.py add and "
                "this model as --infer_expt_dir"
            )
        num_frames = -(-self.num_samples // codec.hop_samples)
        is_valid = self.codes.max() < codec.codebook_size and self.sample_rate_hz == codec.sample_rate_hz
        if self.codes.shape != (num_frames, codec.num_codebooks) or not is_valid or self.seconds > MAX_SECONDS + 1:
            raise UserError("the voice is damaged: its codes are not of its codec; make it again")
        is_one_of_several = len(synthesizer.languages) > 1
        language = self.language if is_one_of_several else ""
        if language:
            # Here, and not with the text: a language that was not trained is an error of the voice.
            choose_language("the voice", self.text, language, synthesizer.languages)
        has_language = bool(self.phones) and language_of_symbol(self.phones[0]) is not None
        # Another phonemizer has other phones, and the reference recipe phonemizes prompt and text as one. Phones begin
        # with a symbol of their language in experiments with several languages, and only there.
        has_phones = self.phone_extractor == synthesizer.phone_extractor and not synthesizer.is_reference
        has_phones = has_phones and has_language == bool(synthesizer.tokenizer.languages)
        if is_one_of_several:
            has_phones = has_phones and self.language in synthesizer.languages
        return Prompt(
            torch.zeros(0),
            self.text,
            self.seconds,
            codes=self.codes.long(),
            phones=self.phones if has_phones else None,
            language=language,
        )


def write_voice(voice: Voice, path: Path) -> None:
    """Write a voice atomically. Raises UserError if there is a file of this name."""
    if path.exists():
        raise UserError(f"{path}: there is a voice of this name; remove it first, or choose another name")
    content = voice.model_dump(exclude={"codes", "phones"})
    metadata = {
        "format": FORMAT,
        "phones": json.dumps(voice.phones),
        **{key: str(value) for key, value in content.items()},
    }
    with atomic_write(path) as temporary:
        save_file({"codes": voice.codes.contiguous()}, temporary, metadata)


def read_voice(path: Path) -> Voice:
    """Read a voice. Raises UserError if the file is missing, damaged, or something else."""
    try:
        if not path.is_file():
            raise UserError(f"{path}: no such voice")
        if (num_bytes := path.stat().st_size) > MAX_BYTES:
            raise UserError(f"{path}: not a voice: it has {num_bytes} bytes, and a voice has {MAX_BYTES} at most")
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            if metadata.pop("format", None) != FORMAT or list(file.keys()) != ["codes"]:
                raise UserError(f"{path}: not a voice of this version; make it again with bins/voices.py add")
            codes = file.get_tensor("codes")
        phones = json.loads(metadata.pop("phones", ""))
        return Voice.model_validate({**metadata, "phones": phones, "codes": codes})
    except ValidationError as error:
        raise UserError(f"{path}: damaged ({_reason(error)}); make it again") from None
    except (SafetensorError, OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: not a voice, or damaged ({first_line(error)}); make it again") from error


def _reason(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg'].removeprefix('Value error, ').lower()}"


def load_prompt(synthesizer: Synthesizer, source: Path, text: str, may_be_long: bool = False) -> Prompt:
    """The prompt of a voice's file, whose own text counts, or of a recording of `text`.

    Raises UserError as `prepare_prompt` does, or if the voice cannot be used with this model.
    """
    if source.suffix != SUFFIX:
        return prepare_prompt(source, text, synthesizer.codec.sample_rate_hz, may_be_long)
    try:
        return read_voice(source).prompt(synthesizer)
    except UserError as error:
        # Without its folder, which is not the business of a server's client.
        raise UserError(f"{source.stem}: {str(error).removeprefix(f'{source}: ')}") from error


def user_folder() -> Path:
    """The folder of a user's own voices, which all experiments with the same codec share."""
    if folder := os.environ.get("VALLET_VOICES"):
        return Path(folder).expanduser().absolute()
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser().absolute() / "vallet" / "voices"


def voice_folders(experiment: Path | None) -> list[Path]:
    """Where voices are looked up: in the experiment's folder first, then in the user's."""
    return [*([experiment / "voices"] if experiment is not None else []), user_folder()]


def list_voices(experiment: Path | None) -> dict[str, Path]:
    """The file of each voice that an experiment may use, by name; those of the experiment come first."""
    found: dict[str, Path] = {}
    for folder in voice_folders(experiment):
        for path in sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else ():
            if _NAME.fullmatch(path.stem):
                found.setdefault(path.stem, path)
    return found


def codec_of(checkpoint: Checkpoint) -> str | None:
    """The fingerprint of the codec that a model was trained with; None if it is not recorded, as in released models."""
    codec: str | None = load_meta(checkpoint)["codec"]
    return codec


def usable_voices(experiment: Path, codec: str | None) -> dict[str, Voice]:
    """The voices that a model can use, by name: those made with its codec. None leaves the codec open.

    Damaged files are left out, with a warning.
    """
    usable: dict[str, Voice] = {}
    for name, path in list_voices(experiment).items():
        try:
            voice = read_voice(path)
        except UserError as error:
            log.warning("%s", error)
            continue
        if codec in (None, voice.codec):
            usable[name] = voice
    return usable


def check_name(name: str) -> str:
    """Raises UserError if a voice cannot have this name."""
    if not _NAME.fullmatch(name):
        raise UserError(f"{name!r}: no name for a voice; take 1 to 64 letters, digits, and . _ -, not first")
    return name


def new_voice_path(name: str, experiment: Path, folder: Path | None = None) -> Path:
    """Where a new voice is written: in the user's folder, where its name must be new to the experiment, or in another.

    Raises UserError if it cannot have this name.
    """
    if folder is None and (there := list_voices(experiment).get(check_name(name))) is not None:
        raise UserError(f"{there}: there is a voice of this name; remove it first, or choose another name")
    return (folder or user_folder()) / f"{check_name(name)}{SUFFIX}"


def find_voice(name: str, experiment: Path | None, flag: str, codec: str | None = None) -> Path:
    """The file of a voice. Raises UserError naming the flag, and the voices that there are.

    With `codec`, these are only the voices that a model with this codec can use.
    """
    voices = list_voices(experiment)
    if name in voices:
        return voices[name]
    if experiment is not None and codec is not None:
        voices = {usable: voices[usable] for usable in usable_voices(experiment, codec)}
    there = f"there are {', '.join(voices)}" if voices else "there are none"
    raise UserError(f"{flag}: no voice {name!r}; {there}; bins/voices.py add makes one")


def find_removable_voice(name: str, experiment: Path | None) -> Path:
    """The file of a voice that `remove` may delete: in the experiment's folder if one is given, or in the user's.

    Raises UserError if there is none, or if it comes with the pretrained pair.
    """
    own = list_voices(experiment).get(name)
    shipped = (PRETRAINED / "voices").resolve()
    if name in list_voices(PRETRAINED) and (own is None or own.resolve().parent == shipped):
        raise UserError(f"remove: {name!r} comes with the pretrained pair, and is not removed")
    return find_voice(name, experiment, "remove")


def describe(path: Path) -> str:
    """All that a voice's file says, one line each. Raises UserError if it cannot be read."""
    voice = read_voice(path)
    lines = {
        "name": path.stem,
        "file": str(path),
        "text": voice.text,
        "phones": " ".join(voice.phones),
        "seconds": f"{voice.seconds:.2f}",
        "codes": "{} frames of {} codebooks".format(*voice.codes.shape),
        "codec": voice.codec,
        "language": voice.language,
        "consent": voice.consent or "no note",
        "licence": voice.licence or "no note",
    }
    return "\n".join(f"{name}: {value}" for name, value in lines.items())


def default_voice(experiment: Path) -> Path:
    """The voice if none is named: the first in the experiment's own folder. Raises UserError if it has none."""
    own = sorted(path for path in (experiment / "voices").glob(f"*{SUFFIX}") if _NAME.fullmatch(path.stem))
    if not own:
        raise UserError(f"{experiment} has no voice of its own; give a saved voice, or a recording and its text")
    return own[0]
