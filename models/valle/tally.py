"""What training counts on the device, so that no step waits for one."""

import math
from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

from models.valle.valle import Score

# So many steps in a row that are not finite end a training.
MAX_SKIPPED = 20


class Tally:
    """Sums of scores, kept on the device: nothing is read back until `means` is called.

    Scores whose loss is not finite are left out of a mean, which is nan where there is no other.
    """

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        self.names = list(names)
        self.sums = torch.zeros(len(self.names), 4, dtype=torch.double, device=device)

    def add(self, scores: dict[str, Score]) -> None:
        for name, score in scores.items():
            loss_sum = score.loss_sum.detach().double()
            is_finite = loss_sum.isfinite()
            row = self.sums[self.names.index(name)]
            row[0] += loss_sum.nan_to_num(0.0, 0.0, 0.0)
            row[1] += score.num_top10 * is_finite
            row[2] += score.num_targets * is_finite
            row[3] += score.num_targets

    def means(self, accelerator: Accelerator) -> dict[str, float]:
        """`<name>/loss` and `<name>/top10` over all ranks; `loss` is the sum of the AR's mean and the NAR's.

        `loss` alone, and nan, without any score.
        """
        means: dict[str, float] = {}
        totals: dict[str, list[float]] = {}
        for name, (loss_sum, num_top10, count, num_all) in zip(
            self.names, accelerator.reduce(self.sums, "sum").tolist(), strict=True
        ):
            if num_all:
                means[f"{name}/loss"], means[f"{name}/top10"] = _ratio(loss_sum, count), _ratio(num_top10, count)
                total = totals.setdefault(model_of(name), [0.0, 0.0])
                total[0], total[1] = total[0] + loss_sum, total[1] + count
        means["loss"] = sum(_ratio(loss_sum, count) for loss_sum, count in totals.values()) if totals else math.nan
        return means


def _ratio(total: float, count: float) -> float:
    return total / count if count else math.nan


class Skipped:
    """Counts the steps whose gradient was not finite, on the device."""

    def __init__(self, device: torch.device) -> None:
        self._counts = torch.zeros(2, dtype=torch.long, device=device)

    def note(self, gradient_norm: Tensor) -> Tensor:
        """1 for a step that is to be skipped, else 0, as a float."""
        is_skipped = ~gradient_norm.isfinite()
        self._counts[0] += is_skipped
        self._counts[1] = (self._counts[1] + 1) * is_skipped
        return is_skipped.float()

    @property
    def total(self) -> int:
        """Of this run."""
        return int(self._counts[0])

    @property
    def num_in_a_row(self) -> int:
        """How many steps up to the last were skipped."""
        return int(self._counts[1])

    @property
    def too_many(self) -> bool:
        """Whether the last `MAX_SKIPPED` steps were all skipped."""
        return self.num_in_a_row >= MAX_SKIPPED


def model_of(name: str) -> str:
    """The model, ar or nar, that a score's name belongs to."""
    return name.split("_")[0]
