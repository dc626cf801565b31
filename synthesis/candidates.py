"""Candidates of a text: several continuations of one prompt, of which the best goes on."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from config.schema import InferSettings
from models.contract import CodecLM, Generation, Reading
from synthesis.aligner import Alignment
from utils.errors import UserError

ErrorRate = Callable[[Tensor, int, str], float]
"""The share of words of a text that a recognizer does not find in audio (N,) at a sample rate."""


@dataclass(frozen=True)
class Take(Generation):
    """The generation of a text, with its alignment if there is one.

    `candidate` is its number among all candidates, and `scores` are those of all, higher for better; none if there was
    nothing to choose from.
    """

    alignment: Alignment | None = None
    candidate: int = 0
    scores: tuple[float, ...] = ()


def candidate_seed(seed: int, number: int) -> int:
    """The seed of a candidate, which depends on nothing else. The first has the seed of the text itself."""
    if number == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"candidate {number} of {seed}".encode()).digest()[:4], "big")


def check_candidates(model: CodecLM, settings: InferSettings) -> None:
    """Raises UserError if the model cannot rank candidates as the settings ask."""
    if settings.num_candidates > 1 and settings.rank_by != "asr" and not model.reads_codes:
        raise UserError(
            f"infer.rank_by: {type(model).__name__} does not score codes, as {settings.rank_by} needs; set it to asr, "
            "or infer.num_candidates to 1"
        )


def likelihood(reading: Reading, draft: Generation) -> float:
    """The mean log-probability of a code, the end of speech included if it was predicted.

    The mean, so that long speech is not worse than short speech.
    """
    count = len(draft.codes) + int(draft.stop_reason != "cap")
    return float(reading.log_probabilities[:count].mean())


def coverage_of(alignment: Alignment | None) -> float:
    """Raises UserError if there is no alignment."""
    if alignment is None:
        raise UserError(
            "infer.rank_by: coverage needs infer.word_times and attention heads that follow the text; set it to "
            "likelihood, or train longer"
        )
    return alignment.coverage


def best_of(drafts: Sequence[Generation], scores: Sequence[float]) -> int:
    """The index of the best candidate: one that ended by itself before one that did not, then the highest score.

    Loops and silence, which are likely and never end, do not win by their score.
    """
    order = {"eos": 2, "floor": 1, "cap": 0}
    if len(drafts) == 1:
        return 0
    ranks = [(order[draft.stop_reason], score) for draft, score in zip(drafts, scores, strict=True)]
    return ranks.index(max(ranks))
