"""The loop: schedules, accumulation, clipping, what padding weighs, and that validation repeats itself."""

import math
import multiprocessing
import os
import signal
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

from models.contract import Example, LossSums
from models.valle.collate import Collator, PrefixMode
from models.valle.valle import VALLE
from processors.manifest import list_shards, write_shard
from tests.conftest import made_up_utterances, tiny_model, tiny_train
from tests.support.tiny_trainer import COLLATOR, TABLE, build_data, build_trainer, epoch_of
from training.metrics import MetricSums
from training.schedule import fit_schedule, learning_rate, log_schedule
from training.trainer import Trainer
from utils.checkpoint import find_checkpoints, load_meta, load_weights
from utils.errors import UserError
from utils.signals import Signals, exit_status
from utils.workers import WorkerDiedError


@pytest.fixture
def make_trainer(tmp_path):
    utterances = made_up_utterances(24)
    write_shard(tmp_path / "shards", 0, utterances, frame_rate_hz=25)
    shards = list_shards(tmp_path / "shards")

    def make(stage: int = 1, name: str = "run", group_size: int = 1, **changes) -> Trainer:
        torch.manual_seed(0)
        changes = {"max_steps": 4, "save_checkpoint_steps": None, "valid_interval": 1000} | changes
        data = build_data(shards, tiny_train(**changes), replace(COLLATOR, group_size=group_size))
        model = VALLE(tiny_model(group_size=group_size), train_stage=stage)
        return build_trainer(model, data, tmp_path / name)

    return make


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.unwrapped_model.named_weights().items()}


