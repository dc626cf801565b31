"""Guidance through the programs: the experiment of a pair says whether its AR was trained for it."""

import json
from pathlib import Path

import numpy as np
import soundfile

import bins.inference
import bins.train
from tests.support.recipe import Recipe, prompt


def train(recipe: Recipe, name: str, stage: int, *flags: str) -> None:
    own = ("--config", str(recipe.config), "--name", name, "--model_train_stage", str(stage))
    assert recipe.call(bins.train, *own, *flags, "--set", "train.max_steps=1") == 0


def speak(recipe: Recipe, experiment: Path, output: Path, *flags: str) -> int | str | None:
    audio, text = prompt(recipe.corpus, "102")
    texts = ("--infer_text", "Wait for me.", "--infer_text_prompt", text, "--infer_audio_prompt", str(audio))
    own = ("--infer_expt_dir", str(experiment), "--infer_output_dir", str(output), "--infer_mode", "single")
    return recipe.call(bins.inference, *own, *texts, *flags)


def test_a_pair_is_guided_if_its_ar_was_trained_for_it(trained: Recipe, tmp_path: Path, capsys) -> None:
    train(trained, "dropped_ar", 1, "--set", "train.condition_dropout=0.2")
    # The settings of the NAR's training do not say it, and its experiment does.
    train(trained, "dropped_nar", 2, "--ar_model_ckpt_dir", str(trained.experiment("dropped_ar")))
    train(trained, "dropped_nar", 2, "--resume", "true", "--set", "train.max_steps=2")
    for name in ("dropped_ar", "dropped_nar"):
        saved = json.loads((trained.experiment(name) / "args.json").read_text())
        assert saved["train"]["condition_dropout"] == 0.2
    audio = []
    for guidance in ("1", "3"):
        output = tmp_path / guidance
        # After one step of training, speech may not end by itself; the status is then 1.
        own = ("--set", f"infer.guidance={guidance}")
        assert speak(trained, trained.experiment("dropped_nar"), output, *own) in (0, 1)
        [path] = (output / "single").glob("*.wav")
        audio.append(soundfile.read(path)[0])
    assert not np.array_equal(*audio)

    capsys.readouterr()
    assert speak(trained, trained.experiment("nar"), tmp_path / "refused", "--set", "infer.guidance=2") == 1
    assert "error: infer.guidance: the AR was trained without train.condition_dropout" in capsys.readouterr().err
