"""The benchmark of stage 1 without a codec: its stand-in is a codec, and its numbers count all processes."""

import multiprocessing
import time
from pathlib import Path

import pytest
import torch

from benchmarks import features
from benchmarks.features import InstantCodec
from benchmarks.synthetic_corpus import write_synthetic_corpus
from processors.codecs.encodec import Encodec, build_encodec
from tests.conftest import defaults

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="the system has no /proc")


def _burn(seconds: float, pipe) -> None:
    started = time.process_time()
    while time.process_time() - started < seconds:
        pass
    pipe.send(True)
    pipe.recv()


def test_the_codec_of_no_cost_gives_codes_of_the_shape_of_encodecs() -> None:
    audio, audio_lens = torch.zeros(3, 9001), torch.tensor([9001, 6400, 6401])
    codes, codes_lens = InstantCodec().encode(audio, audio_lens)
    expected, expected_lens = Encodec(build_encodec()).encode(audio, audio_lens)
    assert codes.shape == expected.shape and codes.dtype == expected.dtype
    assert torch.equal(codes_lens, expected_lens)


@needs_proc
def test_cpu_time_includes_that_of_workers() -> None:
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    before = features._cpu_seconds()
    worker = context.Process(target=_burn, args=(0.3, theirs), daemon=True)
    worker.start()
    assert ours.poll(60)
    after = features._cpu_seconds()
    ours.send(True)
    worker.join()
    assert before is not None and after is not None
    assert after - before > 0.25


@needs_proc
def test_the_rate_is_of_whole_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_synthetic_corpus(tmp_path / "LibriTTS", minutes=0.1)
    monkeypatch.setattr(features, "SHARD_SIZE", 16)
    settings = defaults().preprocess
    started = time.perf_counter()
    rate, cores = features._rate_without_codec(settings, tmp_path / "LibriTTS", tmp_path / "data", 0, 64)
    seconds = time.perf_counter() - started
    # Two of the four shards lie between the start of the second and that of the last.
    assert rate > 32 / seconds
    assert cores is not None and 0 < cores < 16
    assert not (tmp_path / "data").exists()
