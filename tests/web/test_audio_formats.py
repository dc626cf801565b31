"""Formats of the API: what is decoded is what was encoded, streamed or not, in any blocks."""

import io
import wave

import numpy as np
import pytest
import soundfile
import torch
from torchaudio.functional import resample

from web.audio_formats import CONTENT_TYPES, PCM_RATE_HZ, AudioEncoder, _BlockResampler


def made_up(seconds: float, rate_hz: int) -> torch.Tensor:
    """Two tones with noise."""
    time = torch.arange(round(seconds * rate_hz)) / rate_hz
    generator = torch.Generator().manual_seed(0)
    tones = 0.3 * torch.sin(2 * torch.pi * 220 * time) + 0.1 * torch.sin(2 * torch.pi * 1500 * time)
    return tones + 0.01 * torch.randn(len(time), generator=generator)


def encode(file_format: str, audio: torch.Tensor, rate_hz: int, sizes: list[int], is_stream: bool) -> bytes:
    encoder = AudioEncoder(file_format, rate_hz, is_stream)
    return b"".join([encoder.add(block) for block in audio.split(sizes)] + [encoder.finish()])


def decode(content: bytes, file_format: str) -> tuple[np.ndarray, int]:
    if file_format == "pcm":
        return np.frombuffer(content, "<i2").astype(np.float64) / 32768, PCM_RATE_HZ
    return soundfile.read(io.BytesIO(content))


@pytest.mark.parametrize("is_stream", [True, False], ids=["stream", "file"])
@pytest.mark.parametrize("rate_hz", [16000, 24000])
@pytest.mark.parametrize("file_format", CONTENT_TYPES)
def test_what_is_decoded_is_what_was_encoded(file_format: str, rate_hz: int, is_stream: bool) -> None:
    audio = made_up(3.0, rate_hz)
    sizes = [1, 7000, 0, len(audio) - 7001]
    content = encode(file_format, audio, rate_hz, sizes, is_stream)
    assert content == encode(file_format, audio, rate_hz, sizes, is_stream)
    decoded, found_hz = decode(content, file_format)
    wanted_hz = PCM_RATE_HZ if file_format == "pcm" else rate_hz
    wanted = resample(audio, rate_hz, wanted_hz).numpy()
    assert found_hz == wanted_hz
    if file_format in ("mp3", "opus"):
        # A stream of MP3 does not say how long its first and last frame are.
        late = 0.15 if file_format == "mp3" and is_stream else 0.0
        assert len(wanted) <= len(decoded) <= len(wanted) + late * rate_hz
        spectra = [np.abs(np.fft.rfft(row[rate_hz // 2 : 5 * rate_hz // 2])) for row in (decoded, wanted)]
        assert np.corrcoef(*spectra)[0, 1] > 0.99
    else:
        assert np.abs(decoded - wanted).max() <= 1.6 / 32768


@pytest.mark.parametrize("file_format", CONTENT_TYPES)
def test_a_stream_does_not_depend_on_when_its_bytes_were_taken(file_format: str) -> None:
    audio = made_up(2.0, 24000)
    one, many = [len(audio)], [4800] * 10
    assert encode(file_format, audio, 24000, one, True) == encode(file_format, audio, 24000, many, True)


@pytest.mark.parametrize("file_format", ["wav", "mp3", "opus", "pcm"])
def test_bytes_come_before_the_end(file_format: str) -> None:
    encoder = AudioEncoder(file_format, 24000, True)
    assert len(encoder.add(made_up(3.0, 24000))) > 1000
    assert encoder.finish() is not None


def test_a_streamed_wav_is_read_by_python(tmp_path) -> None:
    audio = made_up(0.5, 24000)
    (tmp_path / "a.wav").write_bytes(encode("wav", audio, 24000, [len(audio)], True))
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert file.getframerate() == 24000 and len(file.readframes(10**6)) == 2 * len(audio)


@pytest.mark.parametrize("rates", [(16000, 24000), (24000, 16000), (22050, 24000), (44100, 24000)])
def test_resampled_blocks_are_the_whole_resampled(rates: tuple[int, int]) -> None:
    audio = made_up(2.0, rates[0])
    resampler, sizes = _BlockResampler(*rates), [5000, 1, 12000, 3]
    blocks = [*map(resampler.add, audio.split([*sizes, len(audio) - sum(sizes)])), resampler.finish()]
    torch.testing.assert_close(torch.cat(blocks), resample(audio, *rates), atol=1e-5, rtol=0)
