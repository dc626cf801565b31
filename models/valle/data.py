"""From shards to batches: shuffling, pairing by speaker, length buckets, and a position that can be resumed."""

import hashlib
import json
import math
import random
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice

import numpy as np
import torch
from lhotse.dataset.sampling.base import SamplingConstraint
from lhotse.dataset.sampling.dynamic_bucketing import DynamicBucketer
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from config.schema import TrainSettings
from models.valle.batch import START, Batch, Collator, Example, Place
from models.valle.interfaces import Tokenizer
from processors.manifest import Utterance, corpus_of, read_shards
from utils.errors import UserError
from utils.signals import expect_helpers_to_end, ignore_in_helper

WORD_BOUNDARY = "_"
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
class ExampleSource:
    """The examples of some shards, in an order that the seed determines.

    Utterances are shuffled within a buffer; from that buffer come an utterance's partners: the other utterance of its
    speaker that it may be joined to, and the one that `prefix_mode` 4 takes a segment from. Without `shuffle`
    (validation) the order is that on disk, and nothing is drawn.
    """

    shards: Sequence[str]
    tokenizer: Tokenizer
    buffer_size: int
    join_probability: float
    with_other: bool
    seed: str
    shuffle: bool

    def __iter__(self) -> Iterator[Example]:
        rng = random.Random(self.seed)
        waiting: list[Utterance] = []
        by_speaker: dict[str, list[Utterance]] = defaultdict(list)
        source = _read_all(self.shards)
        for utterance in source:
            self._hold(utterance, waiting, by_speaker, rng)
            if len(waiting) >= self.buffer_size:
                break
        while waiting:
            utterance = self._release(waiting, by_speaker)
            yield self._example(utterance, by_speaker[utterance.speaker], rng)
            for _ in range(self.buffer_size - len(waiting)):
                following = next(source, None)
                if following is None:
                    break
                self._hold(following, waiting, by_speaker, rng)

    def _hold(
        self, utterance: Utterance, waiting: list[Utterance], by_speaker: dict[str, list[Utterance]], rng: random.Random
    ) -> None:
        """Put an utterance at a random place of the buffer."""
        waiting.append(utterance)
        by_speaker[utterance.speaker].append(utterance)
        if self.shuffle:
            place = rng.randrange(len(waiting))
            waiting[place], waiting[-1] = waiting[-1], waiting[place]

    def _release(self, waiting: list[Utterance], by_speaker: dict[str, list[Utterance]]) -> Utterance:
        """Take the last one out; its speaker's list keeps at least two, for those that come after."""
        utterance = waiting.pop() if self.shuffle else waiting.pop(0)
        of_speaker = by_speaker[utterance.speaker]
        if len(of_speaker) > 2:
            of_speaker.pop(next(i for i, other in enumerate(of_speaker) if other.id == utterance.id))
        return utterance

    def _example(self, utterance: Utterance, of_speaker: Sequence[Utterance], rng: random.Random) -> Example:
        other_codes = None
        if self.join_probability or self.with_other:
            others = [other for other in of_speaker if other.id != utterance.id]
            if others and self.with_other:
                other_codes = (rng.choice(others) if self.shuffle else others[0]).codes
            if others and rng.random() < self.join_probability:
                utterance = join(utterance, rng.choice(others))
        return Example(utterance, tuple(self.tokenizer.ids(utterance.phones)), other_codes)


def _read_all(shards: Sequence[str]) -> Iterator[Utterance]:
    """The utterances of shards; ids and speakers of different corpora stay apart."""
    for shard in shards:
        dataset = corpus_of(shard)
        for utterance in read_shards([shard]):
            yield replace(utterance, id=f"{dataset}/{utterance.id}", speaker=f"{dataset}/{utterance.speaker}")


def join(first: Utterance, second: Utterance) -> Utterance:
    """Two utterances of a speaker as one, as a prompt and its target are at inference."""
    return replace(
        first,
        id=f"{first.id}+{second.id}",
        text=f"{first.text} {second.text}",
        phones=(*first.phones, WORD_BOUNDARY, *second.phones),
        codes=np.concatenate([first.codes, second.codes]),
    )


@dataclass(frozen=True)
class Group:
    """The examples of a batch, the seed of what is drawn for it, and where an epoch goes on behind it."""

    examples: list[Example]
    seed: str | None
    end: Place


