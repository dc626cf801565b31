"""Stages 1 to 3 and the AR's CUDA graphs on a GPU, beside the CPU.

With GPU_TESTS_DEVICE=cpu they run with the CPU in the GPU's place, which tests the tests themselves.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from models.valle.collate import Collator, PrefixMode
from models.valle.generate import ARGenerator
from models.valle.valle import VALLE
from modules.sampling import TokenSampler
from processors.manifest import list_shards, read_shards
from tests.conftest import ROOT, tiny_model, tiny_train
from tests.support.tiny_runs import sets, write_config, write_custom
from training.budget import TrialSteps, WorstCases, find_max_tokens
from utils.checkpoint import find_checkpoints, load_state, load_weights

DEVICE = os.environ.get("GPU_TESTS_DEVICE", "cuda")
HAS_GPU = torch.cuda.is_available()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == "cuda" and not HAS_GPU, reason="needs a GPU"),
]
NEEDS_GPU = pytest.mark.skipif(not HAS_GPU, reason="needs a GPU even if the others run on the CPU")
# Without what is drawn on the device, and with a batch that is one of the CPU's.
STILL = {"model.dropout": 0.0, "train.audio_token_dropout": 0.0, "train.max_sentences": 2, "train.precision": "fp32"}
FSDP = """
compute_environment: LOCAL_MACHINE
distributed_type: FSDP
num_machines: 1
num_processes: 1
fsdp_config:
  fsdp_version: 2
"""


def run(device: str, *command: str | Path) -> str:
    """A Python program on a device; returns what it logged."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    if device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    parts = [sys.executable, *map(str, command)]
    done = subprocess.run(parts, cwd=ROOT, env=environment, text=True, capture_output=True)
    assert done.returncode in (0, 1), done.stderr
    return done.stderr


def prepare(config: Path, device: str, folder: Path) -> dict[str, np.ndarray]:
    """Stage 1 on a device: the codes of each utterance."""
    run(device, "-m", "bins.preprocess", "--config", config, *sets({"preprocess.processed_dir": str(folder)}))
    shards = list_shards(folder / "custom" / "train")
    return {row.id: row.codes for row in read_shards(shards)}


def train(config: Path, device: str, name: str, num_steps: int, *flags: str, **changes: object) -> dict[str, Tensor]:
    """Stage 2 of the AR on a device up to a step: the weights."""
    own = ("--config", config, "--name", name, "--model_train_stage", "1")
    run(device, "-m", "bins.train", *own, *flags, *sets({**STILL, "train.max_steps": num_steps, **changes}))
    return newest(config, name, num_steps)


def newest(config: Path, name: str, step: int) -> dict[str, Tensor]:
    checkpoint = find_checkpoints(config.parent / "ckpts" / name / "checkpoint")[-1]
    assert load_state(checkpoint)["progress"]["step"] == step
    return load_weights(checkpoint)


def relative_distance(some: dict[str, Tensor], others: dict[str, Tensor], start: dict[str, Tensor]) -> float:
    """How far two trainings of the same start are apart, as a share of the way that they went."""
    apart = sum(float((some[name] - value).norm()) for name, value in others.items())
    return apart / sum(float((start[name] - value).norm()) for name, value in others.items())


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu")
    path = write_config(folder / "config.json", write_custom(folder / "corpus", 24), folder)
    prepare(path, "cpu", folder / "data")
    return path


@pytest.fixture(scope="module")
def first_step(config: Path) -> dict[str, Tensor]:
    """The weights after a step, from which later ones are told apart."""
    return train(config, "cpu", "first", 1)


