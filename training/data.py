"""From examples to batches: length buckets, what each process gets, and a position that can be resumed."""

import hashlib
import json
import math
import random
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import count, islice

import torch
from lhotse.dataset.sampling.base import SamplingConstraint
from lhotse.dataset.sampling.dynamic_bucketing import DynamicBucketer
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from config.schema import TrainSettings
from models.contract import START, Batch, Collate, Example, Place
from processors.manifest import Utterance, corpus_of
from processors.text import TextTokenizer
from training.examples import ExampleSource, read_utterances
from utils.errors import UserError
from utils.workers import WorkerDiedError, iterate, worker_init

# Enough to know how lengths are distributed.
MEASURED_EXAMPLES = 2000


@dataclass
class PaddedTokens(SamplingConstraint):
    """At most `max_tokens` phones and frames in a batch, padding included, and at most `max_examples`."""

    max_tokens: int
    max_examples: int
    num_examples: int = 0
    longest: int = 0

    def add(self, example: Example) -> None:
        self.num_examples += 1
        self.longest = max(self.longest, example.num_tokens)

    def exceeded(self) -> bool:
        return self.num_examples > self.max_examples or self.num_examples * self.longest > self.max_tokens

    def close_to_exceeding(self) -> bool:
        return self.num_examples >= self.max_examples or (self.num_examples + 1) * self.longest > self.max_tokens

    def reset(self) -> None:
        self.num_examples = self.longest = 0

    def measure_length(self, example: Example) -> float:
        return example.num_tokens


@dataclass(frozen=True)
class Group:
    """The examples of a batch, the seed of what is drawn for it, and what the batch says of itself."""

    examples: list[Example]
    seed: str | None
    end: Place = START
    is_filler: bool = False
    ends_block: bool = False


@dataclass(frozen=True)
class _Batches(IterableDataset):
    """Collates groups of examples in the loader's processes.

    Each process forms all groups and collates every n-th, which the loader takes in turn: the order is the same
    with any number of processes, and the training process never waits for a shard to be read.
    """

    groups: Callable[[], Iterator[Group]]
    collator: Collate

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for group in islice(self.groups(), first, None, step):
            batch = self.collator(group.examples, None if group.seed is None else random.Random(group.seed))
            yield replace(batch, end=group.end, is_filler=group.is_filler, ends_block=group.ends_block)


def in_step(batches: Iterator[Batch], world_size: int, greatest: Callable[[int], int]) -> Iterator[Batch]:
    """The batches of one of several processes, as many as the others have.

    `greatest` gives the greatest number that a process has called it with, which all do as often. A process whose block
    has ended repeats its last batch, a filler, until the others' has; a turn of fillers alone is passed over.
    """
    for batch in batches:
        # 2 for one that counts, 1 for a filler, 0 at the block's end.
        while most := greatest(2 - batch.is_filler - batch.ends_block):
            if batch.ends_block:
                batch = replace(batch, end=replace(batch.end, groups_done=batch.end.groups_done + world_size))
            if most == 2:
                yield batch
            if not batch.ends_block:
                break