def distance(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> float:
    return max(float((value - others[name]).abs().max()) for name, value in some.items())


def test_schedules_have_their_shapes() -> None:
    def rates(name: str, steps, epoch: int = 0) -> list[float]:
        settings = tiny_train(scheduler=name, base_lr=1.0, warmup_steps=100, total_training_steps=1000)
        return [learning_rate(settings, step, epoch) for step in steps]

    for name in ("cosine", "noam"):
        assert rates(name, [0, 49, 99]) == pytest.approx([0.01, 0.5, 1.0])
    assert rates("cosine", [549, 999, 5000]) == pytest.approx([0.5, 0.0, 0.0], abs=1e-3)
    assert rates("noam", [399]) == pytest.approx([0.5])
    assert rates("eden", [0])[0] == pytest.approx(0.505)
    assert rates("eden", [5000])[0] == pytest.approx(2**-0.25)
    assert rates("eden", [5000], epoch=4)[0] == pytest.approx(2**-0.5)


def test_a_schedule_fits_the_run_unless_it_is_fixed() -> None:
    fitted = fit_schedule(tiny_train(total_training_steps=None, warmup_steps=16_000), 2000)
    assert (fitted.total_training_steps, fitted.warmup_steps) == (2000, 100)
    rates = [learning_rate(fitted, step, 0) / fitted.base_lr for step in (0, 99, 1049, 1999)]
    assert rates == pytest.approx([0.01, 1.0, 0.5, 0.0], abs=1e-3)
    assert fit_schedule(tiny_train(total_training_steps=None, warmup_steps=7), 2000).warmup_steps == 7
    fixed = tiny_train(total_training_steps=800_000, warmup_steps=16_000)
    assert fit_schedule(fixed, 2000) is fixed


@pytest.mark.parametrize(
    ("changes", "last_step", "warnings"),
    [
        ({"total_training_steps": None, "warmup_steps": 16_000}, 2000, []),
        ({"total_training_steps": 2000, "warmup_steps": 100}, 2000, []),
        ({"total_training_steps": 1000, "warmup_steps": 100}, 2000, ["the last 1000 steps have rate 0"]),
        ({"total_training_steps": 800_000, "warmup_steps": 100}, 2000, ["the rate never comes down"]),
        ({"total_training_steps": 2000, "warmup_steps": 1600}, 2000, ["more than a fifth of the run's 2000 steps"]),
        ({"scheduler": "noam", "total_training_steps": 9, "warmup_steps": 100}, 2000, []),
    ],
)
def test_the_start_says_what_is_planned_and_warns_where_it_does_not_fit(changes, last_step, warnings, caplog) -> None:
    settings = tiny_train(**changes)
    with caplog.at_level("INFO", "vallet"):
        log_schedule(settings, fit_schedule(settings, last_step), last_step, steps_per_epoch=12.5)
    [plan, *others] = [record.getMessage() for record in caplog.records]
    assert plan.startswith(f"12.5 steps an epoch, {last_step} steps in all, ") and "learning rate ends at" in plan
    assert len(others) == len(warnings) and all(text in other for text, other in zip(warnings, others, strict=True))


@pytest.mark.parametrize("stage", [1, 2])
def test_accumulated_batches_step_like_one_batch(make_trainer, stage: int) -> None:
    """Each target weighs the same, in whichever batch it comes."""
    examples = [Example(tuple(TABLE.encode(u.phones, False)), u.codes) for u in made_up_utterances(6)]
    collator = Collator(num_quantizers=4, prefix_mode=PrefixMode.NONE, max_prompt_frames=75, for_nar=True)
    results = []
    for groups in ([examples], [examples[:1], examples[1:3], examples[3:]]):
        trainer = make_trainer(stage)
        # Adam's first step has the gradient's sign alone, and would make rounding look large.
        trainer.optimizer = torch.optim.SGD(trainer.parameters, lr=1.0, fused=True)
        batches = [collator(group, None) for group in groups]
        trainer.step(batches, 1.0, trainer.new_metrics())
        results.append(weights(trainer))
    assert distance(results[0], results[1]) < 1e-5
    assert distance(results[0], weights(make_trainer(stage))) > 1e-2


def test_gradients_are_clipped_before_the_step(make_trainer) -> None:
    """With plain gradient descent the step's length is the clipped norm times the rate."""
    trainer = make_trainer(gradient_clip_norm=0.01)
    trainer.optimizer = torch.optim.SGD(trainer.parameters, lr=1.0, fused=True)
    before = [parameter.detach().clone() for parameter in trainer.parameters]
    batch = epoch_of(trainer.data)[0]
    norm = trainer.step([batch], 0.5, trainer.new_metrics())
    moved = [(p.detach() - old).square().sum() for p, old in zip(trainer.parameters, before, strict=True)]
    assert norm > 0.1
    assert math.sqrt(sum(moved)) == pytest.approx(0.005, rel=1e-2)


def test_padding_weighs_nothing(make_trainer) -> None:
    model = VALLE(tiny_model(), train_stage=0).eval()
    examples = [Example(tuple(TABLE.encode(u.phones, False)), u.codes) for u in made_up_utterances(5)]
    collator = Collator(num_quantizers=4, prefix_mode=PrefixMode.NONE, max_prompt_frames=75, for_nar=True)
    together = model(collator(examples, None))
    alone = [model(collator([example], None)) for example in examples]
    for name, score in together.items():
        assert score.num_targets == sum(one[name].num_targets for one in alone)
        assert score.loss_sum.item() == pytest.approx(sum(one[name].loss_sum.item() for one in alone), rel=1e-4)
        assert int(score.num_top10) == sum(int(one[name].num_top10) for one in alone)


def test_top10_counts_targets_among_the_ten_likeliest() -> None:
    from models.valle.valle import loss_sums

    logits = torch.arange(20.0).expand(1, 3, 20)
    found = loss_sums("ar", logits, torch.tensor([[19, 10, 9]]), 3)
    assert int(found.num_top10) == 2
    tally = MetricSums({"ar": "ar"}, torch.device("cpu"))
    tally.add({"ar": found})
    means = tally.means(Accelerator(cpu=True))
    assert means["ar/top10"] == pytest.approx(2 / 3)
    assert means["loss"] == pytest.approx(float(found.loss_sum) / 3, rel=1e-6)


def test_validation_draws_nothing_and_repeats(make_trainer) -> None:
    trainer = make_trainer(0)
    state = torch.get_rng_state()
    first = trainer.validate()
    assert torch.equal(state, torch.get_rng_state())
    assert first == trainer.validate()
    assert {"ar/loss", "ar/top10", "nar_1/top10", "nar_2/top10", "nar_3/top10"} <= set(first)


@pytest.mark.parametrize(("stage", "group_size"), [(0, 1), (1, 1), (2, 1), (0, 4), (1, 2)])
def test_resumed_equals_uninterrupted(make_trainer, stage: int, group_size: int) -> None:
    """Mid-epoch, with joined examples, masked inputs and accumulation."""
    changes = {
        "max_epoch": 3,
        "join_probability": 0.5,
        "audio_token_dropout": 0.3,
        "condition_dropout": 0.3,
        "gradient_accumulation_step": 2,
        "base_lr": 1e-2,
        "warmup_steps": 2,
        "total_training_steps": 20,
        "group_size": group_size,
    }
    whole = make_trainer(stage, "whole", max_steps=9, **changes)
    whole.train()
    first = make_trainer(stage, "parts", max_steps=4, **changes)
    first.train()
    [saved] = find_checkpoints(first.folder / "checkpoint")
    second = make_trainer(stage, "parts", max_steps=9, **changes)
    second.resume(saved)
    assert second.progress == first.progress and second.progress.step == 4
    second.train()
    assert second.progress == whole.progress
    assert distance(weights(second), weights(whole)) == 0
    if stage == 2:
        untouched = {n: v for n, v in weights(whole).items() if n.startswith("ar_")}
        assert distance(untouched, weights(make_trainer(stage))) == 0


def test_with_other_data_the_epoch_begins_anew(make_trainer) -> None:
    make_trainer(max_steps=4).train()
    [saved] = find_checkpoints(make_trainer().folder / "checkpoint")
    same, other = make_trainer(), make_trainer(max_tokens=150)
    same.resume(saved)
    other.resume(saved)
    assert (same.progress.batch, other.progress.batch) == (4, 0) and same.progress.step == other.progress.step == 4

    # Older versions counted blocks of shards.
    state = torch.load(saved.path / "training_state.pt")
    for place, batch in (({"block": 0, "groups_done": 3}, 0), ({"block": 0, "groups_done": 0}, 0)):
        state["progress"] = {"step": 4, "epoch": 1, "place": place, "loss": 1.0}
        torch.save(state, saved.path / "training_state.pt")
        old = make_trainer(max_steps=6)
        old.resume(saved)
        assert (old.progress.step, old.progress.epoch, old.progress.batch) == (4, 1, batch)
        assert old.train() == 0 and old.progress.step == 6
    del state["data"]
    torch.save(state, saved.path / "training_state.pt")
    with pytest.raises(UserError, match=r"of an older version.*finetune"):
        make_trainer().resume(saved)


def test_steps_cross_the_ends_of_epochs_and_too_few_batches_stay_unused(make_trainer, caplog) -> None:
    trainer = make_trainer(max_steps=None, max_epoch=3, gradient_accumulation_step=4, log_interval=1)
    num_batches = sum(trainer.data.sequence.num_batches(epoch) for epoch in range(3))
    taken = []
    step = trainer.step

    def noted(batches, *others):
        taken.extend(batches)
        return step(batches, *others)

    trainer.step = noted
    with caplog.at_level("INFO", "vallet"):
        assert trainer.train() == 0
    assert trainer.progress.step == num_batches // 4 and len(taken) == num_batches // 4 * 4
    in_epochs = [epoch_of(make_trainer(max_epoch=3).data, epoch) for epoch in range(3)]
    expected = [batch for batches in in_epochs for batch in batches][: len(taken)]
    assert all(torch.equal(some.codes, other.codes) for some, other in zip(taken, expected, strict=True))
    said = f"the last {num_batches % 4} batches are too few for a step"
    assert num_batches % 4 and any(said in record.getMessage() for record in caplog.records)
    # They are used where training goes on for more epochs.
    [*_, saved] = find_checkpoints(trainer.folder / "checkpoint")
    more = make_trainer(max_steps=None, max_epoch=4, gradient_accumulation_step=4)
    more.resume(saved)
    assert more.data.sequence.num_left(more.progress.position) == num_batches % 4 + more.data.sequence.num_batches(3)


def test_a_deferred_checkpoint_of_an_epoch_s_end_counts_as_one(make_trainer) -> None:
    trainer = make_trainer(max_steps=None, max_epoch=2)
    num_batches = trainer.data.sequence.num_batches(0)
    poison(trainer, num_batches, num_batches)
    assert trainer.train() == 0
    first, last = find_checkpoints(trainer.folder / "checkpoint")
    assert (first.step, first.epoch) == (num_batches + 1, 1) and load_meta(first)["ends_epoch"] is True
    assert last.epoch == 2 and load_meta(last)["ends_epoch"] is True


def test_an_epoch_ends_with_a_checkpoint_and_rotation_keeps_the_newest(make_trainer) -> None:
    trainer = make_trainer(max_steps=None, max_epoch=4, keep_last=[2], save_checkpoint_steps=1, keep_last_steps=1)
    trainer.train()
    names = [path.path.name for path in find_checkpoints(trainer.folder / "checkpoint")]
    assert [name[:10] for name in names if name.startswith(("epoch-0003", "epoch-0004"))][-1] == "epoch-0004"
    assert 3 <= len(names) <= 4
    assert not list((trainer.folder / "checkpoint").glob(".*"))


def poison(trainer: Trainer, first: int, last: int) -> None:
    """Make the gradients of these backward passes, counted from 1, infinite."""
    passes = 0

    def hook(gradient: torch.Tensor) -> torch.Tensor:
        nonlocal passes
        passes += 1
        return gradient * math.inf if first <= passes <= last else gradient

    trainer.unwrapped_model.ar.predict_layer.weight.register_hook(hook)


def test_a_step_that_is_not_finite_is_skipped_and_counted(make_trainer) -> None:
    trainer = make_trainer(max_steps=None, max_epoch=100)
    poison(trainer, 2, 3)
    [first, *rest] = epoch_of(trainer.data)[:4]
    tally = trainer.new_metrics()
    trainer.step([first], 1e-3, tally)
    before, moments = weights(trainer), [state["exp_avg"].clone() for state in trainer.optimizer.state.values()]
    for batch in rest[:2]:
        trainer.step([batch], 1e-3, tally)
        assert distance(weights(trainer), before) == 0
    assert trainer.skipped.total == 2 and not trainer.skipped.too_many
    for state, moment in zip(trainer.optimizer.state.values(), moments, strict=True):
        assert torch.equal(state["exp_avg"], moment) and int(state["step"]) == 1
    trainer.step([rest[2]], 1e-3, tally)
    assert distance(weights(trainer), before) > 0 and trainer.skipped.total == 2


def test_a_loss_that_is_not_finite_does_not_count_in_the_mean(make_trainer) -> None:
    good, bad = (LossSums("ar", torch.tensor(loss), torch.tensor(3), 10) for loss in (20.0, math.nan))
    tally = MetricSums({"ar": "ar"}, torch.device("cpu"))
    for score in (good, bad, good):
        tally.add({"ar": score})
    assert tally.means(Accelerator(cpu=True)) == {"ar/loss": 2.0, "ar/top10": 0.3, "loss": 2.0}


@pytest.mark.parametrize("interval", [None, 1, 2])
def test_twenty_bad_steps_in_a_row_end_the_training_and_none_of_them_is_saved(make_trainer, interval) -> None:
    changes = {"save_checkpoint_steps": interval, "keep_last_steps": 3}
    trainer = make_trainer(max_steps=200, max_epoch=1000, save_checkpoint_stride=[1], **changes)
    poison(trainer, 8, 1000)
    with pytest.raises(UserError, match=r"20 steps in a row.*base_lr, and continue from .*--resume true") as caught:
        trainer.train()
    assert trainer.progress.step == 27
    saved = find_checkpoints(trainer.folder / "checkpoint")
    assert saved and all(found.step <= 7 for found in saved) and str(saved[-1].path) in str(caught.value)
    assert all(value.isfinite().all() for value in load_weights(saved[-1]).values())
    resumed = make_trainer(max_steps=saved[-1].step + 1, max_epoch=1000)
    resumed.resume(saved[-1])
    assert resumed.train() == 0 and math.isfinite(resumed.progress.loss)


class Fp16OnCpu(Accelerator):
    """Accelerate's own fp16 is for GPUs: the same scaler, autocast and unscaling on the CPU."""

    def __init__(self, init_scale: float) -> None:
        super().__init__(cpu=True)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=init_scale, growth_interval=3)

    @property
    def mixed_precision(self) -> str:
        return "fp16"

    def autocast(self, autocast_handler: object = None) -> torch.autocast:
        return torch.autocast("cpu", dtype=torch.float16)


