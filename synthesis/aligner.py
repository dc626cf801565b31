"""Finds the words in generated codes, and what went wrong with them, through the model's own attention."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal

import numpy as np

from models.contract import CodecLM, Reading, TokenizedRequest
from processors.text import TextTokenizer
from synthesis.alignment import attention_of_frames, free_path, log_scores, monotone_path
from synthesis.heads import Head, HeadChoice, choose_heads, measure_heads
from synthesis.words import Word, find_owners, find_times, is_sound, split_words
from utils.log import log

Problem = Literal["skipped", "repeated", "tail", "prompt"]
"""skipped: phones of the word are missing; repeated: it is spoken again; tail: the speech goes on after the end of the
text, or stays at the word; prompt: the prompt's text is spoken."""

# What a jump forward or backward costs, in log-probability of frames. Measured on utterances with phones cut out.
_FORWARD_COST, _BACKWARD_COST = 6.0, 8.0
# A suspect has at least this many phones that are skipped, or spoken again.
_FEWEST_PHONES = 3
# So long one phone or the end of the text may last, and so short is a stay in the prompt's text that does not count.
_LONGEST_STAY_SECONDS, _SHORTEST_LEAK_SECONDS = 1.0, 0.2


@dataclass(frozen=True)
class Suspect:
    """A word that may be wrong, when, in seconds, and how."""

    problem: Problem
    word: str
    time: float


@dataclass(frozen=True)
class Alignment:
    """Frames on the phones of a text.

    `phones` are those of the prompt and the target, and the end of the text, the empty string; the target's are from
    `first` on. `path` (T,) only advances, from the first phone of the target to the end. `free` (T,) may skip and
    repeat phones. `attention` (T, S) is what they follow.
    """

    phones: list[str]
    first: int
    path: np.ndarray
    free: np.ndarray
    attention: np.ndarray

    @property
    def coverage(self) -> float:
        """From 0 to 1: how well the frames are those of the text, and how well the text is spoken.

        The harmonic mean of two means of the attention along the path: over frames, low where something else is spoken,
        and over phones, low where one is skipped.
        """
        along = self.attention[np.arange(len(self.path)), self.path]
        sounds = [index for index in range(self.first, len(self.phones)) if is_sound(self.phones[index])]
        is_at = self.path[:, None] == sounds
        of_phones = (along[:, None] * is_at).sum(0) / np.maximum(1, is_at.sum(0))
        frames, phones = float(along.mean()), float(of_phones.mean()) if sounds else 0.0
        return 2 * frames * phones / max(1e-9, frames + phones)