@dataclass(frozen=True)
class TrainData:
    """The training batches of each epoch, dealt to processes, and the fixed ones for validation.

    Shards are read one after another, and none is kept. An epoch is cut into blocks of `shards_per_block`: to go on in
    the midst of one, no block before is read, but for the few examples that lengths are measured on. A block's shards
    are dealt to `num_streams` streams, each of which is shuffled and bucketed by itself, and which give a batch in
    turn: a process reads those alone that its own turns fall on, so that processes divide the reading.
    """

    train_shards: Sequence[str]
    valid_shards: Sequence[str]
    tokenizer: TextTokenizer
    collator: Collate
    settings: TrainSettings
    rank: int = 0
    world_size: int = 1

    def batches(self, epoch: int, start: Place = START) -> Iterator[Batch]:
        """The batches of an epoch for this process, from a place on.

        What a batch holds depends on the seed, the epoch and its place alone: not on the number of processes, nor on
        whether training was interrupted. Among several processes each block ends with a batch that `ends_block`: one
        process has it earlier than another, and `in_step` lets them wait.
        """
        return self._loader(partial(self._train_groups, epoch, start))

    def fingerprint(self) -> str:
        """Changes with whatever decides which shards a block of an epoch has, wherever they lie."""
        settings = self.settings.model_dump(
            include={"shards_per_block", "num_streams", "dataset_weights", "random_seed"}
        )
        shards = [shard.rsplit("/", 3)[1:] for shard in self.train_shards]
        return hashlib.sha256(json.dumps([settings, shards], sort_keys=True).encode()).hexdigest()

    def valid_batches(self) -> Iterator[Batch]:
        """The same batches each time, with nothing drawn."""
        return self._loader(self._valid_groups)

    def valid_utterances(self, num: int) -> list[Utterance]:
        """The first validation utterances, to speak as samples."""
        return list(islice(read_utterances(self.valid_shards), num))

    def _train_groups(self, epoch: int, start: Place) -> Iterator[Group]:
        """This process's share of an epoch's groups."""
        shards, size = self._epoch_shards(epoch), self.settings.shards_per_block
        for block in range(start.block, -(-len(shards) // size)):
            done = start if block == start.block else Place(block, 0)
            yield from self._share(epoch, shards[block * size : (block + 1) * size], done)

    def _share(self, epoch: int, shards: Sequence[str], done: Place) -> Iterator[Group]:
        """Of a block's turns, in which its streams give a group each, every `world_size`-th from a place on.

        Among several processes a turn whose stream has ended is a filler; so is the last group, which ends the block.
        """
        num_streams = min(self.settings.num_streams, len(shards))
        first = done.groups_done + self.rank
        own = {turn % num_streams for turn in range(first, first + num_streams * self.world_size, self.world_size)}
        seed = f"{self.settings.random_seed} {epoch} {done.block}"
        streams = {number: self._stream(seed, shards, number, num_streams) for number in own}
        end, filler = done, None
        for turn in count():
            if turn % num_streams not in own:
                continue
            group = next(streams.get(turn % num_streams, iter(())), None)
            if group is None:
                streams.pop(turn % num_streams, None)
                if not streams:
                    break
            elif filler is None:
                filler = replace(group, examples=group.examples[:1], is_filler=True)
            if turn >= first and (turn - first) % self.world_size == 0:
                end = Place(done.block, turn - self.rank + self.world_size)
                given = filler if group is None and self.world_size > 1 else group
                if given is not None:
                    yield replace(given, end=end)
        if filler is not None and self.world_size > 1:
            yield replace(filler, end=end, ends_block=True)

    def _stream(self, seed: str, shards: Sequence[str], number: int, num_streams: int) -> Iterator[Group]:
        """The groups of every `num_streams`-th of a block's shards."""
        seed = f"{seed} {number}" if number else seed
        source = self._source(shards[number::num_streams], seed, shuffle=True)
        for index, examples in enumerate(self._grouped(source)):
            yield Group(examples, f"{seed} {index}")

    def _epoch_shards(self, epoch: int) -> list[str]:
        """The shards of an epoch, shuffled: of each corpus all, or as many as its weight says, in turn."""
        by_corpus: dict[str, list[str]] = defaultdict(list)
        for shard in self.train_shards:
            by_corpus[corpus_of(shard)].append(shard)
        weights = {str(name): weight for name, weight in self.settings.dataset_weights.items()}
        chosen = []
        for corpus, shards in by_corpus.items():
            random.Random(f"{self.settings.random_seed} {corpus}").shuffle(shards)
            share = weights.get(corpus, 1.0) * len(shards)
            # Rounded up, so that the first epoch has something of each.
            first, last = (math.ceil(share * num_epochs) for num_epochs in (epoch, epoch + 1))
            chosen += [shards[place % len(shards)] for place in range(first, last)]
        random.Random(f"{self.settings.random_seed} {epoch}").shuffle(chosen)
        return chosen

    def _valid_groups(self) -> Iterator[Group]:
        groups = self._grouped(self._source(self.valid_shards, "", shuffle=False))
        for examples in islice(groups, self.rank, self.settings.valid_max_batches, self.world_size):
            yield Group(examples, None)

    def _source(self, shards: Sequence[str], seed: str, shuffle: bool) -> ExampleSource:
        return ExampleSource(
            shards=shards,
            tokenizer=self.tokenizer,
            buffer_size=self.settings.shuffle_buffer,
            join_probability=self.settings.join_probability if shuffle else 0.0,
            with_other=self.collator.needs_other_codes,
            seed=seed,
            shuffle=shuffle,
        )

    def _grouped(self, source: ExampleSource) -> Iterator[list[Example]]:
        """Examples in batches of similar length and bounded size, or of `batch_size`."""
        settings = self.settings
        if not settings.use_dynamic_batchsize:
            examples = iter(source)
            while group := list(islice(examples, settings.batch_size)):
                yield group
            return
        # The engine of lhotse's DynamicBucketingSampler; the sampler itself draws otherwise in each loader process.
        seed = f"{source.seed} buckets"
        bucketer = DynamicBucketer(
            source,
            duration_bins=self._length_bins,
            world_size=1,
            constraint=PaddedTokens(settings.max_tokens, settings.max_sentences),
            buffer_size=settings.shuffle_buffer,
            shuffle=source.shuffle,
            rng=random.Random(seed),
            bucket_rng=random.Random(seed),
        )
        # An utterance longer than max_tokens is a batch of its own, as it should be.
        warnings.filterwarnings("ignore", message="We have exceeded the max_duration constraint")
        for batch in bucketer:
            yield list(batch)

    @cached_property
    def _length_bins(self) -> list[float]:
        """Bounds of the length buckets, each of which holds about as many examples."""
        first = self._epoch_shards(0)[: self.settings.shards_per_block]
        sample = islice(self._source(first, "lengths", shuffle=True), MEASURED_EXAMPLES)
        lengths = sorted(example.num_tokens for example in sample)
        share = len(lengths) / self.settings.num_buckets
        bins = {lengths[int(share * bucket)] for bucket in range(1, self.settings.num_buckets)}
        return sorted(float(bound) for bound in bins)

    def _loader(self, groups: Callable[[], Iterator[Group]]) -> Iterator[Batch]:
        if self.settings.use_dynamic_batchsize:
            _ = self._length_bins  # Measured once, here, not in each loader process of each epoch.
        # A generator of its own: the loader must not draw from the random state that dropout uses.
        loader = DataLoader(
            _Batches(groups, self.collator),
            batch_size=None,
            num_workers=self.settings.dataloader.num_worker,
            generator=torch.Generator(),
            worker_init_fn=worker_init,
        )
        advice = "lower train.dataloader.num_worker or train.shuffle_buffer, and go on with --resume true"
        try:
            yield from iterate(loader, advice)
        except WorkerDiedError:
            raise
        except UserError as error:
            # From a loader's process it comes with that process's traceback before it.
            raise UserError(str(error).splitlines()[-1].removeprefix("utils.errors.UserError: ")) from error
