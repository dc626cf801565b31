"""Conversion of a trained pair: its weights, its speech, and fine-tuning from it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

import bins.convert
import bins.inference
import bins.train
from tests.support.recipe import Recipe, listing, prompt


def speak(recipe: Recipe, experiment: Path, output: Path, *flags: str) -> np.ndarray:
    audio, text = prompt(recipe.corpus, "102")
    texts = ("--infer_text", "Wait for me.", "--infer_text_prompt", text, "--infer_audio_prompt", str(audio))
    own = ("--infer_expt_dir", str(experiment), "--infer_output_dir", str(output), "--infer_mode", "single")
    # After three steps of training, speech may not end by itself; the status is then 1.
    assert recipe.call(bins.inference, *own, *texts, *flags) in (0, 1)
    [path] = (output / "single").glob("*.wav")
    return soundfile.read(path)[0]


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_converted_pair_speaks_as_the_trained_one(trained: Recipe, tmp_path: Path, dtype: str) -> None:
    before = listing(trained.experiment("nar"))
    flags = ("--input", str(trained.experiment("nar")), "--output", str(tmp_path / "pair"), "--dtype", dtype)
    assert trained.call(bins.convert, *flags) == 0
    assert listing(trained.experiment("nar")) == before
    [checkpoint] = (tmp_path / "pair" / "checkpoint").iterdir()
    assert sorted(path.name for path in checkpoint.iterdir()) == ["meta.json", "model.safetensors"]

    source = trained.checkpoints("nar")[-1]
    weights = load_file(source / "model.safetensors")
    found = load_file(checkpoint / "model.safetensors")
    expected = torch.float32 if dtype == "fp32" else torch.bfloat16
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weight.to(expected)) for name, weight in weights.items())

    # The trained pair with weights of the same precision.
    rounded = tmp_path / "rounded"
    shutil.copytree(trained.experiment("nar"), rounded)
    inner = rounded / "checkpoint" / source.name / "model.safetensors"
    shutil.copyfile(checkpoint / "model.safetensors", inner)
    again = speak(trained, tmp_path / "pair", tmp_path / "a")
    assert np.abs(again).max() > 0
    np.testing.assert_array_equal(again, speak(trained, rounded, tmp_path / "b"))


def test_training_goes_on_from_a_converted_pair_by_fine_tuning_alone(trained: Recipe, tmp_path: Path, capsys) -> None:
    pair = tmp_path / "pair"
    assert trained.call(bins.convert, "--input", str(trained.experiment("nar")), "--output", str(pair)) == 0
    own = ("--config", str(trained.config), "--name", "from_pair", "--model_train_stage", "0")
    source = ("--resume_from_ckpt_path", str(pair))
    assert trained.call(bins.train, *own, *source) == 1
    assert "holds weights alone; continue from it with finetune" in capsys.readouterr().err
    assert trained.call(bins.train, *own, *source, "--resume_type", "finetune", "--set", "train.max_steps=1") == 0


def test_an_experiment_is_not_overwritten(trained: Recipe, tmp_path: Path, capsys) -> None:
    (tmp_path / "README.md").write_text("A model card.")
    flags = ("--input", str(trained.experiment("nar")), "--output", str(tmp_path))
    assert trained.call(bins.convert, *flags) == 0
    before = listing(tmp_path)
    assert trained.call(bins.convert, *flags) == 1
    assert f"--output: {tmp_path} holds args.json of an experiment; choose another folder" in capsys.readouterr().err
    assert listing(tmp_path) == before
    # Nor are other files of the same names.
    other = tmp_path / "other"
    other.mkdir()
    (other / "symbols.dict").write_text("kept")
    assert trained.call(bins.convert, *flags[:-1], str(other)) == 1
    assert f"--output: {other} holds symbols.dict" in capsys.readouterr().err
    assert [path.name for path in other.iterdir()] == ["symbols.dict"]
    assert (other / "symbols.dict").read_text() == "kept"
    assert trained.call(bins.convert, *flags[:-1], str(other / "symbols.dict")) == 1
    assert "is not a folder; choose another" in capsys.readouterr().err


def test_an_ar_alone_cannot_be_converted(trained: Recipe, tmp_path: Path, capsys) -> None:
    flags = ("--input", str(trained.experiment("ar")), "--output", str(tmp_path / "pair"))
    assert trained.call(bins.convert, *flags) == 1
    assert "holds no NAR" in capsys.readouterr().err
    assert not (tmp_path / "pair").exists()
