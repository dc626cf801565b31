"""Candidates of a text: several continuations of one prompt, of which the best goes on."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from config.schema import InferSettings
from models.contract import CodecLM, Generation, Reading, TokenizedRequest
from synthesis.aligner import Alignment, Head, TextAligner
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


def best_of(drafts: Sequence[Generation], scores: Sequence[float]) -> int:
    """The index of the best candidate: one that ended by itself before one that did not, then the highest score.

    Loops and silence, which are likely and never end, do not win by their score.
    """
    order = {"eos": 2, "floor": 1, "cap": 0}
    ranks = [(order[draft.stop_reason], score) for draft, score in zip(drafts, scores, strict=True)]
    return ranks.index(max(ranks))


def choose(
    model: CodecLM,
    settings: InferSettings,
    aligner: TextAligner | None,
    heads: Sequence[Head],
    items: Sequence[TokenizedRequest],
    rows: Sequence[TokenizedRequest],
    drafts: Sequence[Generation],
    continual: bool,
    listen: Callable[[], list[float]],
) -> list[Take]:
    """The best candidate of each item, completed, with its alignment by the aligner's `heads` if there are any.

    `rows` and `drafts` are those of all candidates, `num_candidates` for each item. `listen` gives the scores of all
    for `rank_by` asr, whose drafts must be complete. A single candidate is a complete generation, too. Raises UserError
    if candidates cannot be ranked as the settings ask.
    """
    num, rank_by = settings.num_candidates, settings.rank_by
    if num > 1 and rank_by == "coverage" and not heads:
        raise UserError(
            "infer.rank_by: coverage needs infer.word_times and an attention head that follows the text; set it to "
            "likelihood, or train longer"
        )
    # One pass over all candidates gives their log-probabilities and their attention.
    needs_reading = bool(heads) or (num > 1 and rank_by == "likelihood")
    readings = model.read_codes(rows, [draft.codes for draft in drafts], heads) if needs_reading else []
    aligned: dict[int, Alignment] = {}

    def align(index: int) -> Alignment:
        assert aligner is not None
        if index not in aligned:
            aligned[index] = aligner.align(rows[index], readings[index], continual, model.frames_per_step)
        return aligned[index]

    scores: list[float] = []
    if num > 1 and rank_by == "likelihood":
        scores = [likelihood(reading, draft) for reading, draft in zip(readings, drafts, strict=True)]
    elif num > 1 and rank_by == "coverage":
        scores = [align(index).coverage for index in range(len(rows))]
    elif num > 1:
        scores = listen()
    spans = [slice(first, first + num) for first in range(0, len(rows), num)]
    best = [span.start + (best_of(drafts[span], scores[span]) if num > 1 else 0) for span in spans]
    chosen = [drafts[index] for index in best]
    # Only what was chosen goes through the NAR.
    if num > 1 and rank_by != "asr":
        chosen = model.complete(items, chosen)
    return [
        Take(
            row.codes,
            row.stop_reason,
            row.vectors,
            align(index) if heads else None,
            index - span.start,
            tuple(scores[span]),
        )
        for row, index, span in zip(chosen, best, spans, strict=True)
    ]
