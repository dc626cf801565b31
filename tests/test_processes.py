"""Several processes and machines, started by the launchers that users start them with, on the CPU over gloo."""

import gzip
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType

import bins.preprocess
import bins.train
from models.valle import build
from models.valle.experiment import Experiment
from processors.manifest import SPLITS, list_shards
from tests.conftest import ROOT, free_port, tiny_train
from tests.gradients import stepped_weights
from tests.tiny_runs import call, prepare, sets, train, write_config, write_custom
from utils.checkpoint import find_checkpoints, load_state, load_weights
from utils.errors import UserError

TORCHRUN = ("-m", "torch.distributed.run")
ACCELERATE = ("-m", "accelerate.commands.launch", "--cpu", "--num_machines", "1", "--mixed_precision", "no")
# Ended here, and not by the harness, a launcher's processes are ended with it.
SECONDS = 200


def start(*command: str | Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    parts = [sys.executable, *map(str, command)]
    return subprocess.Popen(parts, cwd=ROOT, env=environment, text=True, stderr=subprocess.PIPE)


def finish(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        _, said = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, said


def machines(num: int, program: Sequence[str | Path], port: int) -> list[subprocess.Popen[str]]:
    """As many torchrun agents that meet on the loopback, each with one process: what so many machines run."""
    meeting = ("--rdzv_backend", "c10d", "--rdzv_endpoint", f"127.0.0.1:{port}", "--rdzv_id", "vallet")
    flags = (*TORCHRUN, "--nnodes", str(num), "--nproc_per_node", "1", *meeting)
    return [start(*flags, *program) for _ in range(num)]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    return write_config(folder / "config.json", write_custom(folder / "corpus", 40), folder)


def contents(data: Path) -> dict[str, bytes]:
    """What stage 1 made, but for the headers of gzip files, which hold the time.

    The codebooks' file has its header in any order; what is in it is in the fingerprint of stats.json.
    """
    paths = [path for path in data.rglob("*") if path.is_file() and path.suffix != ".safetensors"]
    files = {str(path.relative_to(data)): path.read_bytes() for path in paths}
    return {name: gzip.decompress(content) if name.endswith(".gz") else content for name, content in files.items()}


@pytest.fixture(scope="module")
def data(config: Path) -> Path:
    """Stage 1 on two processes."""
    finish(start(*ACCELERATE, "--num_processes", "2", ROOT / "bins" / "preprocess.py", "--config", config))
    return config.parent / "data"


def test_stage_1_makes_the_same_on_two_processes_as_on_one(config: Path, data: Path, tmp_path: Path) -> None:
    assert len(list_shards(data / "custom" / "train")) >= 5
    prepare(config, {"preprocess.processed_dir": str(tmp_path)})
    assert contents(tmp_path) == contents(data)
    assert all(list_shards(data / "custom" / split) for split in SPLITS)


@pytest.mark.parametrize("stage", [1, 2])
def test_two_processes_with_half_the_batch_step_as_one_with_the_whole(stage: int, tmp_path: Path) -> None:
    script = (*TORCHRUN, "--standalone", "--nproc_per_node", "2", "-m", "tests.gradients")
    finish(start(*script, str(stage), tmp_path / "weights.pt"))
    of_two = torch.load(tmp_path / "weights.pt")
    of_one = stepped_weights(stage, rank=0, world_size=1)
    untrained = stepped_weights(stage, rank=0, world_size=1, rate=0.0)
    assert max(float((of_two[name] - value).abs().max()) for name, value in of_one.items()) < 1e-5
    assert max(float((untrained[name] - value).abs().max()) for name, value in of_one.items()) > 1e-2


def test_ar_and_nar_train_on_two_machines_and_go_on_in_one_process(config: Path, data: Path) -> None:
    own = (ROOT / "bins" / "train.py", "--config", config)
    experiments = config.parent / "ckpts"
    steps = sets({"train.max_steps": 2, "train.max_sentences": 2, "train.shards_per_block": 2})
    finish(*machines(2, (*own, "--name", "ar", "--model_train_stage", "1", *steps), free_port()))
    [first] = find_checkpoints(experiments / "ar" / "checkpoint")
    assert load_state(first)["num_processes"] == 2 and first.step == 2

    from_ar = ("--model_train_stage", "2", "--ar_model_ckpt_dir", experiments / "ar")
    finish(start(*TORCHRUN, "--standalone", "--nproc_per_node", "2", *own, "--name", "nar", *from_ar, *steps))
    [nar] = find_checkpoints(experiments / "nar" / "checkpoint")
    assert load_state(nar)["num_processes"] == 2
    weights = load_weights(nar)
    assert all(weights[name].equal(value) for name, value in load_weights(first).items())

    changes = {"train.max_steps": 3, "train.max_sentences": 2, "train.shards_per_block": 2}
    # Two steps of two batches, of two utterances each.
    assert load_state(first)["progress"]["place"] == {"block": 0, "groups_done": 4}
    train(config, "ar", 1, changes, "--resume", "true")
    last = find_checkpoints(experiments / "ar" / "checkpoint")[-1]
    assert last.step == 3 and load_state(last)["num_processes"] == 1


def test_a_model_trains_on_shards_behind_a_url(config: Path, data: Path, serve: Callable[[Path], str]) -> None:
    """As on those of the folder, bit by bit."""
    url = serve(data)
    changes = {"train.max_steps": 3, "train.shards_per_block": 2}
    train(config, "local", 1, changes)
    train(config, "streamed", 1, {**changes, "preprocess.processed_dir": url})
    local, streamed = (
        load_weights(find_checkpoints(config.parent / "ckpts" / name / "checkpoint")[-1])
        for name in ("local", "streamed")
    )
    assert all(streamed[name].equal(value) for name, value in local.items())


def test_what_training_cannot_run_under_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started = SimpleNamespace(distributed_type=DistributedType.FSDP, is_main_process=True)
    monkeypatch.setattr(build, "Accelerator", lambda **_: started)
    settings = SimpleNamespace(train=tiny_train())
    with pytest.raises(UserError, match="FSDP is not supported; set distributed_type to MULTI_GPU"):
        build.build_accelerator(settings, Experiment(tmp_path), train_stage=1)


def test_a_url_that_does_not_answer_is_one_line(config: Path) -> None:
    nowhere = sets({"preprocess.processed_dir": "http://127.0.0.1:9/data"})
    with pytest.raises(UserError, match=r"^http://127.0.0.1:9/data/custom/stats.json: cannot be read"):
        call(bins.train, "--config", str(config), "--name", "x", "--model_train_stage", "1", *nowhere)
    with pytest.raises(UserError, match=r"preprocess.processed_dir: stage 1 writes to a folder"):
        call(bins.preprocess, "--config", str(config), *nowhere)
