"""How examples become a batch of the AR and the NAR."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from models.contract import Batch, Example

IGNORED = -100
"""Target value that the loss ignores."""


class PrefixMode(IntEnum):
    """What the NAR's prompt is in training (VALL-E, section 4.2.2)."""

    NONE = 0
    FIRST_FRAMES = 1
    SEGMENT = 2
    OTHER_SEGMENT = 4

    @property
    def has_segment(self) -> bool:
        """Whether a segment is prepended, whose text the NAR is not shown."""
        return self in (PrefixMode.SEGMENT, PrefixMode.OTHER_SEGMENT)


@dataclass(frozen=True)
class NarInput:
    """What the NAR reads at one stage: codes after an optional prompt, and its targets.

    codes (B, T', Q); codes_lens (B,); is_prompt (B, T'); targets (B, T'), `IGNORED` where nothing is predicted.
    `longest` counts the phones and frames of the longest row.
    """

    stage: int
    codes: Tensor
    codes_lens: Tensor
    is_prompt: Tensor
    targets: Tensor
    num_targets: int
    longest: int


@dataclass(frozen=True, kw_only=True)
class ValleBatch(Batch):
    """text (B, S) ids, codes (B, T, Q), both zero where padded.

    `num_frames` are those of each row, and `longest` counts the positions of the AR's longest row: phones and full
    groups of frames.
    """

    text: Tensor
    text_lens: Tensor
    codes: Tensor
    codes_lens: Tensor
    nar: tuple[NarInput, ...]
    num_frames: tuple[int, ...]
    longest: int


@dataclass(frozen=True)
class Collator:
    """Turns examples into a batch.

    Where the batch is `for_nar`, `prefix_mode` says which frames are its prompt (VALL-E, section 4.2.2), at most
    `max_prompt_frames` of them. `group_size` frames are one position of the AR.
    """

    num_quantizers: int
    prefix_mode: PrefixMode
    max_prompt_frames: int
    for_nar: bool
    group_size: int = 1

    @property
    def needs_other_codes(self) -> bool:
        return self.for_nar and self.prefix_mode == PrefixMode.OTHER_SEGMENT

    def num_positions(self, num_ids: np.ndarray, num_frames: np.ndarray) -> np.ndarray:
        """Ids and full groups of the AR. A NAR that trains has more: ids, frames and the segment of modes 2 and 4."""
        if not self.for_nar:
            return num_ids + num_frames // self.group_size
        positions = num_ids + num_frames
        if PrefixMode(self.prefix_mode).has_segment:
            # A batch takes its segments' length from its shortest example: none is longer than this.
            positions = positions + np.clip(num_frames // 4, 1, self.max_prompt_frames)
        return positions

    def __call__(self, examples: Sequence[Example], rng: random.Random | None) -> ValleBatch:
        """With `rng` the NAR's stage and prompt are drawn. Without (validation): all stages, a prompt in the middle."""
        codes = [torch.from_numpy(example.codes.astype(np.int64)) for example in examples]
        text = [torch.tensor(example.ids) for example in examples]
        return ValleBatch(
            text=pad(text),
            text_lens=torch.tensor([len(ids) for ids in text]),
            codes=pad(codes),
            codes_lens=torch.tensor([len(code) for code in codes]),
            nar=self._nar_inputs(examples, codes, rng) if self.for_nar else (),
            num_tokens=sum(example.num_tokens for example in examples),
            num_frames=tuple(len(code) for code in codes),
            num_utterances=len(examples),
            longest=max(len(ids) + len(code) // self.group_size for ids, code in zip(text, codes, strict=True)),
        )

    def _nar_inputs(
        self, examples: Sequence[Example], codes: list[Tensor], rng: random.Random | None
    ) -> tuple[NarInput, ...]:
        stages = range(1, self.num_quantizers) if rng is None else [rng.randrange(1, self.num_quantizers)]
        shortest = min(len(code) for code in codes)
        if self.prefix_mode == PrefixMode.NONE:
            inputs, is_prompt, predicted = codes, *_marks(codes, 0)
        elif self.prefix_mode == PrefixMode.FIRST_FRAMES:
            low = shortest // 4
            drawn = (3 * low) // 2 if rng is None else rng.randrange(low, max(2 * low, low + 1))
            inputs, is_prompt, predicted = codes, *_marks(codes, self._clamp(drawn))
        else:
            inputs, is_prompt, predicted = self._with_segments(examples, codes, shortest, rng)
        lens = torch.tensor([len(code) for code in inputs])
        longest = max(len(example.ids) + len(code) for example, code in zip(examples, inputs, strict=True))
        padded, padded_is_prompt, padded_predicted = pad(inputs), pad(is_prompt), pad(predicted)
        return tuple(
            NarInput(
                stage=stage,
                codes=padded,
                codes_lens=lens,
                is_prompt=padded_is_prompt,
                targets=torch.where(padded_predicted, padded[..., stage], IGNORED),
                num_targets=int(padded_predicted.sum()),
                longest=longest,
            )
            for stage in stages
        )

    def _with_segments(
        self, examples: Sequence[Example], codes: list[Tensor], shortest: int, rng: random.Random | None
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Modes 2 and 4: prepend a segment of the utterance itself, or of another one of the speaker.

        Returns for each row its input codes, where its prompt is, and which frames are predicted: neither the prompt
        nor, in mode 2, the frames that it was copied from.
        """
        others = [
            None if example.other_codes is None else torch.from_numpy(example.other_codes.astype(np.int64))
            for example in examples
        ]
        # All prompts of a batch have one length, so the shortest utterance limits it.
        shortest_other = min((len(other) for other in others if other is not None), default=shortest)
        num_prompt = min(self._clamp(shortest // 4), shortest_other)
        inputs, predicted = [], []
        for utterance, other in zip(codes, others, strict=True):
            source = utterance if other is None else other
            last_start = len(source) - num_prompt
            start = last_start // 2 if rng is None else rng.randint(0, last_start)
            inputs.append(torch.cat([source[start : start + num_prompt], utterance]))
            is_predicted = torch.ones(num_prompt + len(utterance), dtype=torch.bool)
            is_predicted[:num_prompt] = False
            if other is None:
                # Otherwise the model could copy these frames from its prompt.
                is_predicted[num_prompt + start : num_prompt + start + num_prompt] = False
            predicted.append(is_predicted)
        return inputs, _marks(inputs, num_prompt)[0], predicted

    def _clamp(self, num_frames: int) -> int:
        return max(1, min(num_frames, self.max_prompt_frames))


def _marks(codes: list[Tensor], num_prompt: int) -> tuple[list[Tensor], list[Tensor]]:
    """For each row: where the first `num_prompt` frames are, and where they are not."""
    is_prompt = [torch.arange(len(code)) < num_prompt for code in codes]
    return is_prompt, [~mark for mark in is_prompt]


def pad(rows: Sequence[Tensor]) -> Tensor:
    """Stack rows of different lengths, filled with zeros on the right."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
