"""Learning rates as a function of the step, so that nothing has to be restored."""

import math

from config.schema import TrainSettings

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
    done = (step + 1 - warmup) / max(settings.total_training_steps - warmup, 1)
    return settings.base_lr * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
