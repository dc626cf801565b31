"""Samples the next code from logits."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenSampler:
    """Chooses the AR's next code.

    `top_k` 1 is greedy and 0 keeps all codes; `top_p` keeps the smallest set of codes with at least this mass. With a
    `repetition_window` above 0, a code that fills more than `repetition_threshold` of the window's frames is drawn
    again from all codes (repetition-aware sampling, VALL-E 2, arXiv 2406.05370, section 3). With a `guidance` above 1,
    logits are those of `guide` (classifier-free guidance, arXiv 2207.12598).
    """

    top_k: int = 0
    top_p: float = 1.0
    temperature: float = 1.0
    repetition_window: int = 0
    repetition_threshold: float = 0.1
    guidance: float = 1.0

    @property
    def num_draws(self) -> int:
        """How many samples a step draws for each row."""
        return int(self.top_k != 1) + int(self.repetition_window > 0)

    def __call__(self, logits: Tensor, history: Tensor, noise: Tensor) -> Tensor:
        """logits (B, V) to codes (B,).

        `history` (B, N) holds the codes before, at least a window of them, and -1 where there is none. `noise`
        (num_draws, B, V) is exponential.
        """
        logits = logits.float()
        chosen = logits.argmax(-1) if self.top_k == 1 else sample(self._filter(logits), noise[0])
        if self.repetition_window:
            window = history[:, -self.repetition_window :]
            # Draw for all rows and choose afterwards: a branch on the values would force a GPU sync.
            share = (window == chosen.unsqueeze(1)).sum(1) / self.repetition_window
            again = share > self.repetition_threshold
            chosen = torch.where(again, sample(logits / self.temperature, noise[-1]), chosen)
        return chosen

    def guide(self, logits: Tensor) -> Tensor:
        """Guided logits (B, ...) from those of B rows with their texts, then of the same rows without: (2B, ...)."""
        with_text, without_text = logits.chunk(2)
        return without_text + self.guidance * (with_text - without_text)

    def _filter(self, logits: Tensor) -> Tensor:
        """Divide by the temperature, and set codes that top-k or top-p excludes to minus infinity."""
        logits = logits / self.temperature
        if self.top_k:
            smallest_kept = logits.topk(min(self.top_k, logits.shape[-1])).values[:, -1:]
            logits = logits.masked_fill(logits < smallest_kept, -math.inf)
        if self.top_p < 1:
            ordered, order = logits.sort(descending=True)
            probabilities = ordered.softmax(-1)
            # A code stays while the codes before it have less mass than top_p, so the likeliest one always stays.
            out = probabilities.cumsum(-1) - probabilities >= self.top_p
            logits = logits.masked_fill(out.scatter(1, order, out), -math.inf)
        return logits


def sample(logits: Tensor, noise: Tensor) -> Tensor:
    """One sample of softmax(logits) for each row (B,), from logits (B, V) and exponential noise (B, V).

    An exponential race: noise / p is exponential with rate p, so a code has the smallest one with probability p.
    """
    return (logits.softmax(-1) / noise).argmax(-1)


class ExponentialNoise:
    """The noise of a generation's samples, made for many steps at a time to avoid host-to-device copies.

    Each row has its own generator and seed, so that its result does not depend on its neighbours.
    """

    _STEPS = 32

    def __init__(self, num_draws: int, num_codes: int, seeds: Sequence[int], device: torch.device) -> None:
        self._shape = (self._STEPS, num_draws, num_codes)
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._device = device

    def __iter__(self) -> Iterator[Tensor]:
        """Noise (num_draws, B, V) for one step after another."""
        while True:
            rows = [torch.empty(self._shape).exponential_(generator=generator) for generator in self._generators]
            yield from torch.stack(rows, dim=2).to(self._device)
