"""From the plan to batches: each rank's share of every step, read by workers, and the fixed validation batches."""

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice, pairwise, zip_longest

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from config.schema import TrainSettings
from models.contract import Batch, Collate, Example
from processors.index import codes_location
from processors.manifest import Utterance, corpus_of, read_shards
from processors.symbols import join_phones
from processors.text import TextTokenizer
from training.corpus import IndexedCorpus
from training.plan import NumPositions, PlannedBatch, group_by_length
from training.pools import PoolReader
from training.sequence import BatchSequence, Position
from utils.errors import UserError
from utils.log import log
from utils.remote import is_url
from utils.workers import WorkerDiedError, iterate, worker_init

# To be raised with each change of what a batch holds: a resumed training then begins its epoch again.
_PLAN_VERSION = 1


@dataclass(frozen=True)
class BatchDataset(Dataset[Batch]):
    """Reads and collates planned batches. Batches are independent, so any worker can build any of them."""

    corpus: IndexedCorpus
    tokenizer: TextTokenizer
    collator: Collate

    def __getitem__(self, planned: PlannedBatch) -> Batch:
        rows = zip(planned.numbers.tolist(), planned.joined.tolist(), planned.others.tolist(), strict=True)
        examples = [self._example(*row) for row in rows]
        return self.collator(examples, None if planned.seed is None else random.Random(planned.seed))

    def _example(self, number: int, joined: int, other: int) -> Example:
        phones, codes = self.corpus.read(number)
        if joined >= 0:
            # As a prompt and its target are at inference.
            more_phones, more_codes = self.corpus.read(joined)
            phones, codes = join_phones(phones, more_phones), np.concatenate([codes, more_codes])
        other_codes = self.corpus.read(other)[1] if other >= 0 else None
        return Example(tuple(self.tokenizer.ids(phones)), codes, other_codes)


@dataclass(frozen=True)
class TrainData:
    """The batches of one rank of `world_size`, for training and for validation.

    What a batch holds depends on the index, the settings and its position alone: neither the number of ranks or
    workers nor an interruption changes it.
    """

    train: IndexedCorpus
    valid: IndexedCorpus
    tokenizer: TextTokenizer
    collator: Collate
    settings: TrainSettings
    rank: int = 0
    world_size: int = 1
    pool_reader: PoolReader = field(default_factory=PoolReader)

    def _num_positions(self, num_phones: np.ndarray, num_frames: np.ndarray) -> np.ndarray:
        return self.collator.num_positions(self.tokenizer.num_ids(num_phones), num_frames)

    @cached_property
    def sequence(self) -> BatchSequence:
        return BatchSequence(self.train, self.settings, self._num_positions, self.collator.needs_other_codes)

    @property
    def batches_per_step(self) -> int:
        """Batches of an optimizer step on all ranks together."""
        return self.world_size * self.settings.gradient_accumulation_step

    def num_steps(self, start: Position, steps_done: int = 0) -> int:
        """Optimizer steps from `start` to the last epoch or to `max_steps`, equally many on every rank.

        Raises UserError where a new training has fewer batches than a step takes.
        """
        max_steps, per_step = self.settings.max_steps, self.batches_per_step
        at_most = None if max_steps is None else max(max_steps - steps_done, 0)
        num_left = self.sequence.num_left(start, None if at_most is None else at_most * per_step)
        if num_left < per_step and not steps_done and at_most != 0:
            raise UserError(
                f"train: all epochs have {num_left} batches, and a step takes {per_step} of them; lower "
                "train.max_tokens or train.gradient_accumulation_step, or use fewer GPUs"
            )
        num_steps = num_left // per_step
        return num_steps if at_most is None else min(num_steps, at_most)

    @property
    def steps_per_epoch(self) -> float:
        return self.sequence.num_batches(0) / self.batches_per_step

    def has_step(self, position: Position) -> bool:
        """Whether enough batches for another step are left."""
        return self.sequence.num_left(position, self.batches_per_step) >= self.batches_per_step

    def log_unused(self, position: Position) -> None:
        """Log how many batches at the end are too few for a step."""
        num_left = self.sequence.num_left(position, self.batches_per_step)
        if 0 < num_left < self.batches_per_step:
            log.info("the last %d batches are too few for a step and are not used", num_left)

    def steps(self, start: Position, num_steps: int) -> Iterator[list[Batch]]:
        """This rank's batches of each of `num_steps` optimizer steps from `start` on.

        A step takes the next `batches_per_step` batches of the sequence, even across epochs. Of these, a rank takes
        every `world_size`-th.
        """
        own = islice(self._planned(start), self.rank, num_steps * self.batches_per_step, self.world_size)
        batches = self._loaded(own)
        while group := list(islice(batches, self.settings.gradient_accumulation_step)):
            yield group

    def _planned(self, start: Position) -> Iterator[PlannedBatch]:
        """All ranks' batches from `start` on. Yielding the first batch of a pool starts reading the pool ahead."""
        # With `shards_per_pool: null` a pool is the whole corpus, which may exceed the memory, so it is not read ahead.
        # Shards behind a URL must be downloaded in any case.
        reads_ahead = self.settings.shards_per_pool is not None or any(map(is_url, self.train.shards))
        entered: tuple[int, int] | None = None
        for position, planned in self.sequence.batches(start):
            if reads_ahead and entered != (position.epoch, planned.pool):
                entered = position.epoch, planned.pool
                self.pool_reader.enter(*self.sequence.shards_of_pools(*entered))
            yield planned

    def _loaded(self, planned: Iterator[PlannedBatch]) -> Iterator[Batch]:
        # A generator of its own: the loader must not draw from the random state that dropout uses.
        loader = DataLoader(
            BatchDataset(self.train, self.tokenizer, self.collator),
            sampler=planned,
            batch_size=None,
            num_workers=self.settings.dataloader.num_worker,
            generator=torch.Generator(),
            worker_init_fn=worker_init,
        )
        try:
            yield from iterate(loader, "lower train.dataloader.num_worker, and continue with --resume true")
        except WorkerDiedError:
            raise
        except UserError as error:
            # An error of a worker comes with that worker's traceback before it.
            raise UserError(str(error).splitlines()[-1].removeprefix("utils.errors.UserError: ")) from error

    def fingerprint(self) -> str:
        """Changes with whatever changes the plan, but not with the folder or URL of the shards."""
        keys = {"random_seed", "batch_size", "use_dynamic_batchsize", "max_tokens", "max_sentences"}
        settings = self.settings.model_dump(include=keys | {"shards_per_pool", "dataset_weights", "join_probability"})
        shards = [shard.rsplit("/", 3)[1:] for shard in self.train.shards]
        # NumPy may change its random streams between versions.
        versions = [_PLAN_VERSION, *np.__version__.split(".")[:2]]
        digest = hashlib.sha256(json.dumps([versions, settings, shards], sort_keys=True).encode())
        lengths = self._num_positions(self.train.num_phones, self.train.num_frames)
        for array in (self.train.first, lengths.astype(np.int64), self.train.speaker):
            digest.update(array.tobytes())
        return digest.hexdigest()

    @cached_property
    def valid_batches(self) -> list[Batch]:
        """This rank's validation batches, with nothing drawn: read once, and kept in memory.

        All ranks together have at most `valid_max_batches`, of utterances chosen evenly over corpora and speakers.
        """
        planned = plan_validation(self.valid, self.settings, self._num_positions, self.collator.needs_other_codes)
        dataset = BatchDataset(self.valid, self.tokenizer, self.collator)
        return [dataset[batch] for batch in planned[self.rank :: self.world_size]]

    def valid_utterances(self, num: int) -> list[Utterance]:
        """The first validation utterances with their texts, to synthesize as samples."""
        if not self.valid.shards:
            return []
        cuts, cache = self.valid.shards[0], self.valid.cache
        # The shard is read from the cuts on: behind a URL its codes must be beside them.
        cache.path(codes_location(cuts))
        return list(islice(read_shards([str(cache.path(cuts))]), num))


