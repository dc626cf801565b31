"""Learning rates as a function of the step, so that nothing has to be restored."""

import math

from config.schema import TrainSettings
from utils.log import log

_EDEN_STEPS, _EDEN_EPOCHS = 5000, 4


def learning_rate(settings: TrainSettings, step: int, epoch: int) -> float:
    """The rate of optimizer step `step` (from 0) in `epoch` (from 0); its peak is `base_lr`.

    cosine: linear warm-up, then down to zero at `total_training_steps`. noam: linear warm-up, then with the inverse
    square root of the step. eden: half to full over the warm-up, then down with step and epoch, slowly at first.
    """
    warmup = max(settings.warmup_steps, 1)
    warmed = min((step + 1) / warmup, 1.0)
    if settings.scheduler == "noam":
        return settings.base_lr * min(warmed, math.sqrt(warmup / (step + 1)))
    if settings.scheduler == "eden":
        by_step = ((step / _EDEN_STEPS) ** 2 + 1) ** -0.25
        by_epoch = ((epoch / _EDEN_EPOCHS) ** 2 + 1) ** -0.25
        return settings.base_lr * by_step * by_epoch * (0.5 + 0.5 * warmed)
    if warmed < 1:
        return settings.base_lr * warmed
    assert settings.total_training_steps is not None, "fit_schedule first"
    done = (step + 1 - warmup) / max(settings.total_training_steps - warmup, 1)
    return settings.base_lr * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def fit_schedule(settings: TrainSettings, last_step: int) -> TrainSettings:
    """Where `total_training_steps` is null, a schedule of the `last_step` steps of this run: warm-up is at most 5 %."""
    if settings.total_training_steps is not None:
        return settings
    warmup = min(settings.warmup_steps, last_step // 20)
    return settings.model_copy(update={"total_training_steps": max(last_step, 1), "warmup_steps": warmup})


def log_schedule(settings: TrainSettings, schedule: TrainSettings, last_step: int, steps_per_epoch: float) -> None:
    """Say what is planned, and warn where a fixed number of the settings does not fit the run."""
    total, warmup = schedule.total_training_steps, schedule.warmup_steps
    final_rate = learning_rate(schedule, max(last_step - 1, 0), settings.max_epoch - 1)
    log.info(
        "%.1f steps an epoch, %d steps in all, %d of them warm-up; the learning rate ends at %.1f %% of its peak",
        steps_per_epoch,
        last_step,
        min(warmup, last_step),
        100 * final_rate / settings.base_lr,
    )
    if settings.total_training_steps is None or total is None:
        return
    if warmup > last_step / 5:
        log.warning("train.warmup_steps: %d is more than a fifth of the run's %d steps", warmup, last_step)
    if settings.scheduler == "cosine" and not 0.8 * total <= last_step <= 1.02 * total:
        log.warning(
            "train.total_training_steps: %d does not fit the run's %d steps: %s; null means the steps of the run",
            total,
            last_step,
            f"the last {last_step - total} steps have rate 0" if last_step > total else "the rate never comes down",
        )
