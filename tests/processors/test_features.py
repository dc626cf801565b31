"""What stage 1 reads of a row, why it leaves one out, and the batches that it gives the codec."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from processors.codecs.base import Codec
from processors.features import LoadedUtterance, UtteranceReader, encode
from processors.manifest import SourceUtterance
from tests.conftest import defaults
from utils.audio import read_audio, read_samples, to_float, write_audio


def test_a_text_in_another_script_is_a_failure_with_its_letters(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", torch.rand(24000) - 0.5, 24000)
    texts = ["你好世界", "hello there", "say привет"]
    rows = [
        SourceUtterance(f"u{index}", str(tmp_path / "a.wav"), text, "speaker", "train")
        for index, text in enumerate(texts)
    ]
    first, good, last = UtteranceReader([rows], defaults().preprocess, None)[0]
    assert good.failure is None and good.phones
    assert "cannot be read in its language: 你 (CJK UNIFIED IDEOGRAPH-4F60), 好 (CJK" in str(first.failure)
    assert "е (CYRILLIC SMALL LETTER IE), ...; is it" in str(last.failure)
    graphemes = defaults().preprocess.model_copy(update={"phone_extractor": "graphemes"})
    assert [loaded.failure for loaded in UtteranceReader([rows], graphemes, None)[0]] == [None] * 3


def test_a_duration_of_zero_does_not_mean_to_the_end(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", torch.rand(24000) - 0.5, 24000)
    row = SourceUtterance("u", str(tmp_path / "a.wav"), "hello there", "speaker", "train", 0.2, 0.0)
    [loaded] = UtteranceReader([[row]], defaults().preprocess, None)[0]
    assert loaded.failure == "0.00 s is shorter than min_duration 0.5"


@pytest.mark.parametrize("form", [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "FLOAT")])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate_hz", [16000, 24000])
def test_samples_are_the_floats_that_libsndfile_reads(
    tmp_path: Path, form: tuple[str, str], channels: int, rate_hz: int
) -> None:
    """Also if they stay 16-bit integers on their way, as they do only where nothing changes them."""
    path = tmp_path / "audio"
    samples = np.random.default_rng(0).integers(-32768, 32768, (24000, channels)).astype(np.int16)
    samples[:2] = [[-32768], [32767]]
    soundfile.write(path, samples, 24000, format=form[0], subtype=form[1])
    expected = soundfile.read(path, dtype="float32", always_2d=True)[0].mean(axis=1)[2400:14400]
    read = read_samples(path, rate_hz, 0.1, 0.5)
    assert (read.dtype == np.int16) == (form[1] == "PCM_16" and channels == 1 and rate_hz == 24000)
    audio = read_audio(path, rate_hz, 0.1, 0.5)
    assert torch.equal(to_float(torch.from_numpy(read)), audio)
    if rate_hz == 24000:
        assert np.array_equal(audio.numpy(), expected)


class MeanCodec(Codec):
    """The mean of a frame's samples is its code. Records the frames of its batches, with and without padding."""

    sample_rate_hz, hop_samples, num_codebooks, codebook_size = 1000, 10, 1, 2**15
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.with_padding, self.without = 0, 0

    @classmethod
    def open(cls, *_) -> "MeanCodec":
        return cls()

    def _encode(self, audio: torch.Tensor, codes_lens: torch.Tensor) -> torch.Tensor:
        assert audio.dtype == torch.float32 and audio.abs().max() <= 1
        self.with_padding += audio.shape[0] * audio.shape[1] // 10
        self.without += int(codes_lens.sum())
        return (audio.view(len(audio), -1, 10).mean(2, keepdim=True) * 16000 + 16000).long()

    def _decode(self, codes: torch.Tensor, codes_lens: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def to(self, device: torch.device | str) -> "MeanCodec":
        return self

    def fingerprint(self) -> str:
        return "mean"


def made_up_audio(num: int) -> list[LoadedUtterance]:
    """Utterances of 0.5 to 14 s, log-normal around 4 s. Every third has float samples, the others have 16-bit ones."""
    random = np.random.default_rng(0)
    lens = np.clip(4000 * np.exp(0.7 * random.standard_normal(num)), 500, 14000).astype(int)
    loaded = []
    for index, length in enumerate(lens):
        audio = random.integers(-32768, 32768, length).astype(np.int16)
        row = SourceUtterance(f"u{index}", "", "text", "speaker", "train")
        loaded.append(LoadedUtterance(row, audio if index % 3 else audio.astype(np.float32) / 32768))
    return loaded


def test_codes_do_not_depend_on_the_order_of_the_batches() -> None:
    loaded = made_up_audio(60)
    together = encode(loaded, MeanCodec(), 30, torch.device("cpu"))
    alone = [encode([item], MeanCodec(), 30, torch.device("cpu"))[0] for item in loaded]
    assert [item.id for item in together] == [f"u{index}" for index in range(60)]
    for one, other in zip(together, alone, strict=True):
        assert one.id == other.id and np.array_equal(one.codes, other.codes)
    assert len({item.codes.tobytes() for item in together}) == 60


def test_batches_of_the_codec_have_little_padding() -> None:
    """Of a window of stage 1, at its default batch size; batches in the order of the corpus are half padding."""
    settings = defaults().preprocess
    loaded, codec, in_order = made_up_audio(128), MeanCodec(), MeanCodec()
    encode(loaded, codec, settings.codec_batch_seconds, codec.device)
    num = 8
    for first in range(0, len(loaded), num):
        encode(loaded[first : first + num], in_order, 1e6, codec.device)
    padding, unsorted = (1 - one.without / one.with_padding for one in (codec, in_order))
    assert padding < unsorted / 2
