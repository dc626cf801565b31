"""Benchmarks with tiny models: every row is measured, and measures what its name says."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import bins.bench
from benchmarks import agreement, codecs, decoding, first_audio, measure, startup, streaming, training
from benchmarks.measure import Row, peak_memory, seconds_of, table
from config.schema import Settings, ValleExperiment
from models.valle.generate import ARGenerator
from modules.attention import SelfAttention
from modules.masks import prefix_lm_mask
from processors.codecs import CODECS
from processors.manifest import list_shards, read_shards, write_shard
from tests.conftest import ROOT, tiny_model
from utils.config import load_settings
from utils.device import pick_device

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def settings() -> Settings:
    overrides = ['dataset=["custom"]', "dataset_path.custom=none", "model.decoder_dim=32", "model.nhead=2"]
    return load_settings(
        ROOT / "config" / "valle.json", ValleExperiment, [*overrides, "model.num_decoder_layers=1"], root=ROOT
    )


class Clock:
    """Stands in for the `time` module: time passes only where a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (measure, decoding):
        monkeypatch.setattr(module, "time", clock)
    return clock


def test_every_row_of_decoding_is_measured_and_judged_by_its_own_goal(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A CPU without bf16 instructions would take minutes to measure this rate.
    monkeypatch.setattr(decoding, "products_per_second", lambda *_: 1e12)
    monkeypatch.setattr(decoding, "NUM_NEW", 100)
    monkeypatch.setattr(decoding, "LONG_CONTEXT", 300)
    rows = decoding.rows(settings.model, CPU, full=False)
    measured = [row for row in rows if row.note != "not measured"]
    groups = [row for row in measured if "group_size" in row.job]
    found = [re.search(r"group_size (\d): ([\d.]+) steps a second of audio", row.job).groups() for row in groups]
    # NUM_NEW frames are a clip of 4 s.
    assert found == [("1", "25"), ("2", "12.5"), ("4", "6.25")]
    assert all(row.rate == pytest.approx(100 / row.seconds) and not row.goal for row in groups)
    assert [row.speedup for row in groups] == [None, *(groups[0].seconds / row.seconds for row in groups[1:])]
    measured = [row for row in measured if row not in groups]
    assert len(measured) == 9 and all(row.seconds and row.seconds > 0 for row in measured)
    for row in measured:
        bound, limit = re.match(r"at (most|least) ([\d.]+) x", row.goal).groups()
        ratio = row.ratio_to_floor if bound == "most" else row.speedup
        assert row.goal_met == (ratio <= float(limit) if bound == "most" else ratio >= float(limit)), row
    others = [row for row in rows if row not in [*measured, *groups]]
    assert all(row.job.endswith("GPU") and row.goal_met is None for row in others)


def test_the_plain_attention_computes_the_same() -> None:
    attention, x = SelfAttention(16, 2, dropout=0.0), torch.randn(2, 6, 16)
    mask = prefix_lm_mask(torch.tensor([2, 3]), 6)
    torch.testing.assert_close(training._dense_attention(attention, x, mask), attention(x, mask))


def test_the_texts_are_decoded_to_the_length_that_is_counted() -> None:
    model = decoding.build(tiny_model(num_quantizers=8, audio_token_num=1024, text_token_num=64), "fp32", CPU)
    texts, seen = decoding.Texts(2, CPU, num_prompt=10), []

    class Counting(ARGenerator):
        def generate(self, *arguments):
            seen.extend(super().generate(*arguments))
            return seen

    texts.decode(Counting(model.ar), 7)
    assert [len(row.codes) for row in seen] == [7, 7]


def test_the_rows_of_group_sizes_take_as_many_steps_as_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "NUM_NEW", 8)
    steps: list[int] = []
    original = decoding.build

    def watched(settings, *others):
        model = original(settings, *others)
        model.ar.decoder.register_forward_pre_hook(
            lambda _, inputs: steps.append(settings.group_size) if inputs[0].shape[1] == 1 else None
        )
        return model

    monkeypatch.setattr(decoding, "build", watched)
    tiny = tiny_model(num_quantizers=8, audio_token_num=1024, text_token_num=64, num_decoder_layers=1)
    decoding._group_rows(tiny, "fp32", CPU)
    # Once to warm up and once for the row; the first group comes from the prefill.
    assert {size: steps.count(size) for size in (1, 2, 4)} == {1: 2 * 7, 2: 2 * 3, 4: 2 * 1}


