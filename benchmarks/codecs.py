"""Every codec of the project at its full size, most with seeded weights: encoding in batches, and decoding."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from benchmarks.measure import Row, seconds_of
from config.schema import CodecSettings
from processors.codecs.base import Codec
from processors.codecs.encodec import Encodec, build_encodec
from processors.codecs.vocos import EncodecVocos, VocosNet
from utils.config import load_settings
from utils.paths import PRETRAINED, ROOT

# Clips in a batch, and seconds of the longest one: in the sample and in full.
SAMPLE_BATCH, FULL_BATCH = (2, 3.0), (4, 6.0)
# Sample rate, strides and codebooks. Of the 32 codebooks at 24 kHz, the recipe uses 8.
DAC_SIZES = (16000, (2, 4, 5, 8), 12), (24000, (2, 4, 5, 8), 8), (44100, (2, 4, 8, 8), 9)
Build = Callable[[], Codec]


def rows(device: torch.device, full: bool) -> list[Row]:
    """Two rows for each codec. X-Codec 2, which has 0.63 billion weights, needs `full` or a GPU."""
    found = []
    for name, build in codecs():
        jobs = f"{name}, encoding", f"{name}, decoding"
        if name == "X-Codec 2" and not full and device.type == "cpu":
            found += [Row(job, note="not measured without --full") for job in jobs]
            continue
        codec = build().to(device)
        encode, decode, seconds = work_of(codec, *(FULL_BATCH if full or device.type != "cpu" else SAMPLE_BATCH))
        for job, work in zip(jobs, (encode, decode), strict=True):
            taken = seconds_of(work, repeats=1)
            found.append(Row(job, taken, seconds / taken, "x real time"))
    return found


def work_of(
    codec: Codec, num_clips: int, most_seconds: float
) -> tuple[Callable[[], object], Callable[[], object], float]:
    """Encoding and decoding of a batch of clips of different lengths, and how many seconds of audio that is."""
    lens = torch.tensor([int(codec.sample_rate_hz * most_seconds * (1 - 0.05 * row)) for row in range(num_clips)])
    generator = torch.Generator().manual_seed(0)
    audio = 0.1 * torch.randn(num_clips, int(lens.max()), generator=generator)
    codes, codes_lens = codec.encode(audio, lens)
    seconds = float(lens.sum()) / codec.sample_rate_hz
    return lambda: codec.encode(audio, lens)[0].cpu(), lambda: codec.decode(codes, codes_lens)[0].cpu(), seconds


def codecs() -> Iterator[tuple[str, Build]]:
    """Names and constructors. Untrained weights take as long as trained ones."""
    torch.manual_seed(0)
    yield "EnCodec through transformers", lambda: Encodec(build_encodec("transformers"))
    try:
        import encodec  # noqa: F401

        yield "EnCodec through its package", lambda: Encodec(build_encodec("encodec"))
    except ImportError:
        pass
    yield "EnCodec with Vocos", _vocos
    for rate_hz, strides, num_codebooks in DAC_SIZES:
        sizes = {"sampling_rate": rate_hz, "downsampling_ratios": list(strides), "n_codebooks": num_codebooks}
        yield f"DAC {rate_hz / 1000:g} kHz", partial(_dac, sizes)
    yield "Mimi", _mimi
    yield "X-Codec 2", _xcodec2
    yield "MelRVQ", _mel_rvq
    yield "SpeechRVQ", _speech_rvq


def _vocos() -> Codec:
    tables = torch.randn(16, 1024, 128)
    return EncodecVocos(Encodec(build_encodec()), VocosNet(128, 384, 1152, 8, 4), tables)


def _dac(sizes: dict[str, Any]) -> Codec:
    from transformers import DacConfig, DacModel

    from processors.codecs.dac import Dac

    return Dac(DacModel(DacConfig(**sizes)))


def _mimi() -> Codec:
    from transformers import MimiConfig, MimiModel

    from processors.codecs.mimi import Mimi

    codec = Mimi(MimiModel(MimiConfig()))
    codec.keep_codebooks(8)
    return codec


def _xcodec2() -> Codec:
    from transformers import Xcodec2Config, Xcodec2Model

    from processors.codecs.xcodec2 import XCodec2

    return XCodec2(Xcodec2Model(Xcodec2Config()))


def _mel_rvq() -> Codec:
    from processors.codecs.mel_rvq import CODEBOOK_SIZE, MelRVQ

    settings = load_settings(ROOT / "config" / "valle.json", CodecSettings, root=ROOT).preprocess.mel_rvq
    codebooks = torch.randn(settings.num_codebooks, CODEBOOK_SIZE, settings.num_mels)
    return MelRVQ(codebooks, torch.ones(settings.num_codebooks), settings, 24000)


def _speech_rvq() -> Codec:
    from processors.codecs.speech_rvq import SpeechRVQ

    return SpeechRVQ.load(PRETRAINED / SpeechRVQ.file_name)
