"""Linear layers for inference: fp32 for few rows on a CPU, and bf16 or int8 weights."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# From this many rows on a product is bound by arithmetic, and methods for few rows are slower than a plain product.
_MANY_ROWS = 16


class SplitLinear(nn.Module):
    """An fp32 linear layer for few rows on a CPU, which shares the weights of another.

    Torch multiplies a matrix by a vector on one thread, but a batch of products, one for each piece of the matrix, on
    all threads.
    """

    _NUM_PIECES = 16

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.can_split = linear.out_features % self._NUM_PIECES == 0

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        if not self.can_split or len(rows) >= _MANY_ROWS:
            return F.linear(x, self.weight, self.bias)
        pieces = self.weight.unflatten(0, (self._NUM_PIECES, -1))
        if len(rows) == 1:
            y = torch.bmm(pieces, rows.T.expand(self._NUM_PIECES, -1, -1)).view(1, -1)
        else:
            y = torch.matmul(rows, pieces.transpose(1, 2)).transpose(0, 1).flatten(1)
        y = y if self.bias is None else y + self.bias
        return y.unflatten(0, x.shape[:-1])


class Bf16Linear(nn.Module):
    """A linear layer with bf16 weights: (..., in) of any float type to (..., out) in bf16."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight: Tensor
        self.bias: Tensor | None
        self.register_buffer("weight", linear.weight.detach().bfloat16())
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().bfloat16())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.bfloat16(), self.weight, self.bias)


class Int8Linear(nn.Module):
    """A linear layer with int8 weights and a bf16 scale for each output: (..., in) to (..., out) in bf16. CPU only."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        # The largest weight of an output becomes 127. The clamp avoids 0 / 0 for an output of zeros alone.
        scale = (weight.abs().amax(dim=1, keepdim=True) / 127).clamp(min=torch.finfo(torch.bfloat16).tiny).bfloat16()
        self.weight: Tensor
        self.scale: Tensor
        self.bias: Tensor | None
        self.register_buffer("weight", (weight / scale.float()).round().clamp(-127, 127).to(torch.int8))
        self.register_buffer("scale", scale[:, 0])
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().bfloat16())

    def forward(self, x: Tensor) -> Tensor:
        rows = x.bfloat16().flatten(0, -2)
        if len(rows) < _MANY_ROWS:
            y = torch._weight_int8pack_mm(rows, self.weight, self.scale)
            y = y if self.bias is None else y.add_(self.bias)
        else:
            y = F.linear(rows, self.weight.bfloat16() * self.scale.unsqueeze(1), self.bias)
        return y.unflatten(0, x.shape[:-1])


def replace_linears(module: nn.Module, kind: type[SplitLinear] | type[Bf16Linear] | type[Int8Linear]) -> None:
    """Replace every linear layer inside a module by `kind`; everything else stays in fp32, as under autocast."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, kind(child))
        else:
            replace_linears(child, kind)