def test_the_time_of_steps_does_not_include_the_prefill(clock: Clock) -> None:
    model = decoding.build(tiny_model(num_quantizers=8, audio_token_num=1024, text_token_num=64), "fp32", CPU)
    texts = decoding.Texts(1, CPU, num_prompt=10)
    model.ar.decoder.register_forward_pre_hook(lambda _, inputs: clock.passes(1 if inputs[0].shape[1] == 1 else 1000))
    assert texts.seconds_of_steps(ARGenerator(model.ar), 5) == 5


def test_the_rows_of_a_gpu_decode_no_length_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured here on the CPU, with a warm-up of the default length."""
    tiny = tiny_model(num_quantizers=8, audio_token_num=1024, text_token_num=64, num_decoder_layers=1)
    for name, value in {"NUM_LENGTHS": 3, "NUM_PROMPT": 10, "NUM_PHONES": 6, "NUM_NEW": 8}.items():
        monkeypatch.setattr(decoding, name, value, raising=False)
    monkeypatch.setattr(decoding, "products_per_second", lambda *_: 1e12)
    shapes: dict[str, list[tuple[int, ...]]] = {"decode": [], "fill": []}

    def watch(name: str) -> None:
        original = getattr(decoding.Texts, name)

        def watched(self, *arguments):
            shapes[name].append((len(self.text), self.text.shape[1], self.codes.shape[1], getattr(self, "num_new", 0)))
            return original(self, *arguments)

        monkeypatch.setattr(decoding.Texts, name, watched)

    watch("decode")
    watch("fill")
    rows = decoding._gpu_rows(tiny, CPU)
    assert len(rows) == 4 and all(row.seconds and row.rate for row in rows)
    for name, num in (("decode", 7), ("fill", 6)):
        measured = [shape for shape in shapes[name] if shape[2] != 10 or shape[1] != 6]
        assert len(measured) >= num and max(map(measured.count, set(measured))) <= (1 if name == "decode" else 2)


def test_the_training_row_of_a_gpu_steps_on_each_shape_once(settings: Settings, tmp_path: Path) -> None:
    write_shard(tmp_path, 0, list(training.made_up_utterances(400)), training.FRAME_RATE_HZ)
    data = training.train_data(settings, list_shards(tmp_path), num_workers=0)
    warm, measured = training._batches_of_many_shapes(list(training.epoch_of(data)))
    shapes = [(batch.num_utterances, batch.longest) for batch in [*warm, *measured]]
    assert len(warm) == 4 and len(measured) >= 10 and len(set(shapes)) == len(shapes)


def test_without_a_trained_experiment_agreement_names_what_it_needs(tmp_path: Path) -> None:
    assert all("make demo" in row.note and row.rate is None for row in agreement.rows(tmp_path / "demo"))


def test_a_time_is_the_median_of_the_runs_after_the_first(clock: Clock) -> None:
    durations = iter([1000.0, 1.0, 5.0, 2.0])
    assert seconds_of(lambda: clock.passes(next(durations))) == 2


def test_the_peak_of_memory_is_that_of_the_block() -> None:
    # Allocations of this size are never taken from memory that was freed before.
    kept = torch.ones(128 * 2**20 // 4)
    with peak_memory() as peak:
        torch.ones(64 * 2**20 // 4).sum()
    assert peak.mib is None or 55 < peak.mib < 120
    assert kept.sum() > 0


def test_the_rate_of_products_stops_at_a_size_that_takes_long_enough(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    class Square:
        def __init__(self, size: int) -> None:
            self.size = size

        def __matmul__(self, other: "Square") -> None:
            sizes.append(self.size)
            clock.passes(2 * self.size**3 / 1e9)

    monkeypatch.setattr(torch, "randn", lambda size, *_, **__: Square(size))
    assert measure.products_per_second.__wrapped__(CPU, torch.float32) == pytest.approx(1e9)
    # At 1 GFLOP/s a product of size 512 takes 0.27 s, one of size 256 much less than 0.2 s.
    assert sizes == [128, 256, *[512] * 5]


def test_the_table_has_a_line_for_each_row() -> None:
    rows = [
        Row("fast", 0.5, 1234.5, "x/s", 10.0, 3.21, 1.234, "at least 3 x", True),
        Row("absent", note="not measured"),
    ]
    lines = table(rows).splitlines()
    assert len(lines) == 4 and len({len(line) for line in lines}) == 1
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == [
        *("fast", "0.5", "1,234 x/s", "10", "3.2 x", "1.23 x", "at least 3 x", "yes")
    ]
    assert lines[3].endswith("| not measured |")


def test_one_part_alone_is_run_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[Any] = []

    def rows(settings: Settings, device: torch.device) -> list[Row]:
        given.extend([settings.model.nhead, device])
        return [Row("one job", 2.0, goal="at most 1 s", goal_met=False)]

    monkeypatch.setattr(startup, "rows", rows)
    monkeypatch.setattr(measure, "read_bytes_per_second", lambda _: 3e9)
    monkeypatch.setattr(measure, "products_per_second", lambda *_: 5e9)
    out = tmp_path / "bench.json"
    assert bins.bench.main(["--part", "startup", "--set", "model.nhead=4", "--output", str(out)]) == 0
    assert given == [4, pick_device()]
    written = json.loads(out.read_text())
    assert written.keys() == {"machine", "startup"}
    assert [Row(**row) for row in written["startup"]] == [Row("one job", 2.0, goal="at most 1 s", goal_met=False)]
    assert "3 GB/s read, 5 GFLOP/s fp32, 5 GFLOP/s bf16" in written["machine"]
    printed = capsys.readouterr().out
    assert written["machine"] in printed and "one job" in printed


def test_the_start_up_of_stage_3_is_measured(settings: Settings) -> None:
    [_, row] = startup.rows(settings, CPU)
    assert row.job == "stage 3, before synthesis" and row.seconds and 0.5 < row.seconds < 60


def test_less_than_a_twentieth_of_the_positions_is_padding(settings: Settings, tmp_path: Path) -> None:
    write_shard(tmp_path, 0, list(training.made_up_utterances(1000)), training.FRAME_RATE_HZ)
    row = training._padding_row(training.train_data(settings, list_shards(tmp_path), num_workers=0))
    assert 0 < row.rate < 5 and row.goal_met


@pytest.mark.parametrize(("plain_rate", "is_met"), [(10, True), (11, False)])
def test_training_is_three_times_as_fast_as_the_plain_way(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain_rate: float, is_met: bool
) -> None:
    rates: Callable[..., float] = iter([30.0, plain_rate]).__next__
    monkeypatch.setattr(training, "_rate", lambda *_: rates())
    monkeypatch.setattr(training, "products_per_second", lambda *_: 1e12)
    write_shard(tmp_path, 0, list(training.made_up_utterances(100)), training.FRAME_RATE_HZ)
    data = training.train_data(settings, list_shards(tmp_path), num_workers=0)
    row = training._training_row(settings, data, CPU, full=False)
    assert (row.rate, row.speedup, row.goal_met) == (30, pytest.approx(30 / plain_rate), is_met)


def test_a_corpus_on_disk_is_read_to_its_end_and_repeated(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "SHARD_SIZE", 20)
    written = streaming.write_corpus(tmp_path / "written" / "train", 3)
    shards = streaming.repeat(written, tmp_path / "corpus" / "train", 7)
    assert [len(list(read_shards([shard]))) for shard in shards] == [20] * 7
    num_tokens = sum(len(u.codes) + len(u.phones) + 2 for shard in shards for u in read_shards([shard]))
    pooled = streaming.with_training(settings, shards_per_pool=2)
    streaming.evict(shards)
    # Read in a new process, as the bench does.
    whole = streaming.alone(streaming.read, pooled, shards, 1)
    assert whole.num_tokens == num_tokens and 0 < whole.first_seconds < whole.seconds and whole.peak_mib > 50
    shares = [streaming.read(pooled, shards, 0, rank=rank, world_size=2).num_tokens for rank in range(2)]
    # The last batch may be one too many for two ranks.
    assert 0.8 * num_tokens < sum(shares) <= num_tokens


def test_the_first_audio_is_not_measured_without_a_voice(tmp_path: Path) -> None:
    [row] = first_audio.rows(tmp_path)
    assert row.note == "not measured" and row.goal_met is None


def test_every_codec_has_rows() -> None:
    names = [re.sub("[^a-z0-9]", "", name.lower()) for name, _ in codecs.codecs()]
    assert all(any(name.startswith(codec.lower()) for name in names) for codec in CODECS)


@pytest.mark.parametrize("name", ["MelRVQ", "SpeechRVQ"])
def test_the_embedded_codecs_are_measured(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codecs, "SAMPLE_BATCH", (2, 0.5))
    build = dict(codecs.codecs())[name]
    monkeypatch.setattr(codecs, "codecs", lambda: iter([(name, build)]))
    rows = codecs.rows(CPU, full=False)
    assert [row.job for row in rows] == [f"{name}, encoding", f"{name}, decoding"]
    assert all(row.rate for row in rows)
