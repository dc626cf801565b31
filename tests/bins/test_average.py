"""The average of checkpoints: its weights, its speech, and what cannot be averaged."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import bins.average
import bins.inference
import bins.train
from synthesis.average import mean_weights
from tests.support.recipe import Recipe, listing, prompt
from utils.checkpoint import find_checkpoints


def average(recipe: Recipe, output: Path, num: int, *flags: str) -> int | str | None:
    return recipe.call(bins.average, *flags, "--num_checkpoints", str(num), "--output_dir", str(output))


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint / "model.safetensors")


def test_the_average_of_a_trained_pair_is_that_of_its_weights_and_speaks(trained: Recipe, tmp_path: Path) -> None:
    experiment, output = trained.experiment("nar"), tmp_path / "averaged"
    before = listing(experiment)
    assert average(trained, output, 2, "--infer_expt_dir", str(experiment)) == 0
    assert listing(experiment) == before
    [older, newer] = trained.checkpoints("nar")
    [written] = (output / "checkpoint").iterdir()
    first, second, found = weights(older), weights(newer), weights(written)
    assert found.keys() == second.keys()
    torch.testing.assert_close(found, {name: (value + second[name]) / 2 for name, value in first.items()})
    assert any(not value.equal(second[name]) for name, value in found.items())
    meta = json.loads((written / "meta.json").read_text())
    assert written.name == newer.name and meta["average_of"] == [older.name, newer.name]
    assert not (written / "training_state.pt").exists()

    audio, text = prompt(trained.corpus, "102")
    own = ("--infer_expt_dir", str(output), "--infer_mode", "single", "--infer_audio_prompt", str(audio))
    # After three steps of training, speech may not end by itself; the status is then 1.
    status = trained.call(bins.inference, *own, "--infer_text", "Wait for me.", "--infer_text_prompt", text)
    assert status in (0, 1) and list((output / "result" / "single").glob("*.wav"))


def test_averaging_begins_at_the_named_checkpoint_and_one_stays_as_it_is(trained: Recipe, tmp_path: Path) -> None:
    [older, newer] = trained.checkpoints("ar")
    for checkpoint in (older, newer):
        assert average(trained, tmp_path / checkpoint.name, 1, "--checkpoint", str(checkpoint)) == 0
        [written] = (tmp_path / checkpoint.name / "checkpoint").iterdir()
        expected, found = weights(checkpoint), weights(written)
        assert all(value.equal(found[name]) for name, value in expected.items())
    # The average of an AR is the AR of a new NAR.
    own = ("--config", str(trained.config), "--name", "of_average", "--model_train_stage", "2")
    flags = ("--ar_model_ckpt_dir", str(tmp_path / newer.name), "--set", "train.max_steps=1")
    assert trained.call(bins.train, *own, *flags) == 0


def test_the_average_of_equal_checkpoints_is_the_checkpoint(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "of_floats": torch.randn(300, 200, generator=generator),
        "of_halves": torch.randn(300, generator=generator).bfloat16(),
        "count": torch.tensor(7),
    }
    for step in range(1, 4):
        folder = tmp_path / f"epoch-0000_step-{step:07d}_loss-1.000000"
        folder.mkdir()
        save_file(tensors, folder / "model.safetensors")
        (folder / "meta.json").write_text(json.dumps({"train_stage": 1, "codec": None, "ends_epoch": False}))
    found = mean_weights(find_checkpoints(tmp_path))
    assert found.keys() == tensors.keys()
    assert all(value.equal(found[name]) and value.dtype == found[name].dtype for name, value in tensors.items())


def test_what_cannot_be_averaged_is_one_line(trained: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    experiment, output = str(trained.experiment("ar")), tmp_path / "averaged"
    older, newer = trained.checkpoints("ar")
    for flags, num, expected in (
        (("--infer_expt_dir", experiment), 3, f"holds 2 checkpoints up to {newer.name}, not 3; take fewer, or keep"),
        (("--checkpoint", str(older)), 2, f"holds 1 checkpoints up to {older.name}, not 2"),
        (("--infer_expt_dir", experiment, "--checkpoint", str(older)), 1, "give one of the two"),
        ((), 1, "give one of the two"),
        (("--infer_expt_dir", experiment), 0, "--num_checkpoints: at least 1, not 0"),
    ):
        assert average(trained, output, num, *flags) in (1, 2)
        assert expected in capsys.readouterr().err
        assert not output.exists()
    output.mkdir()
    (output / "args.json").write_text("{}")
    assert average(trained, output, 2, "--infer_expt_dir", experiment) == 1
    assert f"--output_dir: {output} holds args.json of an experiment" in capsys.readouterr().err
    # A checkpoint of another model among them.
    copied = Path(shutil.copytree(trained.experiment("ar"), tmp_path / "copied"))
    path = copied / "checkpoint" / older.name / "model.safetensors"
    others = load_file(path)
    save_file({**others, "ar_text_position.alpha": torch.ones(2)}, path)
    assert average(trained, tmp_path / "mixed", 2, "--infer_expt_dir", str(copied)) == 1
    assert f"its weights are not those of {newer.name}" in capsys.readouterr().err
    assert not (tmp_path / "mixed").exists()
