"""AR decoding: the text and the prompt once, then one position a step from cached keys and values."""

from collections.abc import Callable

import torch
from torch import Tensor

from models.contract import Generation
from models.valle.ar import AR
from modules.kv_cache import CacheView
from modules.sampling import ExponentialNoise, TokenSampler

# On a GPU, checking whether every row has ended forces a sync: it is done once in so many steps.
_GPU_STEPS_BETWEEN_CHECKS = 16
# Slots are allocated in multiples of this, so that generations of different lengths share buffers and CUDA graphs.
_SLOT_ROUNDING = 256


class ARGenerator:
    """Generates codebook 0. Keeps the buffers of the last batch, and on a GPU the CUDA graph of its step."""

    def __init__(self, ar: AR) -> None:
        self.ar = ar
        self._steps: CachedStep | None = None

    @torch.inference_mode()
    def generate(
        self,
        text: Tensor,
        text_lens: Tensor,
        prompt: Tensor,
        prompt_lens: Tensor,
        sampler: TokenSampler,
        seed: int,
        min_frames: Tensor,
        max_frames: Tensor,
        on_frames: Callable[[int], None] | None = None,
    ) -> list[Generation]:
        """Continue each row's prompt (B, P) until the end of speech wins or is drawn, or `max_frames` (B,).

        A row's codes do not depend on its neighbours. The end of speech cannot come before `min_frames` (B,), at
        least 1. `on_frames` hears how many frames there are after each step.
        """
        device, batch, eos_id = text.device, text.shape[0], self.ar.eos_id
        limit, window = int(max_frames.max()), sampler.repetition_window
        steps, logits = self._begin(text, text_lens, prompt, prompt_lens, limit)
        noise = iter(ExponentialNoise(sampler.num_draws, batch, logits.shape[1], seed, device))
        history = torch.full((batch, window + limit), -1, device=device)
        lens = torch.zeros(batch, dtype=torch.long, device=device)
        is_done = torch.zeros(batch, dtype=torch.bool, device=device)
        hit_cap = torch.zeros_like(is_done)
        check_interval = _GPU_STEPS_BETWEEN_CHECKS if device.type == "cuda" else 1
        for step in range(limit):
            # The end cannot win before the floor.
            logits[:, eos_id].masked_fill_(min_frames > step, -torch.inf)
            codes = sampler(logits, history[:, : window + step], next(noise))
            # A row ends where the end is sampled, or is the likeliest whatever was sampled.
            is_done = is_done | (codes == eos_id) | (logits.argmax(-1) == eos_id)
            lens = lens + ~is_done
            history[:, window + step] = torch.where(is_done, -1, codes)
            at_cap = ~is_done & (lens >= max_frames)
            is_done, hit_cap = is_done | at_cap, hit_cap | at_cap
            if step + 1 == limit or ((step + 1) % check_interval == 0 and bool(is_done.all())):
                break
            if on_frames is not None:
                on_frames(step + 1)
            logits = steps(codes.masked_fill(is_done, 0))
        new, at_floor = history[:, window:].cpu(), lens == min_frames
        ends = zip(lens.tolist(), hit_cap.tolist(), at_floor.tolist(), strict=True)
        return [
            Generation(new[row, :length], "cap" if is_cap else "floor" if is_floor else "eos")
            for row, (length, is_cap, is_floor) in enumerate(ends)
        ]

    def _begin(
        self, text: Tensor, text_lens: Tensor, prompt: Tensor, prompt_lens: Tensor, limit: int
    ) -> tuple["CachedStep", Tensor]:
        """Read texts and prompts; returns what makes the steps, and the logits (B, V+1) of the first new frame."""
        x, may_attend, packing = self.ar.sequence(text, text_lens, prompt, prompt_lens)
        num_slots = packing.length + limit
        self.ar.audio_position.reserve(prompt.shape[1] + 1 + limit)
        if self._steps is None or not self._steps.fits(x, num_slots):
            # The buffers of the last batch go before new ones come.
            self._steps = None
            rounded = -(-num_slots // _SLOT_ROUNDING) * _SLOT_ROUNDING
            self._steps = CachedStep(self.ar, x.shape[0], rounded, x.device)
        self._steps.reset(packing.lens, packing.audio_lens, packing.length)
        hidden = self.ar.decoder(x, may_attend, cache=self._steps.prefill(packing.length))
        return self._steps, self.ar.predict_layer(packing.last_positions(hidden)).float()


class CachedStep:
    """One batch's buffers, and the step on them; on a GPU the step is a graph, captured once and then replayed.

    All rows write the same slot of the cache: their own texts and prompts, of different lengths, lie before it, and
    `bias` hides what is not theirs.
    """

    def __init__(self, ar: AR, batch: int, num_slots: int, device: torch.device) -> None:
        self.ar = ar
        self.cache = ar.decoder.new_cache(batch, num_slots, device)
        self.codes = torch.zeros(batch, dtype=torch.long, device=device)
        self.position = torch.zeros(batch, dtype=torch.long, device=device)
        self.slot = torch.zeros(1, dtype=torch.long, device=device)
        self.bias = torch.empty(batch, 1, 1, num_slots, dtype=self.cache.keys.dtype, device=device)
        self.table = ar.audio_position.table
        self.end = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.logits = torch.empty(0)

    def fits(self, x: Tensor, num_slots: int) -> bool:
        """Whether these buffers fit the batch, and the captured graph still refers to the current position table."""
        is_fit = self.codes.shape[0] == x.shape[0] and self.bias.shape[-1] >= num_slots
        return is_fit and self.table is self.ar.audio_position.table and self.codes.device == x.device

    def reset(self, lens: Tensor, positions: Tensor, num_prefix: int) -> None:
        """Reset for prefixes of `lens` (B,) slots, at most num_prefix; the next frames get `positions` (B,)."""
        index = torch.arange(self.bias.shape[-1], device=lens.device)
        self.bias.zero_().masked_fill_((index >= lens.unsqueeze(1))[:, None, None], -torch.inf)
        self.slot.fill_(num_prefix)
        self.position.copy_(positions)
        self.end = num_prefix

    def prefill(self, num_prefix: int) -> CacheView:
        """The place of the prefixes in the cache."""
        return self.cache.view(torch.arange(num_prefix, device=self.slot.device), num_prefix)

    def __call__(self, codes: Tensor) -> Tensor:
        """Feed one code a row (B,); returns the logits after it (B, V+1)."""
        self.codes.copy_(codes)
        self.end += 1
        if codes.device.type != "cuda":
            return self._step(self.end)
        if self.graph is None:
            self._capture()
        assert self.graph is not None
        self.graph.replay()
        return self.logits

    def _step(self, end: int) -> Tensor:
        self.bias.index_fill_(3, self.slot, 0.0)
        x = self.ar.embed_audio(self.codes.unsqueeze(1), self.position)
        hidden = self.ar.decoder(x, self.bias[..., :end], cache=self.cache.view(self.slot, end))
        self.position += 1
        self.slot += 1
        return self.ar.predict_layer(hidden[:, 0]).float()

    def _capture(self) -> None:
        """A graph's shapes are fixed: it always reads every slot, and `bias` hides those that are not yet filled."""
        num_slots = self.bias.shape[-1]
        where = self.position.clone(), self.slot.clone()

        def back() -> None:
            self.position.copy_(where[0])
            self.slot.copy_(where[1])

        # Libraries make their workspaces in a first run, which a capture does not allow.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                self._step(num_slots)
                back()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.logits = self._step(num_slots)
        back()
