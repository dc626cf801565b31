"""The benchmark at tiny size: every row is measured, and what it compares is what it says."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import agreement, decoding, streaming, training
from benchmarks.measure import Row, peak_memory, seconds_of, table
from config.schema import Settings
from models.valle.generate import ARGenerator
from modules.attention import SelfAttention
from modules.masks import prefix_lm_mask
from processors.manifest import list_shards, read_shards, write_shard
from tests.conftest import ROOT, tiny_model
from utils.config import load_settings

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def settings() -> Settings:
    overrides = ['dataset=["custom"]', "dataset_path.custom=none", "model.decoder_dim=32", "model.nhead=2"]
    return load_settings(
        ROOT / "config" / "valle.json", Settings, [*overrides, "model.num_decoder_layers=1"], root=ROOT
    )


def test_every_row_of_decoding_is_measured(settings: Settings) -> None:
    rows = decoding.rows(settings.model, CPU, full=False)
    measured = [row for row in rows if row.note != "not measured"]
    assert len(measured) == 9 and all(row.seconds and row.seconds > 0 and row.met is not None for row in measured)
    assert all(row.to_plain or row.to_floor for row in measured)
    assert all(row.job.endswith("GPU") and row.met is None for row in rows if row not in measured)


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


def test_the_time_of_steps_is_never_the_difference_of_two_noisy_ones() -> None:
    """A prefill takes many times as long as a step: what it takes one time more than another must not count."""
    model = decoding.build(tiny_model(num_quantizers=8, audio_token_num=1024, text_token_num=64), "fp32", CPU)
    texts = decoding.Texts(1, CPU, num_prompt=4000)
    assert all(texts.seconds_of_steps(ARGenerator(model.ar), 1) > 0 for _ in range(10))


def test_the_rows_of_a_gpu_decode_no_length_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a test list does; measured here on the CPU, with a warm-up of the usual length."""
    tiny = tiny_model(num_quantizers=8, audio_token_num=1024, text_token_num=64, num_decoder_layers=1)
    for name, value in {"NUM_LENGTHS": 3, "NUM_PROMPT": 10, "NUM_PHONES": 6, "NUM_NEW": 8}.items():
        monkeypatch.setattr(decoding, name, value, raising=False)
    # A CPU without products in bf16 takes minutes for it.
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


def test_without_a_trained_experiment_agreement_says_what_it_needs(tmp_path: Path) -> None:
    assert all("make demo" in row.note and row.rate is None for row in agreement.rows(tmp_path / "demo_nar"))


def test_times_and_memory_are_those_of_the_work() -> None:
    assert seconds_of(lambda: time.sleep(0.02)) >= 0.02
    with peak_memory() as peak:
        torch.ones(32 * 2**20 // 4).sum()
    assert peak.mib is None or 25 < peak.mib < 200


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


def test_one_part_alone_writes_its_figures(tmp_path: Path) -> None:
    """Through make's own command, at tiny size."""
    tiny = [word for key in ("decoder_dim=32", "nhead=2", "num_decoder_layers=1") for word in ("--set", f"model.{key}")]
    out = tmp_path / "bench.json"
    command = [sys.executable, "-m", "bins.bench", "--part", "training", *tiny, "--output", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads(out.read_text())
    padding, loading, speed, on_gpu = figures["training"]
    assert padding["met"] and 0 < padding["rate"] < 5
    assert loading["met"] == (loading["rate"] > speed["rate"]) and speed["met"] == (speed["to_plain"] >= 3)
    assert on_gpu["note"] == "not measured" and figures.keys() == {"machine", "training"}
    assert "GFLOP/s" in figures["machine"] and "AR training" in done.stdout


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
    whole = streaming.read(pooled, shards, num_workers=0)
    assert whole.num_tokens == num_tokens and 0 < whole.first_seconds < whole.seconds and whole.peak_mib > 50
    shares = [streaming.read(pooled, shards, 0, rank=rank, world_size=2).num_tokens for rank in range(2)]
    # The last batch may be one too many for two ranks.
    assert 0.8 * num_tokens < sum(shares) <= num_tokens
