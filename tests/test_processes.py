"""Several processes and machines, started by the launchers that users start them with, on the CPU over gloo."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import bins.preprocess
import bins.train
from models.experiment import Experiment
from processors.manifest import SPLITS, list_shards
from tests.conftest import ROOT, free_port, tiny_train
from tests.support.gradients import share, stepped_weights
from tests.support.tiny_runs import call, prepare, sets, train, write_config, write_custom
from training import run as build
from training.parallel import configure_fsdp
from utils.checkpoint import find_checkpoints, load_state, load_weights
from utils.errors import UserError

TORCHRUN = ("-m", "torch.distributed.run")
ACCELERATE = ("-m", "accelerate.commands.launch", "--cpu", "--num_machines", "1", "--mixed_precision", "no")
TWO = (*TORCHRUN, "--standalone", "--nproc_per_node", "2")
FSDP = """
compute_environment: LOCAL_MACHINE
distributed_type: FSDP
num_machines: 1
num_processes: 2
fsdp_config:
  fsdp_version: 2
"""
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


@pytest.fixture(scope="module")
def with_fsdp(tmp_path_factory: pytest.TempPathFactory) -> tuple[str | Path, ...]:
    """A launcher of two processes, by a user's file."""
    path = tmp_path_factory.mktemp("launcher") / "fsdp.yaml"
    path.write_text(FSDP)
    return ("-m", "accelerate.commands.launch", "--config_file", path)


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


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
@pytest.mark.parametrize("stage", [1, 2])
def test_two_processes_with_half_the_batch_step_as_one_with_the_whole(
    stage: int, kind: str, with_fsdp: tuple[str | Path, ...], tmp_path: Path
) -> None:
    """Whether all of the NAR's stages are there, or one is drawn for each process."""
    launcher = TWO if kind == "ddp" else with_fsdp
    finish(start(*launcher, "-m", "tests.support.gradients", str(stage), "no", tmp_path / "weights.pt"))
    with_all, with_drawn = torch.load(tmp_path / "weights.pt")
    whole_batch, shares = [share(0, 1, drawn=False)], [share(rank, 2, drawn=True) for rank in range(2)]
    assert stage == 1 or shares[0].nar[0].stage != shares[1].nar[0].stage
    untrained = stepped_weights(stage, whole_batch, rate=0.0)
    for of_two, batches in ((with_all, whole_batch), (with_drawn, shares)):
        of_one = stepped_weights(stage, batches)
        assert max(float((of_two[name] - value).abs().max()) for name, value in of_one.items()) < 1e-5
        assert max(float((untrained[name] - value).abs().max()) for name, value in of_one.items()) > 1e-2


def test_a_step_calls_no_collective_on_the_group_of_the_gradients_but_for_them(tmp_path: Path) -> None:
    """Any other would make each step wait for its GPU. DDP reduces the gradients below torch's functions."""
    finish(start(*TWO, "-m", "tests.support.collectives", tmp_path))
    calls = json.loads((tmp_path / "calls.json").read_text())
    assert calls["device"] == {} and calls["messages"] == {"all_reduce": 3}


def test_fsdp_computes_in_bf16_where_that_is_asked_for(with_fsdp: tuple[str | Path, ...], tmp_path: Path) -> None:
    """Near to a step in fp32, and not the same."""
    finish(start(*with_fsdp, "-m", "tests.support.gradients", "2", "bf16", tmp_path / "weights.pt"))
    in_bf16, _ = torch.load(tmp_path / "weights.pt")
    in_fp32 = stepped_weights(2, [share(0, 1, drawn=False)])
    untrained = stepped_weights(2, [share(0, 1, drawn=False)], rate=0.0)
    distances = {name: float((in_bf16[name] - value).norm()) for name, value in in_fp32.items()}
    steps = {name: float((untrained[name] - value).norm()) for name, value in in_fp32.items()}
    assert all(value.dtype == torch.float32 for value in in_bf16.values())
    assert 1e-4 < sum(distances.values()) / sum(steps.values()) < 0.05


def test_ar_and_nar_train_on_two_machines_and_go_on_in_one_process(config: Path, data: Path) -> None:
    own = (ROOT / "bins" / "train.py", "--config", config)
    experiments = config.parent / "ckpts"
    changes = {"train.max_sentences": 2, "train.shards_per_pool": 2}
    steps = sets({"train.max_steps": 2, **changes})
    finish(*machines(2, (*own, "--name", "ar", "--model_train_stage", "1", *steps), free_port()))
    [first] = find_checkpoints(experiments / "ar" / "checkpoint")
    assert load_state(first)["num_processes"] == 2 and first.step == 2

    from_ar = ("--model_train_stage", "2", "--ar_model_ckpt_dir", experiments / "ar")
    finish(start(*TWO, *own, "--name", "nar", *from_ar, *steps))
    [nar] = find_checkpoints(experiments / "nar" / "checkpoint")
    assert load_state(nar)["num_processes"] == 2
    weights = load_weights(nar)
    assert all(weights[name].equal(value) for name, value in load_weights(first).items())

    # Two steps of two batches, one on each rank.
    assert load_state(first)["progress"]["batch"] == 4
    train(config, "ar", 1, {"train.max_steps": 3, **changes}, "--resume", "true")
    last = find_checkpoints(experiments / "ar" / "checkpoint")[-1]
    assert last.step == 3 and load_state(last)["num_processes"] == 1