@pytest.fixture
def make_fp16_trainer(make_trainer):
    def make(name: str = "fp16", init_scale: float = 256.0, **changes) -> Trainer:
        plain = make_trainer(name=name, **changes)
        trainer = build_trainer(plain.unwrapped_model, plain.data, plain.folder, Fp16OnCpu(init_scale))
        # Not before, as accelerate would wrap the model in a second autocast.
        trainer.accelerator.native_amp = True
        return trainer

    return make


def test_a_step_in_fp16_is_near_that_in_fp32_whatever_the_scale(make_trainer, make_fp16_trainer) -> None:
    """Gradients are divided by the scale before they are clipped, so neither their norm nor the step has it."""
    moved, norms = [], []
    for trainer in (make_trainer(), make_fp16_trainer(init_scale=16.0), make_fp16_trainer(init_scale=256.0)):
        before = weights(trainer)
        norms.append(float(trainer.step([epoch_of(trainer.data)[0]], 1e-2, trainer.new_metrics())))
        assert trainer.skipped.total == 0
        moved.append({name: value - before[name] for name, value in weights(trainer).items()})
    assert norms[1:] == pytest.approx([norms[0]] * 2, rel=1e-2)
    exact = torch.cat([value.flatten() for value in moved[0].values()])
    for found in moved[1:]:
        near = torch.cat([value.flatten() for value in found.values()])
        assert torch.cosine_similarity(exact, near, dim=0) > 0.9 and not torch.equal(exact, near)


