"""Speech recognizers for word and character error rates, behind one interface."""

import ctypes
import json
from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch

from processors.languages import AUTO, language_code
from utils.errors import UserError, first_line
from utils.hub import quiet_transformers
from utils.log import log

RATE_HZ = 16000
"""Sample rate of what recognizers, speaker models and DNSMOS take."""
CPU = torch.device("cpu")
RecognizerName = Literal["pocketsphinx", "whisper", "hubert", "none"]
MODELS: dict[RecognizerName, str] = {
    "whisper": "openai/whisper-large-v3",
    "hubert": "facebook/hubert-large-ls960-ft",
}
FASTER_WHISPER_MODEL = "large-v3"
WHISPER_SECONDS = 30
"""Length of the window that Whisper reads at once."""


class Recognizer(Protocol):
    """Transcribes speech. `name` identifies the model in the report, `backend` the package that runs it."""

    name: str
    backend: str

    def transcribe(self, audio: np.ndarray) -> str:
        """Return the words in (N,) audio at 16 kHz."""
        ...


class PocketSphinx:
    """A small, fast recognizer that includes its English model. Far less accurate than current models."""

    name = "PocketSphinx"
    backend = "pocketsphinx"

    def __init__(self) -> None:
        import pocketsphinx

        self._decoder = pocketsphinx.Decoder(samprate=RATE_HZ, loglevel="FATAL")

    def transcribe(self, audio: np.ndarray) -> str:
        samples = (audio.clip(-1, 1) * 32767).astype(np.int16)
        self._decoder.start_utt()
        self._decoder.process_raw(samples.tobytes(), full_utt=True)
        self._decoder.end_utt()
        hypothesis = self._decoder.hyp()
        return hypothesis.hypstr if hypothesis else ""


class Transformers:
    """Whisper, HuBERT or another transformers model; `source` is a folder or a name on the hub.

    `language` is a code such as en-us; a Whisper model that does not know it, or None, detects the language.
    """

    backend = "transformers"

    def __init__(self, source: str, device: torch.device, language: str | None) -> None:
        from transformers import pipeline

        quiet_transformers()
        self.name = model_name(source)
        self._pipeline: Any = pipeline("automatic-speech-recognition", model=source, device=device)
        self._options: dict[str, Any] = {}
        # Only Whisper takes these options, and needs timestamps for audio longer than its window of 30 s.
        if self._pipeline.type == "seq2seq_whisper":
            self._options = {"return_timestamps": True}
            generation = self._pipeline.model.generation_config
            # English-only models refuse a task and a language.
            if getattr(generation, "is_multilingual", False):
                known = [token.strip("<|>") for token in getattr(generation, "lang_to_id", {})]
                code = whisper_language(language, known)
                self._options["generate_kwargs"] = {"task": "transcribe"} | ({"language": code} if code else {})

    def transcribe(self, audio: np.ndarray) -> str:
        return str(self._pipeline({"raw": audio, "sampling_rate": RATE_HZ}, **self._options)["text"])


class Recognition(NamedTuple):
    """What Whisper recognized: `log_probability` is the mean over the tokens of the text."""

    text: str
    language: str
    language_probability: float
    log_probability: float


class FasterWhisper:
    """Whisper through faster-whisper; `source` is a CTranslate2 folder or a name on the hub, `language` as above."""

    backend = "faster-whisper"

    def __init__(self, source: str, device: torch.device, language: str | None) -> None:
        import ctranslate2
        from faster_whisper import WhisperModel

        quiet_transformers()
        self.name = model_name(source)
        is_on_gpu = device.type == "cuda" and ctranslate2_has_cuda()
        if device.type == "cuda" and not is_on_gpu:
            log.warning("faster-whisper finds no cuBLAS of CUDA 12 (libcublas.so.12), and runs on the CPU")
        # Hard audio is decoded again with sampling: the same clips get the same transcripts.
        ctranslate2.set_random_seed(0)
        self._model = WhisperModel(
            source,
            device="cuda" if is_on_gpu else "cpu",
            device_index=device.index or 0,
            # On CPUs 8-bit weights are faster than fp32, with about the same errors.
            compute_type="default" if is_on_gpu else "int8",
            cpu_threads=torch.get_num_threads(),
        )
        if self._model.feature_extractor.mel_filters.shape[0] != self._model.model.n_mels:
            raise ValueError("its preprocessor_config.json is missing, or is that of another model")
        self._language = whisper_language(language, self._model.supported_languages)

    def transcribe(self, audio: np.ndarray) -> str:
        return self.recognize(audio).text

    def recognize(self, audio: np.ndarray) -> Recognition:
        """The words in (N,) audio at 16 kHz, with the language, and how likely both are."""
        found, info = self._model.transcribe(
            audio,
            language=self._language,
            beam_size=5,
            condition_on_previous_text=False,
            # Longer audio is read in several windows, and timestamps say where the next one starts.
            without_timestamps=len(audio) <= WHISPER_SECONDS * RATE_HZ,
        )
        segments = list(found)
        num_tokens = [len(segment.tokens) for segment in segments]
        likelihood = sum(number * segment.avg_logprob for number, segment in zip(num_tokens, segments, strict=True))
        return Recognition(
            text="".join(segment.text for segment in segments).strip(),
            language=info.language,
            language_probability=float(info.language_probability),
            log_probability=likelihood / max(1, sum(num_tokens)),
        )


