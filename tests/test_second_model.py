"""A model that no product file names goes through the real programs: `model_type` is all that they know of it."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import json5
import numpy as np
import pytest
import soundfile
import torch

from config.schema import MODEL_SETTINGS
from models import MODELS, model_class
from models.contract import TokenizedRequest
from models.valle.valle import VALLE
from modules.sampling import TokenSampler
from tests.conftest import ROOT
from tests.support.delay_lm import DelayLM, DelaySettings, delayed
from tests.support.tiny_runs import write_config, write_custom
from utils.checkpoint import find_checkpoints, load_weights

MODEL_TYPE = ("--set", "model_type=tests.support.delay_lm:DelayLM")


# An untrained model may be cut off at the maximum length, which counts as a failure; the audio is written all the same.
SPOKEN = (0, 1)


def run(program: str, *flags: str | Path, statuses: Sequence[int] = (0,)) -> str:
    """A program of `bins` as a child process; returns what it logged."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", f"bins.{program}", *map(str, flags)]
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True)
    assert done.returncode in statuses, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("delay")
    path = write_config(folder / "exp_config.json", write_custom(folder / "corpus", 12), folder)
    content = json5.loads(path.read_text())
    content["base_config"] = "config/tts.json"
    content["model"] = {
        "width": 16,
        "num_heads": 2,
        "num_layers": 1,
        "num_quantizers": 8,
        "text_token_num": 64,
        "audio_token_num": 1024,
    }
    content["train"] |= {"tracker": ["tensorboard"], "valid_interval": 2}
    content["infer"] |= {"max_seconds_per_phone": 0.1, "top_k": 5}
    path.write_text(json.dumps(content))
    run("preprocess", "--config", path, *MODEL_TYPE)
    return path


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_weights(find_checkpoints(folder / "checkpoint")[-1])


def test_it_trains_resumes_speaks_and_is_evaluated(config: Path, tmp_path: Path) -> None:
    train = ("train", "--config", config, *MODEL_TYPE, "--model_train_stage", "1")
    log = run(*train, "--name", "whole", "--set", "train.max_steps=6")
    assert "DelayLM" in log and "validation loss" in log and "no sample" not in log
    run(*train, "--name", "resumed", "--set", "train.max_steps=3")
    run(*train, "--name", "resumed", "--set", "train.max_steps=6", "--resume", "true")
    folder = config.parent / "ckpts"
    whole, resumed = weights(folder / "whole"), weights(folder / "resumed")
    assert whole.keys() == resumed.keys() and all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert "has 1, not 2" in run(*train[:-1], "2", "--name", "other", statuses=[1])

    clip = next(config.parent.glob("corpus/wavs/*.wav"))
    test_list = tmp_path / "list.txt"
    test_list.write_text(f"Small birds.|Early apples often find.|{clip}|{clip}\n")
    speak = ("--infer_expt_dir", folder / "whole", "--test_list_file", test_list)
    run("inference", "--infer_mode", "batch", *speak, "--infer_output_dir", tmp_path / "out", statuses=SPOKEN)
    [row] = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    audio, _ = soundfile.read(tmp_path / "out" / row["audio"])
    assert np.abs(audio).max() > 0
    run("evaluate", *speak, "--eval_output_dir", tmp_path / "evaluation", "--asr", "none", statuses=SPOKEN)
    metrics = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert "mcd_db" in json.dumps(metrics)


def test_no_product_file_names_it() -> None:
    products = [path for path in ROOT.glob("*/**/*.py") if path.relative_to(ROOT).parts[0] not in ("tests", ".venv")]
    texts = [path.read_text(encoding="utf-8") for path in products]
    assert texts and not any("delay_lm" in text or "DelayLM" in text for text in texts)


def test_delayed_codes_are_the_codes_in_a_slant() -> None:
    codes = torch.arange(6).reshape(3, 2)
    assert delayed(codes, 9).tolist() == [[0, 9], [2, 1], [4, 3], [9, 5], [9, 9]]


def test_a_request_has_the_same_codes_alone_and_among_others() -> None:
    torch.manual_seed(0)
    model = DelayLM(
        DelaySettings(width=16, num_heads=2, num_layers=1, num_quantizers=3, text_token_num=16, audio_token_num=20)
    ).eval()
    requests = [
        TokenizedRequest([1, 4, 5, 2], 2, torch.randint(0, 20, (5, 3)), 1),
        TokenizedRequest([1, 7, 2], 2, torch.randint(0, 20, (8, 3)), 1),
    ]
    least, most = torch.tensor([2, 3]), torch.tensor([6, 7])
    together = model.generate(requests, TokenSampler(), [0, 5], least, most)
    for row, request in enumerate(requests):
        [alone] = model.generate([request], TokenSampler(), [5 * row], least[row : row + 1], most[row : row + 1])
        assert torch.equal(alone.codes, together[row].codes) and alone.stop_reason == together[row].stop_reason
        assert least[row] <= len(alone.codes) <= most[row] and alone.codes.max() < 20


def test_the_registry_knows_its_models_and_names_what_is_none() -> None:
    assert MODELS.keys() == MODEL_SETTINGS.keys() and model_class("VALLE") is VALLE
    assert all(model_class(name).settings_class is section for name, section in MODEL_SETTINGS.items())
    for wrong in ("FastSpeech2", "no.module:Model", "json:loads", "models.contract:Batch"):
        with pytest.raises(ValueError, match=wrong.replace(".", r"\.")):
            model_class(wrong)