def test_an_overflow_in_fp16_halves_the_scale_and_is_a_skipped_step(make_fp16_trainer) -> None:
    """The moments, and with them Adam's corrections of their start, do not count the step."""
    trainer = make_fp16_trainer(init_scale=2.0**60, max_steps=None, max_epoch=100)
    before, metrics = weights(trainer), trainer.new_metrics()
    batch = epoch_of(trainer.data)[0]
    trainer.step([batch], 1e-3, metrics)
    assert trainer.skipped.total == 1 and trainer.accelerator.scaler.get_scale() == 2.0**59
    assert distance(weights(trainer), before) == 0
    trainer.accelerator.scaler.update(256.0)
    for _ in range(3):
        trainer.step([batch], 1e-3, metrics)
    assert trainer.skipped.total == 1 and distance(weights(trainer), before) > 0
    assert {int(state["step"]) for state in trainer.optimizer.state.values()} == {3}
    # It grows again after as many good steps as the scaler asks for.
    assert trainer.accelerator.scaler.get_scale() == 512.0


def test_a_training_in_fp16_goes_through_overflows_and_its_schedule_counts_them(make_fp16_trainer) -> None:
    trainer = make_fp16_trainer(init_scale=2.0**24, max_steps=30, max_epoch=1000)
    assert trainer.train() == 0
    assert 0 < trainer.skipped.total < 20 and trainer.progress.step == 30
    assert trainer.accelerator.scaler.get_scale() < 2.0**24 and math.isfinite(trainer.progress.loss)


