"""What crosses the border between a codec language model and the code that trains it and speaks with it."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Example:
    """One utterance to train on: the ids of its text, its codes (T, Q) and, where the model asks for it, codes (T', Q)
    of another utterance of the speaker.
    """

    ids: tuple[int, ...]
    codes: np.ndarray
    other_codes: np.ndarray | None = None

    @property
    def num_tokens(self) -> int:
        """Phones and frames."""
        return len(self.ids) + len(self.codes)


@dataclass(frozen=True)
class LossSums:
    """Sums over a batch's targets: cross-entropy, and how many targets are among the ten likeliest codes.

    Losses of one `model` are averaged over all of its targets together; those of different models are added up.
    """

    model: str
    loss_sum: Tensor
    num_top10: Tensor
    num_targets: int
