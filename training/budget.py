"""`train.max_tokens: auto`: the largest batches that fit the device's memory, found before training starts."""

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from accelerate.utils.memory import should_reduce_batch_size
from torch.nn.utils import clip_grad_norm_

from config.schema import TrainSettings
from models.contract import Batch, CodecLM, Collate, Example
from training.averaging import AveragedWeights
from training.plan import group_by_length, length_steps
from training.trainer import build_optimizer, dropout_arguments
from utils.device import release_memory
from utils.errors import UserError
from utils.log import log

DEFAULT_MAX_TOKENS = 4000
"""That of config/valle.json: what `auto` means where there is no GPU whose memory could be measured."""
# Training takes this share of what fits, as memory is fragmented in the course of it.
_SHARE = 0.9


@dataclass(frozen=True)
class WorstCases:
    """Batches that need the most memory among those of a corpus, made up from the sizes of its utterances alone.

    `num_ids` (N,) and `num_frames` (N,) are those of each utterance.
    """

    num_ids: np.ndarray
    num_frames: np.ndarray
    collator: Collate
    num_codebooks: int
    settings: TrainSettings

    @property
    def least(self) -> int:
        """Positions of the longest utterance. With a smaller budget it is still a batch, alone."""
        return int(self.collator.num_positions(self.num_ids, self.num_frames).max())

    @property
    def most(self) -> int:
        """Budget above which `max_sentences` alone bounds the batches."""
        lengths = self._sizes()[2]
        return int(min(self.settings.max_sentences, len(lengths)) * length_steps(lengths)[-1])

    def positions(self, max_tokens: int) -> int:
        """Positions with padding of the largest batch."""
        return int(self._planned(self._sizes(max_tokens)[2], max_tokens)[2].max())

    def batches(self, max_tokens: int) -> list[Batch]:
        """With this budget, the batch of the longest utterances, and the largest with padding if it is another."""
        num_ids, num_frames, lengths = self._sizes(max_tokens)
        order, first, padded = self._planned(lengths, max_tokens)
        batches = []
        for index in sorted({0, int(padded.argmax())}):
            chosen = order[first[index] : first[index + 1]]
            rows = zip(num_ids[chosen].tolist(), num_frames[chosen].tolist(), strict=True)
            batches.append(self.collator([self._example(*row) for row in rows], random.Random(0)))
        return batches

    def _planned(self, lengths: np.ndarray, max_tokens: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The order of `group_by_length`, where each batch of it begins, and the positions of each with padding."""
        order, first = group_by_length(lengths, self.settings.model_copy(update={"max_tokens": max_tokens}))
        return order, first, np.diff(first) * np.maximum.reduceat(lengths[order], first[:-1])

    def _sizes(self, max_tokens: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ids, frames and positions of all examples that there may be, of joined ones up to `max_tokens`."""
        num_ids, num_frames = self.num_ids, self.num_frames
        if self.settings.join_probability:
            # A speaker's longest utterances may be nearly as long as each other.
            num_ids, num_frames = (np.concatenate([each, 2 * each]) for each in (num_ids, num_frames))
        lengths = self.collator.num_positions(num_ids, num_frames)
        is_kept = np.arange(len(lengths)) < len(self.num_ids)
        is_kept |= lengths <= (np.inf if max_tokens is None else max_tokens)
        return num_ids[is_kept], num_frames[is_kept], lengths[is_kept]

    def _example(self, num_ids: int, num_frames: int) -> Example:
        codes = np.zeros((num_frames, self.num_codebooks), np.int64)
        return Example((1,) * num_ids, codes, codes if self.collator.needs_other_codes else None)


class TrialSteps:
    """Training steps of a model of their own, which are thrown away with it: nothing of the training changes.

    They communicate with no other rank, so that one may run out of memory alone.
    """

    def __init__(self, model: CodecLM, settings: TrainSettings, accelerator: Accelerator) -> None:
        self.settings = settings
        self.accelerator = accelerator
        # Not compiled, which takes long for many shapes and needs no more memory.
        model.configure_training(settings.model_copy(update={"compile": False}))
        self.model = model.to(accelerator.device).train()
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = build_optimizer(self.parameters, settings)
        self.averages = AveragedWeights(self.parameters, settings.ema_decay) if settings.ema_decay else None
        # Where ranks reduce their gradients, they have buffers of the same size.
        is_alone = accelerator.num_processes == 1
        self.buffers = [] if is_alone else [torch.empty_like(parameter) for parameter in self.parameters]

    def step(self, batch: Batch) -> None:
        """Forward, backward and the optimizer. Raises torch.OutOfMemoryError."""
        batch = batch.to(self.accelerator.device)
        # With accumulation, gradients are there while the next batch's are computed.
        for _ in range(min(2, self.settings.gradient_accumulation_step)):
            with self.accelerator.autocast():
                losses = self.model(batch, *dropout_arguments(self.settings))
            torch.stack([sums.loss_sum for sums in losses.values()]).sum().backward()
        clip_grad_norm_(self.parameters, self.settings.gradient_clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.averages is not None:
            self.averages.update()

    def fit(self, batches: list[Batch]) -> bool:
        """Whether steps of these batches fit the memory, the first one again once the optimizer has its moments."""
        fits = True
        try:
            for batch in [*batches, batches[0]]:
                self.step(batch)
        except RuntimeError as error:
            if not isinstance(error, torch.OutOfMemoryError) and not should_reduce_batch_size(error):
                raise
            fits = False
        # After the block, as the error's traceback holds the step's tensors.
        self.optimizer.zero_grad(set_to_none=True)
        if not fits:
            release_memory()
        return fits


def largest_budget(fits: Callable[[int], bool], least: int, most: int) -> int:
    """The largest budget from `least` to `most` that fits, found to 2 %; 0 if not even `least` does.

    Doubles until one does not fit, then bisects.
    """
    if not fits(least):
        return 0
    good, bad = least, None
    while bad is None and good < most:
        tried = min(2 * good, most)
        good, bad = (tried, None) if fits(tried) else (good, tried)
    while bad is not None and bad - good > max(1, good // 50):
        tried = (good + bad) // 2
        good, bad = (tried, bad) if fits(tried) else (good, tried)
    return good


def has_measurable_memory(device: torch.device) -> bool:
    """Whether running out of memory is an error. On a CPU the system swaps, or ends the process."""
    return device.type == "cuda"


def find_max_tokens(worst: WorstCases, build_model: Callable[[], CodecLM], accelerator: Accelerator) -> int:
    """What `train.max_tokens: auto` stands for, the same on all ranks. A collective.

    Raises UserError if no batch fits the memory. The random state is not that of before.
    """
    if not has_measurable_memory(accelerator.device) or not worst.settings.use_dynamic_batchsize:
        why = "there is no GPU" if worst.settings.use_dynamic_batchsize else "batches have train.batch_size utterances"
        log.info("train.max_tokens: auto is %d, the default, as %s", DEFAULT_MAX_TOKENS, why)
        return DEFAULT_MAX_TOKENS
    if accelerator.is_fsdp2:
        raise UserError("train.max_tokens: auto cannot try batches with FSDP; give a number")
    log.info("train.max_tokens: trying which batches fit the memory")
    found = _found_here(worst, build_model, accelerator)
    release_memory()
    # Ranks may have other GPUs, or other programs on them.
    smallest: int = min(gather_object([found]))
    if not smallest:
        raise UserError(
            f"train.max_tokens: not even a batch of the longest utterance alone ({worst.least} phones and frames) fits "
            "the memory; set train.activation_checkpointing to true, or lower preprocess.max_duration"
        )
    log.info("train.max_tokens: auto is %d, found by trial steps", smallest)
    return smallest


def _found_here(worst: WorstCases, build_model: Callable[[], CodecLM], accelerator: Accelerator) -> int:
    try:
        trial = TrialSteps(build_model(), worst.settings, accelerator)
    except torch.OutOfMemoryError:
        return 0
    fitting = largest_budget(lambda max_tokens: trial.fit(worst.batches(max_tokens)), worst.least, worst.most)
    # The largest batch may have less positions than its budget. A budget below the longest utterance changes nothing.
    return max(worst.least, int(_SHARE * worst.positions(fitting))) if fitting else 0