def model_name(source: str) -> str:
    """The name of a model for the report: the last part of its folder or of its name on the hub."""
    return Path(source).resolve().name if Path(source).is_dir() else source.rstrip("/").split("/")[-1]


def whisper_language(language: str | None, known: Collection[str]) -> str | None:
    """Whisper's code of a language such as en-us, or None if it is not among those that the model knows."""
    code = language_code(language or "")
    return code if code in known else None


def ctranslate2_has_cuda() -> bool:
    """Whether the library that faster-whisper needs on a GPU is installed: torch's own is of a newer CUDA."""
    try:
        ctypes.CDLL("libcublas.so.12")
    except OSError:
        return False
    return True


def whisper_backend(
    source: str | None, device: torch.device, model_key: str = "--asr_model"
) -> type[FasterWhisper] | type[Transformers]:
    """Choose what runs a Whisper model: what its folder or its page on the hub holds, else what is installed.

    Raises UserError if only faster-whisper could run it, which is not installed, or if a folder holds no model.
    """
    has_faster_whisper = find_spec("faster_whisper") is not None
    if source is None:
        # Without its library for GPUs, faster-whisper would run the large model on the CPU.
        is_usable = has_faster_whisper and (device.type != "cuda" or ctranslate2_has_cuda())
        return FasterWhisper if is_usable else Transformers
    folder = Path(source)
    if folder.is_dir():
        is_converted = (folder / "model.bin").is_file()
        # faster-whisper would download the tokenizer of another model instead.
        if not (folder / ("tokenizer.json" if is_converted else "config.json")).is_file():
            raise UserError(
                f"{model_key} {source}: no Whisper model; give a folder with model.bin and tokenizer.json "
                "(faster-whisper), or with config.json and model.safetensors (transformers)"
            )
    elif "/" not in source:
        # Whisper's models on the hub have an owner: names without one are sizes that faster-whisper knows.
        is_converted = True
    else:
        from huggingface_hub import hf_hub_download

        quiet_transformers()
        config = json.loads(Path(hf_hub_download(source, "config.json")).read_text(encoding="utf-8"))
        is_converted = "model_type" not in config
    if is_converted and not has_faster_whisper:
        raise UserError(f"{model_key} {source}: a model of faster-whisper, not installed; pip install faster-whisper")
    return FasterWhisper if is_converted else Transformers


def build_recognizer(
    name: RecognizerName,
    source: str | None = None,
    device: torch.device = CPU,
    language: str | None = None,
    model_key: str = "--asr_model",
) -> Recognizer:
    """Load a recognizer; `source` replaces the default model by a folder or a name on the hub.

    `language` is a code such as en-us; Whisper detects the language if it is None or auto. PocketSphinx runs on the
    CPU. `model_key` is the flag or the setting that names `source`. Raises UserError with how to get the recognizer if
    it cannot be loaded.
    """
    if name == "none":
        raise UserError("give --asr pocketsphinx, whisper or hubert")
    if source and not Path(source).is_dir() and (source[0] in "./~" or source.count("/") > 1):
        raise UserError(f"{model_key} {source}: no such folder")
    default = MODELS.get(name, "")
    try:
        if name == "pocketsphinx":
            return PocketSphinx()
        backend = whisper_backend(source, device, model_key) if name == "whisper" else Transformers
        default = FASTER_WHISPER_MODEL if backend is FasterWhisper else default
        return backend(source or default, device, None if language == AUTO else language)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        reason = first_line(error)
        where = f", or give {model_key} DIR with a copy of {default}" if default else ""
        raise UserError(f"{name} cannot be loaded ({reason}); pip install 'vallet[eval]'{where}") from error
