"""Averaged weights: what they are, what a checkpoint holds of them, and that training does not depend on them."""

import pytest
import torch

from models.valle.valle import VALLE
from processors.manifest import list_shards, write_shard
from tests.conftest import made_up_utterances, tiny_model, tiny_train
from tests.support.tiny_trainer import COLLATOR, build_data, build_trainer, epoch_of
from training.trainer import Trainer
from utils.checkpoint import find_checkpoints, load_state, load_weights


@pytest.fixture
def make_trainer(tmp_path):
    write_shard(tmp_path / "shards", 0, made_up_utterances(24), frame_rate_hz=25)
    shards = list_shards(tmp_path / "shards")

    def make(stage: int = 1, name: str = "run", model: dict | None = None, **changes) -> Trainer:
        torch.manual_seed(0)
        fixed = {"save_checkpoint_steps": None, "valid_interval": 1000, "base_lr": 1e-2, "warmup_steps": 2}
        settings = tiny_train(**{**fixed, "max_steps": 4, "max_epoch": 3, "total_training_steps": 20, **changes})
        return build_trainer(
            VALLE(tiny_model(**model or {}), train_stage=stage), build_data(shards, settings, COLLATOR), tmp_path / name
        )

    return make


def trained(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.unwrapped_model.named_weights().items()}


def averaged(trainer: Trainer) -> dict[str, torch.Tensor]:
    assert trainer.averages is not None
    return {name: value.clone() for name, value in trainer.averages.named(trainer.unwrapped_model).items()}


def assert_same(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> None:
    assert some.keys() == others.keys()
    assert [name for name, value in some.items() if not value.equal(others[name])] == []


# Batch norms have buffers, and stage 2 a frozen AR and tied weights.
@pytest.mark.parametrize(("stage", "model"), [(0, {}), (1, {"add_prenet": True}), (2, {})])
def test_an_average_is_that_of_the_weights_after_each_step(make_trainer, stage: int, model: dict) -> None:
    trainer = make_trainer(stage, model=model, ema_decay=0.75)
    expected: dict[str, torch.Tensor] = {}
    for batch in epoch_of(trainer.data)[:4]:
        trainer.step([batch], 1e-2, trainer.new_metrics())
        now = trained(trainer)
        for name, value in now.items():
            is_averaged = name in expected and value.is_floating_point() and "running" not in name
            expected[name] = 0.75 * expected[name] + 0.25 * value if is_averaged else value
    found = averaged(trainer)
    torch.testing.assert_close(found, expected)
    assert any(not value.equal(now[name]) for name, value in found.items())
    if stage == 2:
        assert all(value.equal(now[name]) for name, value in found.items() if name.startswith("ar_"))


@pytest.mark.parametrize(("stage", "model"), [(0, {}), (1, {"add_prenet": True}), (2, {})])
def test_resumed_equals_uninterrupted(make_trainer, stage: int, model: dict) -> None:
    model = {"dropout": 0.1, **model}
    whole = make_trainer(stage, "whole", model, max_steps=7, ema_decay=0.8)
    whole.train()
    first = make_trainer(stage, "parts", model, max_steps=3, ema_decay=0.8)
    first.train()
    [saved] = find_checkpoints(first.folder / "checkpoint")
    second = make_trainer(stage, "parts", model, max_steps=7, ema_decay=0.8)
    second.resume(saved)
    assert_same(trained(second), trained(first))
    assert_same(averaged(second), averaged(first))
    second.train()
    assert_same(trained(second), trained(whole))
    assert_same(averaged(second), averaged(whole))


def test_a_checkpoint_exports_the_averages_and_validation_scores_them(make_trainer) -> None:
    trainer = make_trainer(ema_decay=0.9)
    trainer.train()
    [saved] = find_checkpoints(trainer.folder / "checkpoint")
    exported = load_weights(saved)
    assert_same(exported, averaged(trainer))
    before, scores = trained(trainer), trainer.validate()
    assert_same(trained(trainer), before)
    plain = make_trainer(name="plain")
    plain.unwrapped_model.load_named_weights(before)
    assert plain.validate() != scores
    plain.unwrapped_model.load_named_weights(exported)
    assert plain.validate() == scores


def test_training_is_the_same_with_and_without_averages(make_trainer) -> None:
    with_averages, without = make_trainer(name="with", ema_decay=0.9), make_trainer(name="without")
    with_averages.train()
    without.train()
    assert without.averages is None
    assert_same(trained(with_averages), trained(without))
    [saved] = find_checkpoints(without.folder / "checkpoint")
    assert_same(load_weights(saved), trained(without))
    assert "averaged" not in load_state(saved)


def test_averages_can_begin_and_end_when_training_resumes(make_trainer) -> None:
    whole, first = make_trainer(name="whole", max_steps=6), make_trainer(name="parts", max_steps=2)
    whole.train()
    first.train()
    for steps, decay in ((4, 0.5), (6, 0)):
        resumed = make_trainer(name="parts", max_steps=steps, ema_decay=decay)
        resumed.resume(find_checkpoints(first.folder / "checkpoint")[-1])
        assert resumed.train() == 0
        if decay:
            assert resumed.averages is not None and resumed.averages.num_updates == 2
    assert_same(trained(resumed), trained(whole))
    assert_same(load_weights(find_checkpoints(first.folder / "checkpoint")[-1]), trained(whole))
