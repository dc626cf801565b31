"""Recordings of two synthetic voices with known pauses, and stand-ins for the models that need a download."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from evaluation.recognizers import FasterWhisper, Recognition
from processors.espeak_speech import SAMPLE_RATE_HZ, EspeakSynthesizer, Voice, espeak_synthesizer

ANNA, BEN = Voice("anna", "f", "f5", 60, 160), Voice("ben", "m", "m3", 30, 150)
SENTENCES = (
    "The kettle is on the stove and the water boils.",
    "Nobody answered the door when the postman came.",
    "She sells fresh fish at the harbour every morning.",
    "Have you seen the green apples under the tall tree?",
    "A small boat crossed the river before it was dark.",
    "The old clock in the hall has not worked for years.",
)
LONG = "We walked along the river for an hour, and when the rain began we found an old mill and waited for the sun."
SHORT = "Good evening."


@dataclass(frozen=True)
class Clip:
    """What is said in a recording, by whom, and from when to when in seconds."""

    start: float
    end: float
    text: str
    speaker: str


def say(espeak: EspeakSynthesizer, text: str, voice: Voice) -> np.ndarray:
    """A clip (N,) at 24 kHz without silence at its ends."""
    audio = espeak.speak(text, voice)
    loud = np.flatnonzero(np.abs(audio) > 0.003)
    return audio[loud[0] : loud[-1] + 1]


def write_recording(
    path: Path, said: Sequence[tuple[str, Voice]], noise: float, seed: int = 0, pauses: tuple[float, float] = (0.5, 1.0)
) -> list[Clip]:
    """Write clips with random pauses and white noise in one file; returns where each is."""
    rng = np.random.default_rng(seed)
    pieces, clips = [np.zeros(SAMPLE_RATE_HZ // 2)], []
    place = len(pieces[0])
    with espeak_synthesizer() as espeak:
        for text, voice in said:
            audio = say(espeak, text, voice)
            pause = np.zeros(round(rng.uniform(*pauses) * SAMPLE_RATE_HZ))
            clips.append(Clip(place / SAMPLE_RATE_HZ, (place + len(audio)) / SAMPLE_RATE_HZ, text, voice.speaker))
            pieces += [audio, pause]
            place += len(audio) + len(pause)
    mixed = np.concatenate(pieces)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, mixed + noise * rng.standard_normal(len(mixed)), SAMPLE_RATE_HZ)
    return clips


def write_talks(folder: Path) -> None:
    """Talks of two voices: speech that is long, short, hardly heard in noise, and the same as before."""
    said = [(LONG, ANNA), (SHORT, ANNA), (SENTENCES[0], ANNA), (SENTENCES[1], BEN)]
    write_recording(folder / "one.wav", said, 0.0005, pauses=(0.6, 0.7))
    write_recording(folder / "two.wav", [(SENTENCES[1], BEN), (SENTENCES[2], ANNA)], 0.05, seed=1)
    write_recording(folder / "three.wav", [(SENTENCES[1], BEN)], 0.0005, seed=2)


class StandInWhisper(FasterWhisper):
    """In place of Whisper: a word for each third of a second, in English, with some doubts."""

    name, backend = "stand-in", "none"

    def __init__(self) -> None:
        pass

    def recognize(self, audio: np.ndarray) -> Recognition:
        return Recognition(" ".join(["word"] * (1 + len(audio) * 3 // 16000)), "en", 0.9, -0.3)


class StandInEmbedder:
    """In place of a speaker model: the loudest frequencies below 500 Hz, which tell a high voice from a low one."""

    name = kind = "stand-in"

    def embed(self, audio: np.ndarray) -> np.ndarray:
        frames = np.lib.stride_tricks.sliding_window_view(np.pad(audio, (0, 1024)), 1024)[::512] * np.hanning(1024)
        power = (np.abs(np.fft.rfft(frames, axis=1)) ** 2).sum(0)[4:32]
        return power / np.linalg.norm(power)


class StandInDnsmos:
    """In place of DNSMOS: 3.1 for everything."""

    def rate(self, audio: np.ndarray) -> tuple[float, float, float, float]:
        return 3.5, 3.7, 3.1, 3.3


def use_stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let stage 0 build the stand-ins. Worker processes build the real models nevertheless."""
    monkeypatch.setattr(
        "evaluation.recognizers.build_recognizer", lambda name, *_: None if name == "none" else StandInWhisper()
    )
    for name in ("evaluation.speakers", "recordings.segments"):
        monkeypatch.setattr(f"{name}.build_embedder", lambda *_: StandInEmbedder())
    for name in ("evaluation.dnsmos", "recordings.segments"):
        monkeypatch.setattr(f"{name}.build_dnsmos", lambda *_: StandInDnsmos())
