"""One clear line for missing memory, precisions and GPUs."""

import os
import subprocess
from pathlib import Path

import pytest
import torch

import bins.evaluate
import bins.inference
import bins.preprocess
import bins.train
import bins.webui
from tests.conftest import ROOT
from utils.cli import run
from utils.device import (
    ASKED_GPUS,
    memory_advice,
    pick_device,
    pick_inference_precision,
    pick_training_precision,
    require_asked_gpus,
)
from utils.errors import UserError


def test_out_of_memory_is_one_line_that_says_what_to_lower() -> None:
    with (
        pytest.raises(UserError, match=r"^out of memory: lower train\.max_tokens$"),
        memory_advice("lower train.max_tokens"),
    ):
        torch.empty(10**15)


def test_other_errors_are_unchanged() -> None:
    with pytest.raises(RuntimeError, match="shapes"), memory_advice("lower it"):
        torch.ones(2, 3) @ torch.ones(2, 3)


def test_precisions_of_a_device() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [pick_inference_precision(asked, cpu) for asked in ("auto", "fp32", "bf16", "int8")] == [
        *("fp32", "fp32", "bf16", "int8")
    ]
    assert pick_inference_precision("fp32", gpu) == "fp32"
    with pytest.raises(UserError, match=r"infer\.precision: int8 is for CPUs"):
        pick_inference_precision("int8", gpu)


@pytest.mark.parametrize("is_fast", [True, False])
def test_training_precisions_of_a_device(is_fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.device.has_fast_bf16", lambda device: is_fast)
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert pick_training_precision("auto", gpu) == ("bf16" if is_fast else "fp16")
    assert pick_training_precision("auto", cpu) == ("bf16" if is_fast else "fp32")
    assert [pick_training_precision(asked, gpu) for asked in ("fp32", "bf16", "fp16")] == ["fp32", "bf16", "fp16"]
    assert [pick_training_precision(asked, cpu) for asked in ("fp32", "bf16")] == ["fp32", "bf16"]
    with pytest.raises(UserError, match=r"^train\.precision: fp16 is for GPUs; use bf16 or fp32 on a CPU$"):
        pick_training_precision("fp16", cpu)


def test_cudnn_attention_is_off_once_a_device_is_picked() -> None:
    torch.backends.cuda.enable_cudnn_sdp(True)
    pick_device()
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert torch.backends.cuda.flash_sdp_enabled() and torch.backends.cuda.mem_efficient_sdp_enabled()


STAGES = {
    1: (bins.preprocess, []),
    2: (bins.train, ["--name", "x", "--model_train_stage", "1"]),
    3: (bins.inference, ["--infer_mode", "batch", "--test_list_file", "none", "--infer_expt_dir", "none"]),
    4: (bins.evaluate, ["--test_list_file", "none", "--audio_dir", "none", "--eval_output_dir", "none"]),
    5: (bins.webui, ["--infer_expt_dir", "none"]),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_requested_gpu_that_cannot_be_used_is_one_line(
    stage: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In each stage, right after the flags are checked, for one more GPU than there are."""
    names = ",".join(map(str, range(torch.cuda.device_count() + 1)))
    monkeypatch.setenv(ASKED_GPUS, names)
    config = tmp_path / "config.json"
    config.write_text(
        f'{{base_config: "config/valle.json", dataset: ["custom"], dataset_path: {{custom: "{tmp_path}"}}}}'
    )
    program, flags = STAGES[stage]
    with pytest.raises(SystemExit) as ended:
        run(lambda _: program.main([*flags, *(["--config", str(config)] if stage < 3 else [])]))
    assert ended.value.code == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --gpu {names}: ") and f"{torch.cuda.device_count()} can be used" in line
    assert torch.__version__ in line and str(torch.version.cuda or "no CUDA") in line and "leave --gpu out" in line


def test_four_missing_gpus_are_reported_once() -> None:
    """No launcher starts a process for each of them."""
    names = ",".join(map(str, range(torch.cuda.device_count() + 4)))
    command = ["sh", "egs/tts/VALLE/run.sh", "--stage=2", f"--gpu={names}", *STAGES[2][1]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and f"--gpu {names}" in done.stderr


@pytest.mark.parametrize("asked", [None, "", "-1", ","])
def test_without_a_requested_gpu_the_cpu_is_used(asked: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever CUDA_VISIBLE_DEVICES a scheduler has set."""
    monkeypatch.setitem(os.environ, "CUDA_VISIBLE_DEVICES", "0,1,2,3")
    monkeypatch.delenv("VALLET_GPU", raising=False)
    if asked is not None:
        monkeypatch.setenv("VALLET_GPU", asked)
    require_asked_gpus()
    assert pick_device().type in ("cpu", "cuda")
