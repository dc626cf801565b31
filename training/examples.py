"""From shards to examples: shuffled, and paired by speaker."""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from models.contract import Example
from processors.manifest import Utterance, corpus_of, read_shards
from processors.symbols import join_phones
from processors.text import TextTokenizer


@dataclass(frozen=True)
class ExampleSource:
    """The examples of some shards, in an order that the seed determines.

    Utterances are shuffled within a buffer; from that buffer come an utterance's partners: the other utterance of its
    speaker that it may be joined to, and the one that `prefix_mode` 4 takes a segment from. Without `shuffle`
    (validation) the order is that on disk, and nothing is drawn.
    """

    shards: Sequence[str]
    tokenizer: TextTokenizer
    buffer_size: int
    join_probability: float
    with_other: bool
    seed: str
    shuffle: bool

    def __iter__(self) -> Iterator[Example]:
        rng = random.Random(self.seed)
        waiting: list[Utterance] = []
        by_speaker: dict[str, list[Utterance]] = defaultdict(list)
        source = read_utterances(self.shards)
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
        return Example(tuple(self.tokenizer.ids(utterance.phones)), utterance.codes, other_codes)


def read_utterances(shards: Sequence[str]) -> Iterator[Utterance]:
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
        phones=tuple(join_phones(first.phones, second.phones)),
        codes=np.concatenate([first.codes, second.codes]),
    )