def plan_validation(
    corpus: IndexedCorpus, settings: TrainSettings, num_positions: NumPositions, with_others: bool
) -> list[PlannedBatch]:
    """At most `valid_max_batches` of utterances chosen evenly over corpora and speakers."""
    chosen = evenly_chosen(corpus)
    fewest, most = 0, len(chosen)

    def batches_of(num: int) -> list[np.ndarray]:
        numbers = chosen[:num]
        order, first = group_by_length(num_positions(corpus.num_phones[numbers], corpus.num_frames[numbers]), settings)
        return [numbers[order[start:end]] for start, end in pairwise(first)]

    # More utterances never make fewer batches, so the most that fit are found by bisection.
    while fewest < most:
        middle = (fewest + most + 1) // 2
        if len(batches_of(middle)) <= settings.valid_max_batches:
            fewest = middle
        else:
            most = middle - 1
    by_speaker: dict[int, list[int]] = defaultdict(list)
    for number in corpus.by_speaker.tolist():
        by_speaker[int(corpus.speaker[number])].append(number)
    batches = []
    for numbers in batches_of(fewest):
        others = np.full(len(numbers), -1)
        if with_others:
            of_speakers = [by_speaker[int(corpus.speaker[number])] for number in numbers]
            pairs = zip(numbers.tolist(), of_speakers, strict=True)
            others = np.array([next((other for other in of if other != number), -1) for number, of in pairs])
        batches.append(PlannedBatch(numbers, np.full(len(numbers), -1), others, seed=None))
    return batches


def evenly_chosen(corpus: IndexedCorpus) -> np.ndarray:
    """All utterance numbers in an order whose every prefix is spread evenly over corpora, then over speakers."""
    rng = random.Random(0)
    by_corpus: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for shard, cuts in enumerate(corpus.shards):
        for number in range(int(corpus.first[shard]), int(corpus.first[shard + 1])):
            by_corpus[corpus_of(cuts)][int(corpus.speaker[number])].append(number)
    turns = []
    for speakers in by_corpus.values():
        for numbers in speakers.values():
            rng.shuffle(numbers)
        order = list(speakers.values())
        rng.shuffle(order)
        turns.append(_round_robin(order))
    return np.array(_round_robin(turns), np.int64)


def _round_robin(lists: Sequence[Sequence[int]]) -> list[int]:
    """The first of each list, then the second of each, and so on."""
    missing = -1
    return [item for item in chain.from_iterable(zip_longest(*lists, fillvalue=missing)) if item != missing]