def test_resumed_in_fp16_equals_uninterrupted_even_between_overflows(make_fp16_trainer) -> None:
    """The scale and the steps since it last changed are part of a checkpoint."""
    changes = {"max_epoch": 100, "base_lr": 1e-2, "warmup_steps": 2, "total_training_steps": 30, "init_scale": 2.0**24}
    whole = make_fp16_trainer("whole", max_steps=24, **changes)
    whole.train()
    first = make_fp16_trainer("parts", max_steps=20, **changes)
    first.train()
    saved = find_checkpoints(first.folder / "checkpoint")[-1]
    assert saved.step == 20
    second = make_fp16_trainer("parts", max_steps=24, **changes)
    second.resume(saved)
    second.train()
    assert second.accelerator.scaler.state_dict() == whole.accelerator.scaler.state_dict()
    assert second.accelerator.scaler.get_scale() != 2.0**24
    assert distance(weights(second), weights(whole)) == 0


def test_a_loss_that_stays_non_finite_ends_a_training_in_fp16(make_fp16_trainer) -> None:
    trainer = make_fp16_trainer(max_steps=200, max_epoch=1000)
    poison(trainer, 8, 1000)
    with pytest.raises(UserError, match=r"20 steps in a row had a loss or gradient that is not finite; lower"):
        trainer.train()
    assert trainer.progress.step == 27


