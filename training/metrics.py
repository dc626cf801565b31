"""Metrics of training, summed on the device, so that no step synchronizes with a GPU."""

import math
from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor

from models.contract import LossSums

# So many steps in a row that are not finite end a training. In fp16 so many halvings take the loss's initial scale,
# 65536, below 1, so that the scale cannot be the reason.
MAX_NON_FINITE_STEPS = 20


class MetricSums:
    """Sums of losses by name, kept on the device: nothing is read back until `means` is called.

    `models` gives the model of each name. Losses that are not finite are left out of a mean, which is nan where there
    is no other.
    """

    def __init__(self, models: Mapping[str, str], device: torch.device) -> None:
        self.models = dict(models)
        self._rows = {name: row for row, name in enumerate(self.models)}
        self._sums = torch.zeros(len(self.models), 4, dtype=torch.double, device=device)

    def add(self, losses: Mapping[str, LossSums]) -> None:
        for name, sums in losses.items():
            loss_sum = sums.loss_sum.detach().double()
            is_finite = loss_sum.isfinite()
            row = self._sums[self._rows[name]]
            row[0] += loss_sum.nan_to_num(0.0, 0.0, 0.0)
            row[1] += sums.num_top10 * is_finite
            row[2] += sums.num_targets * is_finite
            row[3] += sums.num_targets

    def means(self, accelerator: Accelerator) -> dict[str, float]:
        """`<name>/loss` and `<name>/top10` over all ranks; `loss` is the sum of the models' means. A collective.

        Without any losses `loss` alone, and nan.
        """
        means: dict[str, float] = {}
        totals: dict[str, list[float]] = {}
        rows = accelerator.reduce(self._sums, "sum").tolist()
        for name, (loss_sum, num_top10, count, num_all) in zip(self.models, rows, strict=True):
            if num_all:
                means[f"{name}/loss"], means[f"{name}/top10"] = _ratio(loss_sum, count), _ratio(num_top10, count)
                total = totals.setdefault(self.models[name], [0.0, 0.0])
                total[0], total[1] = total[0] + loss_sum, total[1] + count
        means["loss"] = sum(_ratio(loss_sum, count) for loss_sum, count in totals.values()) if totals else math.nan
        return means


def _ratio(total: float, count: float) -> float:
    return total / count if count else math.nan


class NonFiniteSteps:
    """Counts the steps whose gradient was not finite, on the device."""

    def __init__(self, device: torch.device) -> None:
        self._counts = torch.zeros(2, dtype=torch.long, device=device)

    def record(self, gradient_norm: Tensor) -> Tensor:
        """1.0 for a step that the optimizer must skip, else 0.0, as a tensor."""
        is_skipped = ~gradient_norm.isfinite()
        self._counts[0] += is_skipped
        self._counts[1] = (self._counts[1] + 1) * is_skipped
        return is_skipped.float()

    @property
    def total(self) -> int:
        return int(self._counts[0])

    @property
    def num_in_a_row(self) -> int:
        """How many steps up to the last one were skipped."""
        return int(self._counts[1])

    @property
    def too_many(self) -> bool:
        return self.num_in_a_row >= MAX_NON_FINITE_STEPS
