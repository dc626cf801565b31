"""Exponential moving averages of the weights that train."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from models.contract import CodecLM


class AveragedWeights:
    """An average of each parameter, on its device and sharded as it is: `decay * average + (1 - decay) * parameter`.

    The first update takes the parameters themselves. `parameters` are those of the optimizer.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self._parameters = list(parameters)
        # Parameters alone: copies of the frozen ones and of the buffers would only take memory.
        self._of_model = nn.ParameterList(self._parameters)
        self._averaged = AveragedModel(self._of_model, multi_avg_fn=get_ema_multi_avg_fn(decay)).requires_grad_(False)

    @property
    def num_updates(self) -> int:
        return int(self._averaged.n_averaged)

    def update(self) -> None:
        """Take in the parameters after a step. Each rank averages its own, which are those of all ranks."""
        self._averaged.update_parameters(self._of_model)

    def named(self, model: CodecLM) -> dict[str, Tensor]:
        """The model's weights by checkpoint name, with the averages in place of the parameters."""
        pairs = zip(self._parameters, self._averaged.parameters(), strict=True)
        return model.named_weights({id(own): average.detach() for own, average in pairs})

    @torch.no_grad()
    def load(self, model: CodecLM, weights: dict[str, Tensor], num_updates: int) -> None:
        """Restore the averages from a checkpoint's weights, sharded as the model's. Of tied ones one is enough."""
        for name, value in self.named(model).items():
            if name in weights:
                value.copy_(weights[name])
        self._averaged.n_averaged.fill_(num_updates)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside the block, the parameters hold the averages. Not for sharded parameters."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        # The storage changes hands, so that nothing is copied, and a CUDA graph of the block stays valid.
        for own, average in zip(self._parameters, self._averaged.parameters(), strict=True):
            own.data, average.data = average.data, own.data