def test_a_save_that_falls_on_a_bad_step_is_made_after_the_next_good_one(make_trainer) -> None:
    trainer = make_trainer(max_steps=5, max_epoch=1000, save_checkpoint_steps=2, keep_last_steps=9)
    poison(trainer, 2, 2)
    assert trainer.train() == 0
    assert [found.step for found in find_checkpoints(trainer.folder / "checkpoint")] == [3, 4, 5]


@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.parametrize("interval", [None, 1])
def test_a_rate_that_ruins_the_weights_leaves_no_checkpoint_of_them(make_trainer, stage: int, interval) -> None:
    """The weights may be finite, and far too large."""
    shown: list[str] = []
    trainer = make_trainer(stage, max_steps=60, max_epoch=1000, base_lr=1e8, log_interval=1, warmup_steps=50)
    trainer.settings = trainer.settings.model_copy(update={"save_checkpoint_steps": interval})
    trainer.accelerator.log = lambda values, step: shown.append(f"{values['train/loss']:.3f}")
    with pytest.raises(UserError, match=r"^training diverged: .*train\.base_lr, and start again: no"):
        trainer.train()
    assert "0.000" not in shown and (interval or "nan" in shown)
    assert find_checkpoints(trainer.folder / "checkpoint") == []


def test_a_mean_without_a_finite_loss_is_nan() -> None:
    tally = MetricSums({"ar": "ar", "nar_1": "nar"}, torch.device("cpu"))
    assert math.isnan(tally.means(Accelerator(cpu=True))["loss"])
    tally.add({"ar": LossSums("ar", torch.tensor(20.0), torch.tensor(3), 10)})
    tally.add({"nar_1": LossSums("nar", torch.tensor(math.inf), torch.tensor(3), 10)})
    means = tally.means(Accelerator(cpu=True))
    assert means["ar/loss"] == 2.0 and math.isnan(means["loss"]) and math.isnan(means["nar_1/loss"])


def send(trainer: Trainer, number: signal.Signals, step: int) -> None:
    """Send this process a signal in the middle of a step, counted from 1."""

    def hook(gradient: torch.Tensor) -> None:
        if trainer.progress.step == step - 1:
            os.kill(os.getpid(), number)

    trainer.unwrapped_model.ar.predict_layer.weight.register_hook(hook)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_stop_lets_the_step_end_and_saves(make_trainer, number: signal.Signals, status: int) -> None:
    whole = make_trainer(name="whole", max_steps=5)
    assert whole.train() == 0
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    first = make_trainer(name="parts", max_steps=5)
    send(first, number, step=2)
    assert first.train() == status and first.progress.step == 2
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    [saved] = find_checkpoints(first.folder / "checkpoint")
    second = make_trainer(name="parts", max_steps=5)
    second.resume(saved)
    assert second.train() == 0
    assert distance(weights(second), weights(whole)) == 0


@pytest.mark.parametrize("step", [0, 1, 2, 5])
@pytest.mark.parametrize("is_stopped", [True, False])
def test_workers_that_die_end_the_training_between_steps(make_trainer, is_stopped: bool, step: int) -> None:
    """As where a scheduler sends SIGTERM to every process of a job."""
    trainer = make_trainer(max_steps=50, max_epoch=100, dataloader={"num_worker": 1}, batch_size=1, max_sentences=1)

    def hook(gradient: torch.Tensor) -> None:
        if trainer.progress.step == step:
            for helper in multiprocessing.active_children():
                helper.kill()
            if is_stopped:
                os.kill(os.getpid(), signal.SIGTERM)

    trainer.unwrapped_model.ar.predict_layer.weight.register_hook(hook)
    if is_stopped:
        assert trainer.train() == 143
        [saved] = find_checkpoints(trainer.folder / "checkpoint")
        assert saved.step == trainer.progress.step == step + 1
    else:
        with pytest.raises(WorkerDiedError, match=r"^a DataLoader worker died.*train\.dataloader\.num_worker"):
            trainer.train()


def test_a_signal_to_save_saves_and_goes_on(make_trainer) -> None:
    trainer = make_trainer(max_steps=4)
    send(trainer, signal.SIGUSR1, step=2)
    assert trainer.train() == 0 and trainer.progress.step == 4
    assert [found.step for found in find_checkpoints(trainer.folder / "checkpoint")] == [2, 4]


def test_a_second_interrupt_is_one(make_trainer) -> None:
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert exit_status(signals.stop_signal) == 130
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