@dataclass
class TextAligner:
    """Aligns codes with texts by the attention heads of `find_heads`, which is called at the first use.

    It gives None if there is no validation data. The heads are then those that follow the text of the first prompts.
    """

    tokenizer: TextTokenizer
    frame_rate_hz: float
    find_heads: Callable[[], HeadChoice | None]
    _choice: HeadChoice | None = field(default=None, init=False)
    _has_searched: bool = field(default=False, init=False)

    def heads(self, model: CodecLM, requests: Sequence[TokenizedRequest]) -> Sequence[Head]:
        """The heads that follow the text; none if no head does."""
        if not self._has_searched:
            self._choice, self._has_searched = self.find_heads(), True
            self._report()
        if self._choice is None:
            # Codes of a prompt are true codes of a known text. One prompt may have a wrong text: the next ones count.
            measured = measure_heads(model, [(self._prompt_ids(one), one.codes) for one in requests])
            choice = choose_heads(model, measured)
            if choice.heads:
                self._choice = choice
                self._report()
            return choice.heads
        return self._choice.heads

    def _prompt_ids(self, request: TokenizedRequest) -> list[int]:
        phones = self.tokenizer.spelled(request.ids[1 : request.target_start])
        while phones and not is_sound(phones[-1]):
            phones.pop()
        return self.tokenizer.ids([phone for phone in phones if phone])

    def _report(self) -> None:
        choice = self._choice
        if choice is None:
            log.info("no validation data for choosing attention heads: they are chosen by the prompts")
        elif not choice.heads:
            log.warning(
                "no attention head follows the text (%.2f, and %.2f is needed): results have no word times; train "
                "longer, or set infer.word_times to false",
                *(choice.best, choice.needed),
            )

    def align(self, request: TokenizedRequest, reading: Reading, continual: bool, frames_per_step: int) -> Alignment:
        """Align the new codes of a request, or with `continual` the prompt's and the new ones together."""
        num_prompt, num_new = len(request.codes), len(reading.log_probabilities) - 1
        start, num_frames = (0, num_prompt + num_new) if continual else (num_prompt, num_new)
        # Without bos. A blank belongs to the phone after it.
        spelled = [*self.tokenizer.spelled(request.ids[1:-1]), "</s>"]
        kept = [index for index, phone in enumerate(spelled) if phone]
        starts = [0, *(index + 1 for index in kept[:-1])]
        steps = reading.attention[:, start // frames_per_step :, 1:].numpy()
        attention = attention_of_frames(np.add.reduceat(steps, starts, axis=2), frames_per_step, num_frames)
        phones = [spelled[index] for index in kept[:-1]] + [""]
        first = next(number for number, index in enumerate(kept) if index + 1 >= request.target_start)
        # A released model's target begins with the word boundary.
        while first < len(phones) - 1 and not is_sound(phones[first]):
            first += 1
        scores = log_scores(attention)
        path = first + monotone_path(scores[:, first:])
        return Alignment(phones, first, path, free_path(scores, first, _FORWARD_COST, _BACKWARD_COST), attention)

    def find_words(
        self, texts: Sequence[str], alignments: Sequence[Alignment]
    ) -> list[tuple[list[Word], list[Suspect]]]:
        """The words of each text as it is written, with their times, and suspects; one call of the phonemizer.

        A word's phones are found by those that it has alone.
        """
        words = [split_words(text) for text in texts]
        alone = iter(self.tokenizer.phones([word.strip() for of_text in words for word in of_text]))
        results = []
        for of_text, alignment in zip(words, alignments, strict=True):
            own = find_owners(alignment.phones[alignment.first :], [next(alone) for _ in of_text])
            owners = np.concatenate([np.full(alignment.first, -1), own])
            times = find_times(alignment.path, owners, of_text, self.frame_rate_hz)
            results.append((times, self._suspects(alignment, owners, of_text)))
        return results

    def _suspects(self, alignment: Alignment, owners: np.ndarray, words: Sequence[str]) -> list[Suspect]:
        """What is wrong with the path that may skip and repeat phones, in the order of time."""
        free, first = alignment.free, alignment.first
        sounds = np.array([is_sound(phone) for phone in alignment.phones])
        rate_hz = self.frame_rate_hz

        def word_at(phone: int) -> str:
            known = np.flatnonzero(owners >= 0)
            return words[owners[known[np.abs(known - phone).argmin()]]].strip() if len(known) else ""

        found: list[Suspect] = []
        # Runs of phones that no frame speaks, the end of the text included.
        is_missing = sounds & (np.arange(len(sounds)) >= first) & ~np.isin(np.arange(len(sounds)), free)
        run: list[int] = []
        for phone in [*range(first, len(sounds)), -1]:
            if phone >= 0 and (is_missing[phone] or (run and not sounds[phone])):
                run.append(phone)
                continue
            missing = [index for index in run if is_missing[index]]
            if len(missing) >= _FEWEST_PHONES:
                time = float(np.searchsorted(alignment.path, missing[0])) / rate_hz
                names = dict.fromkeys(word_at(index) for index in missing)
                found += [Suspect("skipped", name, time) for name in names]
            run = []
        for frame in range(1, len(free)):
            before, now = free[frame - 1], free[frame]
            if first <= now < before and sounds[now : before + 1].sum() >= _FEWEST_PHONES:
                found.append(Suspect("repeated", word_at(now), frame / rate_hz))
        # How long the path stays at one phone, at the end of the text, or in the prompt's text.
        places = [-1 if phone < first else min(int(phone), len(sounds) - 1) for phone in free]
        last = np.flatnonzero(sounds)[-1] if sounds.any() else 0
        places = [len(sounds) if place > last else place for place in places]
        frame = 0
        for place, same in groupby(places):
            num_frames = len(list(same))
            seconds = num_frames / rate_hz
            if place == -1 and seconds >= _SHORTEST_LEAK_SECONDS:
                found.append(Suspect("prompt", word_at(int(alignment.path[frame])), frame / rate_hz))
            elif place >= 0 and seconds > _LONGEST_STAY_SECONDS and (place == len(sounds) or sounds[place]):
                found.append(Suspect("tail", word_at(min(place, len(sounds) - 1)), frame / rate_hz))
            frame += num_frames
        return sorted(found, key=lambda suspect: suspect.time)