@pytest.mark.parametrize("group_size", [1, 2])
def test_codes_of_graphs_are_those_of_the_cpu(group_size: int) -> None:
    """The noise is drawn on the CPU for both; the second batch is shorter and finds the buffers of the first."""
    torch.backends.cuda.matmul.allow_tf32 = False
    model = VALLE(tiny_model(group_size=group_size)).eval()

    def generate(place: str) -> list[list[list[int]]]:
        generator = ARGenerator(model.to(place).ar)
        codes = []
        for num_rows, limit in ((3, 40), (3, 12), (1, 30)):
            draw = torch.Generator().manual_seed(num_rows)
            text = torch.randint(3, 32, (num_rows, 6), generator=draw).to(place)
            prompt = torch.randint(0, 20, (num_rows, 8), generator=draw).to(place)
            lens = torch.full((num_rows,), 6, device=place), torch.full((num_rows,), 8, device=place)
            limits = torch.full((num_rows,), limit // 4, device=place), torch.full((num_rows,), limit, device=place)
            rows = generator.generate(
                text, lens[0], prompt, lens[1], TokenSampler(top_p=0.9), [1, 2, 3][:num_rows], *limits
            )
            codes.append([row.codes[:, 0].tolist() for row in rows])
        return codes

    assert generate(DEVICE) == generate("cpu")


def test_stage_1_makes_the_codes_of_the_cpu(config: Path, tmp_path: Path) -> None:
    expected, found = prepare(config, "cpu", tmp_path / "cpu"), prepare(config, DEVICE, tmp_path / "device")
    assert expected.keys() == found.keys()
    # A frame that is as near to one codeword as to another may have either.
    assert all((found[name] == codes).all(1).mean() > 0.95 for name, codes in expected.items())


def test_steps_are_those_of_the_cpu(config: Path, first_step: dict[str, Tensor]) -> None:
    expected = train(config, "cpu", "cpu", 6)
    assert relative_distance(train(config, DEVICE, f"on_{DEVICE}", 6), expected, first_step) < 0.02


def test_resumed_steps_are_those_of_an_uninterrupted_run(config: Path, first_step: dict[str, Tensor]) -> None:
    expected = train(config, DEVICE, f"whole_{DEVICE}", 6)
    train(config, DEVICE, f"parts_{DEVICE}", 3)
    resumed = train(config, DEVICE, f"parts_{DEVICE}", 6, "--resume", "true")
    assert relative_distance(resumed, expected, first_step) < 0.02


@NEEDS_GPU
def test_fp16_steps_as_fp32_and_its_scale_of_the_loss_is_resumed(config: Path, first_step: dict[str, Tensor]) -> None:
    """The first steps may overflow, so that the scale is lowered and they are skipped."""
    fp16 = {"train.precision": "fp16"}
    expected = train(config, DEVICE, "fp16_whole", 8, **fp16)
    train(config, DEVICE, "fp16_parts", 4, **fp16)
    resumed = train(config, DEVICE, "fp16_parts", 8, "--resume", "true", **fp16)
    assert relative_distance(resumed, expected, first_step) < 0.02
    whole, parts = (
        find_checkpoints(config.parent / "ckpts" / name / "checkpoint") for name in ("fp16_whole", "fp16_parts")
    )
    scaler = load_state(whole[-1])["scaler"]
    assert scaler == load_state(parts[-1])["scaler"] and 1 <= scaler["scale"] <= 65536
    if scaler["scale"] == 65536:
        # Without a skipped step the steps are those of fp32, but for rounding.
        assert relative_distance(expected, train(config, DEVICE, "fp16_beside", 8), first_step) < 0.2


@NEEDS_GPU
def test_auto_finds_batches_that_fit_the_memory() -> None:
    """With a limit of 1 GiB: what is found fits, and twice as much does not."""
    collator = Collator(num_quantizers=4, prefix_mode=PrefixMode.NONE, max_prompt_frames=75, for_nar=False)
    settings = tiny_train(max_sentences=4000)
    worst = WorstCases(np.full(4000, 100), np.full(4000, 400), collator, 4, settings)
    accelerator = Accelerator()
    torch.cuda.set_per_process_memory_fraction(2**30 / torch.cuda.mem_get_info()[1])
    try:
        found = find_max_tokens(worst, lambda: VALLE(tiny_model(), train_stage=1), accelerator)
        trial = TrialSteps(VALLE(tiny_model(), train_stage=1), settings, accelerator)
        assert worst.least < found < worst.most
        assert trial.fit(worst.batches(found)) and not trial.fit(worst.batches(2 * found))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@NEEDS_GPU
def test_training_with_auto_is_that_with_the_number_found(config: Path, first_step: dict[str, Tensor]) -> None:
    found = train(config, DEVICE, "auto", 4, **{"train.max_tokens": "auto"})
    number = json.loads((config.parent / "ckpts" / "auto" / "args.json").read_text())["train"]["max_tokens"]
    expected = train(config, DEVICE, "number", 4, **{"train.max_tokens": number})
    assert relative_distance(found, expected, first_step) < 0.02


@NEEDS_GPU
def test_compiled_layers_step_as_others(config: Path, first_step: dict[str, Tensor]) -> None:
    expected = train(config, DEVICE, "plain", 4)
    compiled = train(config, DEVICE, "compiled", 4, **{"train.compile": True})
    assert relative_distance(compiled, expected, first_step) < 0.02


@NEEDS_GPU
def test_fsdp_on_one_gpu_steps_as_plain_training(config: Path, first_step: dict[str, Tensor], tmp_path: Path) -> None:
    launcher = tmp_path / "fsdp.yaml"
    launcher.write_text(FSDP)
    expected = train(config, DEVICE, "one_process", 4)
    own = ("--config", config, "--name", "fsdp", "--model_train_stage", "1", *sets({**STILL, "train.max_steps": 4}))
    launch = ("-m", "accelerate.commands.launch", "--config_file", launcher)
    run(DEVICE, *launch, ROOT / "bins" / "train.py", *own)
    assert relative_distance(newest(config, "fsdp", 4), expected, first_step) < 0.02


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_stage_3_speaks(config: Path, precision: str, tmp_path: Path) -> None:
    name = f"{DEVICE}_{precision}"
    train(config, DEVICE, name, 2)
    own = ("--config", config, "--name", f"{name}_pair", "--model_train_stage", "2")
    pair = config.parent / "ckpts" / f"{name}_pair"
    run(DEVICE, "-m", "bins.train", *own, "--ar_model_ckpt_dir", pair.with_name(name), *sets({"train.max_steps": 2}))
    clip = next(config.parent.glob("corpus/wavs/*.wav"))
    test_list = tmp_path / "list.txt"
    test_list.write_text(f"Small birds.|Early apples often find.|{clip}\n" * 3)
    flags = ("--infer_mode", "batch", "--infer_expt_dir", pair, "--test_list_file", test_list)
    run(
        DEVICE,
        "-m",
        "bins.inference",
        *flags,
        "--infer_output_dir",
        tmp_path / "out",
        *sets({"infer.precision": precision}),
    )
    rows = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    assert len(rows) == 3 and all('"audio"' in row for row in rows)
