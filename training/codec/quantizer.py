"""Residual codebooks that follow the latents they code, by exponential moving averages (arXiv 1711.00937, A.1)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from processors.codecs.speech_net import nearest

DECAY = 0.99
# Entries that are used less than this often in a batch, on average, start again at latents of the batch.
DEAD_BELOW = 0.2
_START_ITERATIONS = 10


class ResidualQuantizer(nn.Module):
    """Quantizes latents in training, and updates `codebooks` (Q, K, W) in place."""

    counts: Tensor
    sums: Tensor
    is_started: Tensor

    def __init__(self, codebooks: Tensor) -> None:
        super().__init__()
        self.codebooks = codebooks  # Of the codec, which saves it.
        self.register_buffer("counts", torch.ones(codebooks.shape[:2]))
        self.register_buffer("sums", torch.zeros_like(codebooks))
        self.register_buffer("is_started", torch.zeros((), dtype=torch.bool))

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantize latents (N, W) of real frames.

        Returns the entries' sums up to each codebook (Q, N, W), without gradients, the commitment loss, and how many
        entries of each codebook are in use (Q,), as perplexities.
        """
        residual, total = latents, torch.zeros_like(latents)
        partial_sums, distances, perplexities = [], [], []
        for book in range(len(self.codebooks)):
            codebook = self.codebooks[book]
            codes = nearest(residual.detach(), codebook)
            entries = codebook[codes]
            distances.append((residual - entries).square().mean())
            if self.training:
                perplexities.append(self._update(book, codes, residual.detach()))
            residual, total = residual - entries, total + entries
            partial_sums.append(total)
        used = torch.stack(perplexities) if perplexities else latents.new_zeros(0)
        return torch.stack(partial_sums), torch.stack(distances).mean(), used

    @torch.no_grad()
    def start(self, latents: Tensor) -> None:
        """Set the codebooks to cluster centres of latents (N, W), which encoder and decoder agree on by now."""
        residual = latents
        for book in range(len(self.codebooks)):
            entries = residual[torch.randint(len(residual), self.codebooks.shape[1:2])]
            for _ in range(_START_ITERATIONS):
                codes = nearest(residual, entries)
                counts = torch.bincount(codes, minlength=len(entries)).unsqueeze(1)
                sums = torch.zeros_like(entries).index_add_(0, codes, residual)
                entries = torch.where(counts > 0, sums / counts.clamp(min=1), entries)
            self.codebooks[book].copy_(entries)
            self.sums[book].copy_(entries)
            self.counts[book].fill_(1.0)
            residual = residual - entries[nearest(residual, entries)]
        self.is_started.fill_(True)

    @torch.no_grad()
    def _update(self, book: int, codes: Tensor, residual: Tensor) -> Tensor:
        """Move the entries to the mean of what they code; returns the perplexity of the codes."""
        num_entries = self.codebooks.shape[1]
        counts = torch.bincount(codes, minlength=num_entries).to(residual.dtype)
        self.counts[book].lerp_(counts, 1 - DECAY)
        self.sums[book].lerp_(torch.zeros_like(self.sums[book]).index_add_(0, codes, residual), 1 - DECAY)
        is_dead = self.counts[book] < DEAD_BELOW
        num_dead = int(is_dead.sum())
        if num_dead:
            drawn = residual[torch.randint(len(residual), (num_dead,))]
            self.sums[book][is_dead] = drawn
            self.counts[book][is_dead] = 1.0
        self.codebooks[book].copy_(self.sums[book] / self.counts[book].unsqueeze(1))
        share = F.normalize(counts, p=1, dim=0)
        return torch.special.entr(share).sum().exp()
