"""Speech by espeak-ng: any text in any of its voices, rendered by the libespeak-ng of espeakng-loader.

A rendering is deterministic: espeak-ng is used through its C interface, from its initial state.
"""

import _ctypes
import ctypes
import math
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import espeakng_loader
import numpy as np

from processors.frontends.espeak_library import espeak_data_path, with_library
from utils.errors import UserError

SAMPLE_RATE_HZ = 24000
_ESPEAK_RATE_HZ = 22050
_HEAD_SECONDS, _TAIL_SECONDS = 0.05, 0.1


@dataclass(frozen=True)
class Voice:
    """A speaker: an espeak-ng variant of en-us with its own pitch and pitch range (0 to 100) and words per minute.

    A pitch range of 10 is nearly flat; espeak-ng's own default is 50.
    """

    speaker: str
    gender: str
    variant: str
    pitch: int
    words_per_minute: int
    pitch_range: int = 10


_SYNTH_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


class _Event(ctypes.Structure):
    """`espeak_EVENT` of espeak-ng's speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    )


class EspeakSynthesizer:
    """One private copy of libespeak-ng; see `espeak_synthesizer`.

    `word_starts` has, for the last text, when each word begins, in seconds, by its first character.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._pieces: list[bytes] = []
        self.word_starts: dict[int, float] = {}
        # The library keeps the bare address, so the object must live as long as the library.
        self._callback = _SYNTH_CALLBACK(self._collect)
        synchronous, do_not_exit = 2, 0x8000
        path = str(espeak_data_path())
        if library.espeak_Initialize(synchronous, 0, path.encode(), do_not_exit) != _ESPEAK_RATE_HZ:
            raise UserError(f"espeak-ng cannot read its data at {path}: the path must be shorter than 160 characters")
        library.espeak_ng_SetRandSeed(ctypes.c_long(0))
        library.espeak_SetSynthCallback(self._callback)

    def _collect(self, samples: int | None, num_samples: int, events: int | None) -> int:
        if samples and num_samples > 0:
            self._pieces.append(ctypes.string_at(samples, 2 * num_samples))
        # A list that ends with an event of type 0. Positions count characters from 1, and milliseconds.
        is_word, index = 1, 0
        found = ctypes.cast(events, ctypes.POINTER(_Event)) if events else None
        while found is not None and found[index].type:
            if found[index].type == is_word:
                seconds = _HEAD_SECONDS + found[index].audio_position / 1000
                self.word_starts.setdefault(found[index].text_position - 1, seconds)
            index += 1
        return 0

    def speak(self, text: str, voice: Voice) -> np.ndarray:
        """(N,) float32 in [-1, 1] at 24 kHz, with a little silence at both ends."""
        self._pieces.clear()
        self.word_starts.clear()
        name = f"en-us+{voice.variant}"
        if self._library.espeak_SetVoiceByName(name.encode()) != 0:
            raise RuntimeError(f"espeak-ng has no voice {name}")
        rate, volume, pitch, pitch_range = 1, 2, 3, 4
        settings = {rate: voice.words_per_minute, volume: 60, pitch: voice.pitch, pitch_range: voice.pitch_range}
        for parameter, value in settings.items():
            self._library.espeak_SetParameter(parameter, value, 0)
        data, utf8 = text.encode() + b"\0", 1
        if self._library.espeak_Synth(data, ctypes.c_size_t(len(data)), 0, utf8, 0, utf8, None, None) != 0:
            raise RuntimeError(f"espeak-ng cannot speak {text!r}")
        audio = np.frombuffer(b"".join(self._pieces), np.int16).astype(np.float32) / 32768
        head, tail = (round(seconds * _ESPEAK_RATE_HZ) for seconds in (_HEAD_SECONDS, _TAIL_SECONDS))
        return _resample(np.pad(audio, (head, tail)))


def _resample(audio: np.ndarray) -> np.ndarray:
    """Resample from espeak's rate to 24 kHz in the spectrum, which treats the silent ends of (N,) audio as joined."""
    common = math.gcd(_ESPEAK_RATE_HZ, SAMPLE_RATE_HZ)
    periods = -(-len(audio) * common // _ESPEAK_RATE_HZ)
    num_from, num_to = (periods * rate_hz // common for rate_hz in (_ESPEAK_RATE_HZ, SAMPLE_RATE_HZ))
    spectrum = np.fft.rfft(audio, num_from)
    resampled = np.fft.irfft(spectrum, num_to) * (num_to / num_from)
    return resampled.clip(-1, 1).astype(np.float32)


@contextmanager
def espeak_synthesizer() -> Iterator[EspeakSynthesizer]:
    """libespeak-ng in its initial state.

    It keeps phases and random numbers in global variables that no call resets, and phonemizer may use it in the same
    process. A private copy of the library always starts in the same state, and disturbs no other user.
    """
    library, folder = with_library(_copy_of_library)
    try:
        yield EspeakSynthesizer(library)
        library.espeak_Terminate()
    finally:
        _ctypes.dlclose(library._handle)
        shutil.rmtree(folder, ignore_errors=True)


def _copy_of_library() -> tuple[ctypes.CDLL, str]:
    """A loaded copy of the library, and the temporary folder that contains it."""
    folder = tempfile.mkdtemp()
    try:
        return ctypes.CDLL(shutil.copy(espeakng_loader.get_library_path(), folder)), folder
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def render(text: str, voice: Voice) -> np.ndarray:
    """The text in this voice, (N,) float32 in [-1, 1] at 24 kHz; the same text gives the same samples.

    The flutter of a voice depends on the texts before, so a rendering is close to the corpus's own, not equal.
    """
    with espeak_synthesizer() as espeak:
        return espeak.speak(text, voice)