@dataclass(frozen=True)
class _Batches(IterableDataset):
    """Collates groups of examples in the loader's processes.

    Each process forms all groups and collates every n-th, which the loader takes in turn: the order is the same
    with any number of processes, and the training process never waits for a shard to be read.
    """

    groups: Callable[[], Iterator[Group]]
    collator: Collator

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for group in islice(self.groups(), first, None, step):
            yield self.collator(group.examples, None if group.seed is None else random.Random(group.seed), group.end)


@dataclass(frozen=True)
class TrainData:
    """The training batches of each epoch, dealt to processes, and the fixed ones for validation.

    Shards are read one after another, and none is kept. An epoch is cut into blocks of `shards_per_block`, each of
    which is shuffled and bucketed by itself: to go on in the midst of an epoch, no block before that one is read, but
    for the few examples that lengths are measured on.
    """

    train_shards: Sequence[str]
    valid_shards: Sequence[str]
    tokenizer: Tokenizer
    collator: Collator
    settings: TrainSettings
    rank: int = 0
    world_size: int = 1

    def batches(self, epoch: int, start: Place = START) -> Iterator[Batch]:
        """The batches of an epoch for this process, from a place on.

        What a batch holds depends on the seed, the epoch and its place alone: not on the number of processes, nor on
        whether training was interrupted. Every process gets equally many.
        """
        return self._loader(partial(self._train_groups, epoch, start))

    def fingerprint(self) -> str:
        """Changes with whatever decides which shards a block of an epoch has, wherever they lie."""
        settings = self.settings.model_dump(include={"shards_per_block", "dataset_weights", "random_seed"})
        shards = [shard.rsplit("/", 3)[1:] for shard in self.train_shards]
        return hashlib.sha256(json.dumps([settings, shards], sort_keys=True).encode()).hexdigest()

    def valid_batches(self) -> Iterator[Batch]:
        """The same batches each time, with nothing drawn."""
        return self._loader(self._valid_groups)

    def valid_examples(self, num: int) -> list[Example]:
        """The first validation examples, to speak as samples."""
        return list(islice(self._source(self.valid_shards, "", shuffle=False), num))

    def _train_groups(self, epoch: int, start: Place) -> Iterator[Group]:
        """This process's share of an epoch's groups: one of every `world_size`."""
        dealt: list[Group] = []
        for group in self._epoch_groups(epoch, start.block):
            if group.end.groups_done == 1:
                filler = replace(group, examples=group.examples[:1])
            if group.end <= start:
                continue
            dealt.append(group)
            if len(dealt) == self.world_size:
                yield replace(dealt[self.rank], end=group.end)
                dealt = []
        if dealt:
            # At the end, so that no process waits for another, those without a group take one utterance again.
            yield replace((dealt + [filler] * self.world_size)[self.rank], end=group.end)

    def _epoch_groups(self, epoch: int, first_block: int) -> Iterator[Group]:
        """Every group from the beginning of a block on."""
        shards, size = self._epoch_shards(epoch), self.settings.shards_per_block
        for block in range(first_block, -(-len(shards) // size)):
            seed = f"{self.settings.random_seed} {epoch} {block}"
            source = self._source(shards[block * size : (block + 1) * size], seed, shuffle=True)
            for index, examples in enumerate(self._grouped(source)):
                yield Group(examples, f"{seed} {index}", Place(block, index + 1))

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
            yield Group(examples, None, START)

    def _source(self, shards: Sequence[str], seed: str, shuffle: bool) -> ExampleSource:
        return ExampleSource(
            shards=shards,
            tokenizer=self.tokenizer,
            buffer_size=self.settings.shuffle_buffer,
            join_probability=self.settings.join_probability if shuffle else 0.0,
            with_other=self.collator.for_nar and self.collator.prefix_mode == 4,
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
            worker_init_fn=ignore_in_helper,
        )
        batches = iter(loader)
        if self.settings.dataloader.num_worker:
            expect_helpers_to_end()
        try:
            yield from batches
        except UserError as error:
            # From a loader's process it comes with that process's traceback before it.
            raise UserError(str(error).splitlines()[-1].removeprefix("utils.errors.UserError: ")) from error
