"""Layer norms: plain, and conditioned on the NAR's stage."""

from torch import Tensor, nn


class LayerNorm(nn.LayerNorm):
    """Plain layer norm. It ignores the condition, so that a transformer layer calls either kind alike."""

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        return super().forward(x)


class AdaptiveLayerNorm(nn.Module):
    """Layer norm whose scale and shift come from the stage embedding e (VALL-E, section 4.2.2).

    `(s, b) = split(W e + c)` and the output is `s * LN(x) + b`: there is no `1 +`, and LN keeps its own affine.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project_layer = nn.Linear(width, 2 * width)
        self.norm = nn.LayerNorm(width)
        # Start as a plain norm: from random scales training is unstable.
        nn.init.zeros_(self.project_layer.weight)
        nn.init.ones_(self.project_layer.bias[:width])
        nn.init.zeros_(self.project_layer.bias[width:])

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x (B, L, D), condition (1, D) or (B, 1, D)."""
        scale, shift = self.project_layer(condition).chunk(2, dim=-1)
        return scale * self.norm(x) + shift
