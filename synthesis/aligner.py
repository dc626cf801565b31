"""Finds the words in generated codes, and what went wrong with them, through the model's own attention."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from models.contract import CodecLM, Reading, TokenizedRequest
from processors.text import TextTokenizer
from synthesis.alignment import attention_of_frames, free_path, log_scores, monotone_path
from synthesis.heads import Head, HeadChoice, choose_heads, measure_heads
from synthesis.suspects import Suspect, find_suspects
from synthesis.words import Word, find_owners, find_times, is_sound, split_words
from utils.log import log

# What a jump forward or backward costs, in log-probability of frames. Measured on utterances with phones cut out.
_FORWARD_COST, _BACKWARD_COST = 6.0, 8.0
# Batches whose prompts may be searched for heads that follow their text.
_MOST_SEARCHES = 3


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
    _num_searches: int = field(default=0, init=False)

    def heads(self, model: CodecLM, requests: Sequence[TokenizedRequest]) -> Sequence[Head]:
        """The heads that follow the text; none if no head does."""
        if self._num_searches == 0:
            self._choice = self.find_heads()
            self._report(self._choice)
        self._num_searches += 1
        if self._choice is None:
            # The codes of a prompt are true codes of a known text. But a text may be wrong: others get a chance.
            measured = measure_heads(model, [(self._prompt_ids(one), one.codes) for one in requests])
            choice = choose_heads(model, measured)
            if choice.heads or self._num_searches == _MOST_SEARCHES:
                self._choice = choice
                self._report(choice)
            return choice.heads
        return self._choice.heads

    def _prompt_ids(self, request: TokenizedRequest) -> list[int]:
        phones = self.tokenizer.spelled(request.ids[1 : request.target_start])
        while phones and not is_sound(phones[-1]):
            phones.pop()
        return self.tokenizer.ids([phone for phone in phones if phone])

    @staticmethod
    def _report(choice: HeadChoice | None) -> None:
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
        self, texts: Sequence[str], alignments: Sequence[Alignment | None], languages: Sequence[str] | None = None
    ) -> list[tuple[tuple[Word, ...], tuple[Suspect, ...]]]:
        """The words of each text as it is written, with their times, and suspects; none without an alignment.

        The phones of a word are found by those that it has alone: one call of the phonemizer for all texts.
        """
        words = [split_words(text) if own is not None else [] for text, own in zip(texts, alignments, strict=True)]
        own_languages = [""] * len(texts) if languages is None else languages
        pairs = [
            (word.strip(), language) for of_text, language in zip(words, own_languages, strict=True) for word in of_text
        ]
        alone = iter(self.tokenizer.phones([word for word, _ in pairs], [language for _, language in pairs]))
        results: list[tuple[tuple[Word, ...], tuple[Suspect, ...]]] = []
        for of_text, alignment in zip(words, alignments, strict=True):
            if alignment is None:
                results.append(((), ()))
                continue
            own = find_owners(alignment.phones[alignment.first :], [next(alone) for _ in of_text])
            owners = np.concatenate([np.full(alignment.first, -1), own])
            times = find_times(alignment.path, owners, of_text, self.frame_rate_hz)
            paths = alignment.free, alignment.path, alignment.phones, alignment.first
            suspects = find_suspects(*paths, owners, of_text, self.frame_rate_hz)
            results.append((tuple(times), tuple(suspects)))
        return results
