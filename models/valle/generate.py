"""Generation of codebook 0: one pass over texts and prompts, then a group of frames a step from cached attention."""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.contract import Generation, OnFrames
from models.valle.ar import AR
from modules.packing import Packing
from modules.sampling import ExponentialNoise, TokenSampler

# Checking whether every row has ended forces a GPU sync, so a GPU checks only every so many steps.
_GPU_STEPS_BETWEEN_CHECKS = 16
# Slots are allocated in multiples of this, so that generations of different lengths share buffers and CUDA graphs.
_SLOT_ROUNDING = 256


class ARGenerator:
    """Samples codebook 0 (VALL-E, section 4.3). Keeps a batch's buffers and CUDA graph for the next batch.

    `on_frames` of a batch may generate another batch, which has buffers of its own.
    """

    def __init__(self, ar: AR) -> None:
        self.ar = ar
        # Buffers that no batch uses now: at most one for each level of nesting.
        self._free: list[CachedStep] = []

    @torch.inference_mode()
    def generate(
        self,
        text: Tensor,
        text_lens: Tensor,
        prompt: Tensor,
        prompt_lens: Tensor,
        sampler: TokenSampler,
        seeds: Sequence[int],
        min_frames: Tensor,
        max_frames: Tensor,
        on_frames: OnFrames | None = None,
    ) -> list[Generation]:
        """Continue the prompts (B, P) after texts (B, S), each row up to its end of speech or `max_frames` (B,).

        Codes are (T, 1). A row's codes do not depend on its neighbours. Prompts consist of full groups. The end of
        speech cannot come before `min_frames` (B,), at least 1; it and the limits may fall anywhere in a group.
        `on_frames` is called after each step but the last; only reading the codes so far forces a GPU sync.

        With `sampler.guidance` each row is decoded twice in one batch, with its text and without, from the same codes.
        """
        batch, limit = text.shape[0], int(max_frames.max())
        if sampler.guidance != 1:
            is_second_half = torch.arange(2 * batch, device=text.device) >= batch
            text, text_lens = self.ar.drop_text(text.repeat(2, 1), text_lens.repeat(2), is_second_half)
            prompt, prompt_lens = prompt.repeat(2, 1), prompt_lens.repeat(2)
        cached_step, group_logits = self._prefill(text, text_lens, prompt, prompt_lens, limit)
        try:
            return self._sample(cached_step, group_logits, sampler, seeds, min_frames, max_frames, on_frames)
        finally:
            self._free.append(cached_step)

    def _sample(
        self,
        cached_step: "CachedStep",
        group_logits: Tensor,
        sampler: TokenSampler,
        seeds: Sequence[int],
        min_frames: Tensor,
        max_frames: Tensor,
        on_frames: OnFrames | None,
    ) -> list[Generation]:
        """Sample frame by frame, from the logits (B, G, V+1) of the first group on, or with guidance (2B, G, V+1)."""
        device, batch, eos_id, group_size = group_logits.device, len(min_frames), self.ar.eos_id, self.ar.group_size
        limit, window = int(max_frames.max()), sampler.repetition_window
        is_guided = sampler.guidance != 1
        if is_guided:
            group_logits = sampler.guide(group_logits)
        noise = iter(ExponentialNoise(sampler.num_draws, group_logits.shape[-1], seeds, device))
        # The new codes, after `window` times -1 (no code), so that the first frame has a full repetition window, too.
        history = torch.full((batch, window + limit), -1, device=device)
        lens = torch.zeros(batch, dtype=torch.long, device=device)
        is_done = torch.zeros(batch, dtype=torch.bool, device=device)
        was_capped = torch.zeros_like(is_done)

        def rows() -> list[Tensor]:
            """The new codes (t, 1) of each row so far."""
            new = history[:, window:, None].cpu()
            return [new[row, :length] for row, length in enumerate(lens.tolist())]

        check_interval = _GPU_STEPS_BETWEEN_CHECKS if device.type == "cuda" else 1
        for frame in range(limit):
            logits = group_logits[:, frame % group_size]
            # The end cannot win before the minimum length.
            logits[:, eos_id].masked_fill_(min_frames > frame, -torch.inf)
            # The repetition window includes the codes before in the same group (VALL-E 2, section 3.4.1).
            codes = sampler(logits, history[:, : window + frame], next(noise))
            # A row ends if the end of speech is sampled or is the likeliest code.
            is_done = is_done | (codes == eos_id) | (logits.argmax(-1) == eos_id)
            lens = lens + ~is_done
            history[:, window + frame] = torch.where(is_done, -1, codes)
            reaches_cap = ~is_done & (lens >= max_frames)
            is_done, was_capped = is_done | reaches_cap, was_capped | reaches_cap
            num_steps, num_in_group = divmod(frame + 1, group_size)
            if num_in_group:
                continue
            if frame + 1 == limit or (num_steps % check_interval == 0 and bool(is_done.all())):
                break
            if on_frames is not None:
                on_frames(frame + 1, rows)
            # Finished rows stay in the batch and read code 0; their output is ignored.
            group = history[:, : window + frame + 1][:, -group_size:].clamp(min=0)
            group_logits = sampler.guide(cached_step(group.repeat(2, 1))) if is_guided else cached_step(group)
        ended_at_minimum = lens == min_frames
        ends = zip(rows(), was_capped.tolist(), ended_at_minimum.tolist(), strict=True)
        return [Generation(new, "cap" if is_cap else "floor" if is_floor else "eos") for new, is_cap, is_floor in ends]

    def _prefill(
        self, text: Tensor, text_lens: Tensor, prompt: Tensor, prompt_lens: Tensor, limit: int
    ) -> tuple["CachedStep", Tensor]:
        """Read texts and prompts into the cache; returns the step, and the logits (B, G, V+1) of the first new group.

        `limit` is the number of frames that the steps may generate.
        """
        x, may_attend, packing = self.ar.sequence(text, text_lens, prompt, prompt_lens)
        num_steps = -(-limit // self.ar.group_size)
        num_slots = packing.length + num_steps
        # A table that grew during the steps would leave the captured graph with the old one; 1 is the begin symbol.
        self.ar.audio_position.reserve(prompt.shape[1] // self.ar.group_size + 1 + num_steps)
        cached_step = next((one for one in self._free if one.fits(x, num_slots)), None)
        if cached_step is None:
            # Free the old buffers before new ones are allocated.
            self._free.clear()
            rounded = -(-num_slots // _SLOT_ROUNDING) * _SLOT_ROUNDING
            cached_step = CachedStep(self.ar, x.shape[0], rounded, x.device)
        else:
            self._free.remove(cached_step)
        cached_step.reset(packing)
        prefix = cached_step.cache.view(torch.arange(packing.length, device=x.device), packing.length)
        hidden = self.ar.decoder(x, may_attend, cache=prefix)
        return cached_step, self.ar.predict(packing.last_positions(hidden).unsqueeze(1)).float()


class CachedStep:
    """The buffers of a batch, and the decoder's step on them. On a GPU the step is a CUDA graph, captured once.

    The slots of a row: its text and prompt, a gap up to the end of the longest row's, then the new groups. So all rows
    write the same slot in a step. `bias` (B, 1, 1, slots), which is added to attention scores, hides the gap and the
    unused slots.
    """

    def __init__(self, ar: AR, batch: int, num_slots: int, device: torch.device) -> None:
        self.ar = ar
        self.cache = ar.decoder.new_cache(batch, num_slots, device)
        # A graph reads and writes fixed memory: everything that changes between steps is updated in place.
        self.codes = torch.zeros(batch, ar.group_size, dtype=torch.long, device=device)
        self.position = torch.zeros(batch, dtype=torch.long, device=device)
        self.slot = torch.zeros(1, dtype=torch.long, device=device)
        self.bias = torch.empty(batch, 1, 1, num_slots, dtype=self.cache.keys.dtype, device=device)
        self.table = ar.audio_position.table
        # Number of used slots on the host, to slice the cache without a sync.
        self.end = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.logits = torch.empty(0)

    def fits(self, x: Tensor, num_slots: int) -> bool:
        """Whether these buffers fit the batch, and the captured graph still refers to the current position table."""
        is_fit = self.codes.shape[0] == x.shape[0] and self.bias.shape[-1] >= num_slots
        return is_fit and self.table is self.ar.audio_position.table and self.codes.device == x.device

    def reset(self, packing: Packing) -> None:
        """Start a batch after its texts and prompts: only their slots are visible, and audio positions continue."""
        index = torch.arange(self.bias.shape[-1], device=self.bias.device)
        is_used = index < packing.lens.unsqueeze(1)
        self.bias.zero_().masked_fill_(~is_used[:, None, None], -torch.inf)
        self.slot.fill_(packing.length)
        self.position.copy_(packing.audio_lens)
        self.end = packing.length

    def __call__(self, codes: Tensor) -> Tensor:
        """Append a group of codes to each row (B, G); returns the logits of the next group (B, G, V+1)."""
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
        """One step that attends to the slots before `end`; advances slot and position on the device."""
        self.bias.index_fill_(3, self.slot, 0.0)
        x = self.ar.embed_audio(self.codes, self.position)
        hidden = self.ar.decoder(x, self.bias[..., :end], cache=self.cache.view(self.slot, end))
        self.position += 1
        self.slot += 1
        return self.ar.predict(hidden).float()

    def _capture(self) -> None:
        """Capture `_step`. A graph's shapes are fixed, so it attends to every slot, and `bias` hides the empty ones."""
        num_slots = self.bias.shape[-1]
        position, slot = self.position.clone(), self.slot.clone()

        def restore() -> None:
            self.position.copy_(position)
            self.slot.copy_(slot)

        # Libraries allocate workspaces in their first run, which a capture does not allow: warm up on a side stream.
        # Its keys and values go to the slot that the first replay overwrites.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                self._step(num_slots)
                restore()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            # Every replay overwrites these logits.
            self.logits = self._step(num_slots)
        restore()