def test_a_model_trains_with_fsdp_as_in_one_process(
    config: Path, data: Path, with_fsdp: tuple[str | Path, ...]
) -> None:
    """Two steps in one process, two with FSDP on two, two in one: as six in one, whose every step has two batches."""
    experiments = config.parent / "ckpts"
    still = {"model.dropout": 0.0, "train.audio_token_dropout": 0.0, "train.max_sentences": 2, "train.base_lr": 1e-3}
    # Averages are sharded and handed on, too.
    still["train.ema_decay"] = 0.5
    alone = {**still, "train.gradient_accumulation_step": 2}
    train(config, "uninterrupted", 1, {**alone, "train.max_steps": 6})
    train(config, "handed_on", 1, {**alone, "train.max_steps": 2})
    shown = {**still, "train.max_steps": 4, "train.valid_interval": 1, "train.tracker": ["tensorboard"]}
    program = (*with_fsdp, "-m", "tests.support.sharded", "--config", config)
    flags = ("--name", "handed_on", "--model_train_stage", "1", "--resume", "true")
    finish(start(*program, *flags, *sets(shown)))
    train(config, "handed_on", 1, {**alone, "train.max_steps": 6}, "--resume", "true")
    expected, found = (
        find_checkpoints(experiments / name / "checkpoint")[-1] for name in ("uninterrupted", "handed_on")
    )
    assert load_state(expected)["progress"]["batch"] == load_state(found)["progress"]["batch"] > 0
    weights = load_weights(found)
    assert weights.keys() == load_weights(expected).keys()
    assert max(float((weights[name] - value).abs().max()) for name, value in load_weights(expected).items()) < 1e-5

    flags = ("--name", "nar_fsdp", "--model_train_stage", "2", "--ar_model_ckpt_dir", str(experiments / "handed_on"))
    finish(start(*program, *flags, *sets(shown)))
    [nar] = find_checkpoints(experiments / "nar_fsdp" / "checkpoint")
    trained = load_weights(nar)
    assert all(trained[name].equal(value) for name, value in weights.items())
    logged = EventAccumulator(str(experiments / "nar_fsdp" / "log"), size_guidance={"audio": 0}).Reload()
    assert [event.step for event in logged.Audio("sample/speech")] == [1, 2, 3, 4]


def test_a_model_trains_on_shards_behind_a_url(config: Path, data: Path, serve: Callable[[Path], str]) -> None:
    """As on those of the folder, bit by bit."""
    url = serve(data)
    changes = {"train.max_steps": 3, "train.shards_per_pool": 2}
    train(config, "local", 1, changes)
    train(config, "streamed", 1, {**changes, "preprocess.processed_dir": url})
    local, streamed = (
        load_weights(find_checkpoints(config.parent / "ckpts" / name / "checkpoint")[-1])
        for name in ("local", "streamed")
    )
    assert all(streamed[name].equal(value) for name, value in local.items())


def test_what_training_cannot_run_under_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started = SimpleNamespace(distributed_type=DistributedType.MEGATRON_LM, is_main_process=True)
    monkeypatch.setattr(build, "Accelerator", lambda **_: started)
    settings = SimpleNamespace(model_type="VALLE", train=tiny_train())
    with pytest.raises(UserError, match="MEGATRON_LM is not supported; set distributed_type to MULTI_GPU or FSDP"):
        build.build_accelerator(settings, Experiment(tmp_path), train_stage=1)
    for given, advice in (
        ({"fsdp_version": 1}, "set fsdp_version to 2"),
        ({"fsdp_version": 2, "cpu_offload": True}, "fsdp_offload_params is not supported"),
        ({"fsdp_version": 2, "activation_checkpointing": True}, "train.activation_checkpointing to true"),
    ):
        with pytest.raises(UserError, match=advice):
            configure_fsdp(FullyShardedDataParallelPlugin(**given))


def test_a_url_that_does_not_answer_is_one_line(config: Path) -> None:
    nowhere = sets({"preprocess.processed_dir": "http://127.0.0.1:9/data"})
    with pytest.raises(UserError, match=r"^http://127.0.0.1:9/data/custom/stats.json: cannot be read"):
        call(bins.train, "--config", str(config), "--name", "x", "--model_train_stage", "1", *nowhere)
    with pytest.raises(UserError, match=r"preprocess.processed_dir: stage 1 writes to a folder"):
        call(bins.preprocess, "--config", str(config), *nowhere)
