"""The synthetic corpus: LibriTTS's layout, reproducible bytes, ten distinct voices, no repeated text."""

import re
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse.recipes import prepare_libritts

from benchmarks.synthetic_corpus import VOICES, write_synthetic_corpus
from processors.demo_sentences import sentences
from processors.espeak_speech import SAMPLE_RATE_HZ, Voice, render
from processors.frontends.espeak import EspeakPhonemizer

SPLITS = ("train-clean-100", "dev-clean", "test-clean")
TEXT = "The young farmer carried a heavy basket to the old market."


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "LibriTTS"
    write_synthetic_corpus(folder, minutes=5)
    return folder


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _is_short(text: str) -> bool:
    return len(text.split()) <= 3


def _texts(folder: Path) -> list[str]:
    return [path.read_text() for path in sorted(folder.rglob("*.normalized.txt"))]


def test_lhotse_reads_it_as_libritts(corpus: Path) -> None:
    manifests = prepare_libritts(corpus, SPLITS)
    assert set(manifests) == set(SPLITS)
    num_wavs = sum(1 for _ in corpus.rglob("*.wav"))
    supervisions = [row for split in SPLITS for row in manifests[split]["supervisions"]]
    assert len(supervisions) == num_wavs
    genders = {voice.speaker: voice.gender for voice in VOICES}
    for row in supervisions:
        assert row.gender == genders[row.speaker]
        path = next(corpus.rglob(f"{row.recording_id}.wav"))
        assert re.fullmatch(r"\d+_\d+_\d{6}_\d{6}", path.stem)
        assert path.parts[-3:-1] == tuple(path.stem.split("_")[:2])
        assert row.text == path.with_suffix(".normalized.txt").read_text()


def test_every_split_has_every_voice_and_no_text_is_repeated(corpus: Path) -> None:
    for split in SPLITS:
        assert {path.name for path in (corpus / split).iterdir()} == {voice.speaker for voice in VOICES}
    counts = Counter(
        sentence
        for split in SPLITS
        for text in _texts(corpus / split)
        for sentence in re.split(r"(?<=[.?]) ", text)
        if not _is_short(sentence)
    )
    assert max(counts.values()) == 1


def test_only_training_has_short_texts(corpus: Path) -> None:
    short = [text for text in _texts(corpus / "train-clean-100") if _is_short(text)]
    assert 0.05 < len(short) / len(_texts(corpus / "train-clean-100")) < 0.3
    assert any(len(text.split()) == 1 for text in short)
    for split in ("dev-clean", "test-clean"):
        assert not any(_is_short(text) for text in _texts(corpus / split))


def test_audio_is_as_long_and_as_loud_as_promised(corpus: Path) -> None:
    total_seconds = 0.0
    for path in corpus.rglob("*.wav"):
        info = soundfile.info(path)
        assert (info.samplerate, info.subtype, info.channels) == (SAMPLE_RATE_HZ, "PCM_16", 1)
        shortest, longest = (2.5, 4) if "test-clean" in path.parts else (2, 10)
        if _is_short(path.with_suffix(".normalized.txt").read_text()):
            shortest = 0.5
        assert shortest <= info.duration <= longest
        audio, _ = soundfile.read(path)
        assert 0.1 < np.abs(audio).max() < 0.999
        total_seconds += info.duration
    assert 300 <= total_seconds <= 300 + len(VOICES) * 10


def test_the_same_seed_gives_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    again = tmp_path / "LibriTTS"
    write_synthetic_corpus(again, minutes=5)
    assert _contents(again) == _contents(corpus)


def test_words_recur_in_many_sentences() -> None:
    words = Counter(word for text in islice(sentences(0), 1500) for word in re.findall(r"[a-z]+", text.lower()))
    assert 60 <= len(words) <= 120
    assert min(words.values()) >= 10
    assert list(islice(sentences(1), 20)) != list(islice(sentences(2), 20))


def _spectrum(voice: Voice) -> np.ndarray:
    """Mean log power in 40 bands up to 8 kHz over the louder frames of one sentence, with the mean removed."""
    frames = np.lib.stride_tricks.sliding_window_view(render(TEXT, voice), 1024)[::256] * np.hanning(1024)
    power = np.abs(np.fft.rfft(frames)[:, 1:321]) ** 2
    bands = np.log(power[power.sum(1) > np.median(power.sum(1))].reshape(-1, 40, 8).mean(2) + 1e-6).mean(0)
    return bands - bands.mean()


def test_voices_differ() -> None:
    spectra = [_spectrum(voice) for voice in VOICES]
    distances = [np.sqrt(((a - b) ** 2).mean()) for i, a in enumerate(spectra) for b in spectra[:i]]
    # The same voice at two speeds has a distance of 0.2.
    assert min(distances) > 0.6
    assert {voice.gender for voice in VOICES} == {"M", "F"}
    assert len(VOICES) == len({voice.speaker for voice in VOICES}) == 10


def test_phonemizer_and_renderings_do_not_affect_each_other() -> None:
    alone = render(TEXT, VOICES[3])
    phonemizer = EspeakPhonemizer("en-us")
    phones = phonemizer.phonemize([TEXT])
    assert np.array_equal(render(TEXT, VOICES[3]), alone)
    assert phonemizer.phonemize([TEXT]) == phones
