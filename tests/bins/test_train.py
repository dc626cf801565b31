"""What a training starts from, for each combination of flags."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import bins.train
from tests.support.recipe import Recipe


def train(recipe: Recipe, name: str, stage: int, *flags: str, settings: Sequence[str] = ()) -> None:
    """Train one step more than before, without validation."""
    overrides = [word for setting in ("train.valid_interval=100", *settings) for word in ("--set", setting)]
    own = ("--config", str(recipe.config), "--name", name, "--model_train_stage", str(stage))
    assert recipe.call(bins.train, *own, *flags, *overrides) == 0


def weights(checkpoint: Path, model: str) -> dict[str, torch.Tensor]:
    """The AR's or the NAR's."""
    named = load_file(checkpoint / "model.safetensors")
    return {name: value for name, value in named.items() if name.startswith(f"{model}_")}


def meta(checkpoint: Path) -> dict:
    return json.loads((checkpoint / "meta.json").read_text())


def same(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> bool:
    return some.keys() == others.keys() and all(value.equal(others[name]) for name, value in some.items())


@pytest.mark.parametrize("form", ["experiment", "checkpoints", "older", "newer"])
def test_the_ar_model_is_named_in_three_ways(trained: Recipe, form: str) -> None:
    older, newer = trained.checkpoints("ar")
    folder = {"experiment": newer.parents[1], "checkpoints": newer.parent, "older": older, "newer": newer}[form]
    name = f"nar_with_{form}"
    train(trained, name, 2, "--ar_model_ckpt_dir", str(folder), settings=["train.max_steps=1"])
    [checkpoint] = trained.checkpoints(name)
    assert same(weights(checkpoint, "ar"), weights(older if form == "older" else newer, "ar"))
    assert not same(weights(checkpoint, "ar"), weights(newer if form == "older" else older, "ar"))


def test_a_nar_resumes_with_the_ar_that_it_has(trained: Recipe) -> None:
    trained.copied("nar", "nar_resumed")
    train(trained, "nar_resumed", 2, "--resume", "true", settings=["train.max_steps=4"])
    before, after = trained.checkpoints("nar")[-1], trained.checkpoints("nar_resumed")[-1]
    assert (meta(before)["step"], meta(after)["step"]) == (3, 4)
    assert same(weights(before, "ar"), weights(after, "ar"))
    assert not same(weights(before, "nar"), weights(after, "nar"))


def test_a_nar_is_fine_tuned_with_another_ar(trained: Recipe) -> None:
    older, newer = trained.checkpoints("ar")
    flags = ("--resume_from_ckpt_path", str(trained.experiment("nar")), "--resume_type", "finetune")
    still = ["train.max_steps=1", "train.base_lr=1e-12"]
    train(trained, "nar_tuned", 2, *flags, settings=still)
    train(trained, "nar_tuned_with_other", 2, *flags, "--ar_model_ckpt_dir", str(older), settings=still)
    [kept], [replaced] = trained.checkpoints("nar_tuned"), trained.checkpoints("nar_tuned_with_other")
    assert same(weights(kept, "ar"), weights(newer, "ar"))
    assert same(weights(replaced, "ar"), weights(older, "ar"))
    source = weights(trained.checkpoints("nar")[-1], "nar")
    for checkpoint in (kept, replaced):
        assert meta(checkpoint)["step"] == 1
        for name, value in weights(checkpoint, "nar").items():
            torch.testing.assert_close(value, source[name], rtol=0, atol=1e-9)


def test_a_checkpoint_of_another_experiment_is_resumed_under_a_new_name(trained: Recipe) -> None:
    older = trained.checkpoints("ar")[0]
    train(trained, "ar_elsewhere", 1, "--resume_from_ckpt_path", str(older))
    [checkpoint] = trained.checkpoints("ar_elsewhere")
    assert meta(checkpoint)["step"] == 3
    assert same(weights(checkpoint, "ar"), weights(trained.checkpoints("ar")[-1], "ar"))
    assert older.is_dir()


def test_a_checkpoint_given_by_an_indirect_path_is_not_set_aside(trained: Recipe) -> None:
    """Later checkpoints are set temporary; it and earlier ones are not."""
    copy = trained.copied("ar", "roundabout_ar")
    older, newer = (path.name for path in trained.checkpoints("roundabout_ar"))
    path = copy / "checkpoint" / ".." / "checkpoint" / older
    train(trained, "roundabout_ar", 1, "--resume_from_ckpt_path", str(path))
    assert older in {path.name for path in trained.checkpoints("roundabout_ar")}
    assert [path.name for path in (copy / "checkpoint" / "superseded").iterdir()] == [newer]


def test_fine_tuning_under_its_own_name_sets_the_old_checkpoints_aside(trained: Recipe) -> None:
    old = [path.name for path in trained.checkpoints("ar")]
    trained.copied("ar", "ar_again")
    train(trained, "ar_again", 1, "--resume", "true", "--resume_type", "finetune", settings=["train.max_steps=1"])
    [checkpoint] = trained.checkpoints("ar_again")
    assert meta(checkpoint)["step"] == 1
    assert sorted(path.name for path in (checkpoint.parent / "superseded").iterdir()) == old


def test_both_models_train_at_once(trained: Recipe) -> None:
    train(trained, "both", 0, settings=["train.max_steps=2"])
    checkpoints = trained.checkpoints("both")
    assert [meta(checkpoint)["step"] for checkpoint in checkpoints] == [2]
    train(trained, "both", 0, "--resume", "true")
    last = trained.checkpoints("both")[-1]
    for model in ("ar", "nar"):
        assert not same(weights(checkpoints[0], model), weights(last, model))


def test_a_run_that_began_with_a_fixed_schedule_keeps_it_and_others_follow_their_length(trained: Recipe) -> None:
    """Where total_training_steps became null in the config, learning rates stay those of the run's `args.json`."""
    for name, setting in (("kept", "null"), ("explicit", "100"), ("other", "5")):
        trained.copied("ar", name)
        changes = [f"train.total_training_steps={setting}", "train.max_steps=4", "train.warmup_steps=2"]
        train(trained, name, 1, "--resume", "true", settings=changes)
    kept, explicit, other = (weights(trained.checkpoints(name)[-1], "ar") for name in ("kept", "explicit", "other"))
    assert same(kept, explicit) and not same(kept, other)
    arguments = json.loads((trained.experiment("kept") / "args.json").read_text())
    assert arguments["train"]["total_training_steps"] == 100
    # A run that begins with null is planned to its own end, where the rate is 0.
    train(trained, "fitted", 1, settings=["train.total_training_steps=null", "train.max_steps=3"])
    assert json.loads((trained.experiment("fitted") / "args.json").read_text())["train"]["total_training_steps"] is None
