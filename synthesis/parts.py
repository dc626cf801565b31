"""Splits a text into parts that a model can synthesize, and joins the parts' audio. All functions are pure.

A text is split at `[pause 0.5s]`, between paragraphs and between sentences, at clauses if a sentence is too long, and
at words only if nothing else helps. `[[...]]`, which holds phones, is never split.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
import torch
from sentencex import segment
from torch import Tensor

from processors.inline import PHONES, find_pauses
from processors.normalization.phrases import find_phrases
from utils.prompts import find_sound

Phonemize = Callable[[Sequence[str]], list[list[str]]]
"""Gives the phones of each text."""

# The silence that is inserted after a comma, another mark in a sentence, a sentence, a paragraph. The neighbours keep
# `_EDGE_SECONDS` of their own in addition. In read speech (CMU ARCTIC, LJSpeech, VCTK and LibriTTS; pauses found by
# `find_sound`) the median is 0.23 s at 308 commas and 0.35 s at 6 semicolons. Too few of these texts have several
# sentences, so the pause of a sentence is set to twice a comma's, and that of a paragraph to twice a sentence's.
_COMMA_SECONDS, _CLAUSE_SECONDS, _SENTENCE_SECONDS, _PARAGRAPH_SECONDS = 0.13, 0.25, 0.4, 0.9
# How much of its own silence a part keeps on each side of a join.
_EDGE_SECONDS = 0.05
# Long enough to avoid a click, and much shorter than a phone.
_FADE_SECONDS = 0.01
# Pieces that are phonemized at once; bounds the memory that a book takes.
_PIECES_PER_CALL = 1000

_SURROGATES = re.compile("[\ud800-\udfff]")
_CLOSERS = "\"'”’»›)]}」』）】》〉］｝"
_OPENERS = "([{（【［｛"
_COMMAS = ",，、､،"
_CLAUSE_MARKS = _COMMAS + ";:!?…–—―；：！？。｡؛؟।॥"
# Marks that need no space after them.
_WIDE_MARKS = "。！？；：，、｡､…—―"
# Between digits these are part of a number: １０：３０.
_DIGIT_MARKS = tuple("。：，")
# Scripts without spaces between words, in which a character is a syllable or a word.
IDEOGRAPH = "[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
_CUT = re.compile(rf"\s+|[{_WIDE_MARKS}][{_WIDE_MARKS}{re.escape(_CLOSERS)}]*|(?<={IDEOGRAPH})(?={IDEOGRAPH})")
# Marks and quotes before a cut are looked for in this many characters.
_LOOK_BACK = 16


class Cut(IntEnum):
    """Where a text may be cut, from the best place to the worst."""

    SECTION = 0
    SENTENCE = 1
    CLAUSE = 2
    WORD = 3
    # Between the words of an abbreviation ("z. B."), the digits of a number ("10 000"), a number and its unit ("$5
    # million", "20 km"), a month and its day, a title or a Roman numeral and its name.
    INSIDE = 4


@dataclass(frozen=True)
class Part:
    """A part of a text: `text` begins at `start` and ends at a cut, and `pause_seconds` of silence follow.

    `num_phones` is an estimate.
    """

    text: str
    start: int
    num_phones: int
    cut: Cut
    pause_seconds: float = 0.0

    @property
    def overlaps(self) -> bool:
        """Whether the part ends within a clause, so that its audio overlaps that of the next part."""
        return self.cut >= Cut.WORD


@dataclass(frozen=True)
class _Piece:
    """A stretch of the text without further cuts, and what it ends at.

    `num_phones` is 0 before phones are counted. `pause_seconds` is given by a `[pause]` that follows.
    """

    start: int
    end: int
    cut: Cut
    pause_seconds: float | None = None
    num_phones: int = 0
    is_spoken: bool = True


def split_text(text: str, phonemize: Phonemize, max_phones: float, language: str) -> tuple[float, list[Part]]:
    """The seconds of a pause at the beginning, and the parts of `text.strip()`.

    A part has at most `max_phones` phones and word boundaries.

    One with more is a single word or `[[...]]`. Of all splits at the best places, the one with the fewest parts is
    taken, and of those the one with the most even parts. What lies between parts is white space, a pause, or has
    nothing that can be spoken. A text that cannot be spoken has no parts. `language` is a language code, for the
    abbreviations that sentencex knows. Raises UserError if the length of a `[pause]` is missing or too large.
    """
    text = text.strip()
    masked = _masked(text)
    pieces = _sections(masked)
    for worst in (Cut.SENTENCE, Cut.CLAUSE, Cut.WORD, Cut.INSIDE):
        divided: list[_Piece] = []
        for piece in pieces:
            is_fit = 0 < piece.num_phones <= max_phones
            divided += [piece] if is_fit else _divided(piece, masked, worst, language)
        pieces = _counted(divided, text, phonemize)
    lead_seconds, pieces = _without_unspoken(pieces, max_phones)
    parts = []
    for group in _grouped(pieces, max_phones):
        whole = text[group[0].start : group[-1].end]
        start = group[0].start + len(whole) - len(whole.lstrip())
        last = group[-1]
        pause_seconds = _pause_seconds(whole, last.cut) if last.pause_seconds is None else last.pause_seconds
        num_phones = sum(piece.num_phones for piece in group)
        parts.append(Part(whole.strip(), start, num_phones, last.cut, pause_seconds))
    if pieces and pieces[-1].pause_seconds is None:
        # Nothing follows the end of the text.
        parts[-1] = replace(parts[-1], cut=Cut.SECTION, pause_seconds=0.0)
    return lead_seconds, parts


def sentence_ends(text: str, language: str) -> list[int]:
    """Where the sentences of a text end: after the white space, in order. `language` is as in `split_text`."""
    return [end for end, cut in _cuts(_masked(text), language) if cut == Cut.SENTENCE]


def _masked(text: str) -> str:
    """The text with letters in place of inline phones, which must not be cut, and of surrogates."""
    return re.sub(PHONES, lambda match: "x" * len(match.group()), _SURROGATES.sub("x", text))


def _sections(text: str) -> list[_Piece]:
    """The stretches of a text between pauses and paragraphs; some may be empty."""
    ends: list[tuple[int, int, float | None]] = list(find_pauses(text))
    for match in re.finditer(r"\s+", text):
        num_breaks = len(f".{match.group()}.".splitlines()) - 1
        if num_breaks > 1 or "\u2029" in match.group():
            ends.append((*match.span(), None))
    starts = [0, *(next_start for _, next_start, _ in sorted(ends))]
    return [
        _Piece(start, end, Cut.SECTION, seconds)
        for start, (end, _, seconds) in zip(starts, [*sorted(ends), (len(text), len(text), None)], strict=True)
    ]


def _divided(piece: _Piece, text: str, worst: Cut, language: str) -> list[_Piece]:
    """A piece divided at all places that are `worst` or better."""
    pieces, start = [], piece.start
    for end, cut in _cuts(text[piece.start : piece.end], language):
        if cut <= worst:
            pieces.append(_Piece(start, piece.start + end, cut))
            start = piece.start + end
    # A piece that is not divided keeps its count.
    return [*pieces, replace(piece, start=start, num_phones=0)] if pieces else [piece]


def _cuts(text: str, language: str) -> Iterator[tuple[int, Cut]]:
    """All places where a text may be cut: what is before the first offset, between the offsets, and after the last.

    Sentences are those of sentencex, but end only where words end: `a.b` is not divided.
    """
    sentence_ends, end = [], 0
    for sentence in segment(language, text):
        end += len(sentence)
        sentence_ends.append(end)
    inside = {position for start, end in find_phrases(text, language) for position in range(start + 1, end)}
    for match in _CUT.finditer(text):
        is_space = match.group().isspace()
        last = match.start() if is_space else match.end()
        before, after = text[max(0, last - _LOOK_BACK) : last], text[match.end() : match.end() + 1]
        # A mark with white space after it is cut after the white space.
        if not before or not after or (after.isspace() and not is_space):
            continue
        # Sentencex may end a sentence before or after the white space.
        index = bisect_left(sentence_ends, match.start() if is_space else match.start() + 1)
        ends_sentence = index < len(sentence_ends) and sentence_ends[index] <= match.end()
        is_between_digits = after.isdigit() and text[match.start() - 1 : match.start()].isdigit()
        if is_between_digits and match.group() in _DIGIT_MARKS:
            continue
        if (is_between_digits and is_space) or match.start() in inside:
            cut = Cut.INSIDE
        elif ends_sentence:
            cut = Cut.SENTENCE
        else:
            cut = _cut_in_sentence(before, after)
        yield match.end(), cut


def _cut_in_sentence(before: str, after: str) -> Cut:
    """What a cut between two characters of a sentence is, given the text before it without white space."""
    unquoted = before.rstrip(_CLOSERS)
    if before.endswith(".") and not before.endswith(".."):
        # A full stop that ends no sentence is that of an abbreviation.
        return Cut.INSIDE
    is_clause = (
        unquoted.endswith((".", *_CLAUSE_MARKS)) or after in _OPENERS or before.endswith(")") or before[-2:] == " -"
    )
    return Cut.CLAUSE if is_clause else Cut.WORD


def _counted(pieces: Sequence[_Piece], text: str, phonemize: Phonemize) -> list[_Piece]:
    """The pieces with their numbers of phones, each with a word boundary after it."""
    counted = list(pieces)
    uncounted = [index for index, piece in enumerate(pieces) if not piece.num_phones]
    for first in range(0, len(uncounted), _PIECES_PER_CALL):
        indexes = uncounted[first : first + _PIECES_PER_CALL]
        rows = phonemize([text[pieces[index].start : pieces[index].end] for index in indexes])
        for index, phones in zip(indexes, rows, strict=True):
            is_spoken = any(phone.isalnum() for phone in phones)
            counted[index] = replace(pieces[index], num_phones=len(phones) + 1, is_spoken=is_spoken)
    return counted


def _without_unspoken(pieces: Sequence[_Piece], max_phones: float) -> tuple[float, list[_Piece]]:
    """Pieces that all have something to speak, and the seconds of the pauses before the first one.

    Marks that stand alone go to a neighbour in their section. Where there is none they are left out, and the pauses
    around them add up.
    """
    merged: list[_Piece] = []
    for piece in pieces:
        last = merged[-1] if merged else None
        if (
            last is not None
            and last.cut != Cut.SECTION
            and not (last.is_spoken and piece.is_spoken)
            and last.num_phones + piece.num_phones <= max_phones
        ):
            num_phones, is_spoken = last.num_phones + piece.num_phones, last.is_spoken or piece.is_spoken
            merged[-1] = replace(piece, start=last.start, num_phones=num_phones, is_spoken=is_spoken)
        else:
            merged.append(piece)
    lead_seconds, spoken = 0.0, []
    for piece in merged:
        if piece.is_spoken:
            spoken.append(piece)
        elif not spoken:
            lead_seconds += piece.pause_seconds or 0.0
        else:
            seconds = spoken[-1].pause_seconds
            if piece.pause_seconds is not None:
                seconds = (seconds or 0.0) + piece.pause_seconds
            # Nothing may be joined over what is left out.
            spoken[-1] = replace(spoken[-1], cut=Cut.SECTION, pause_seconds=seconds)
    return lead_seconds, spoken


def _grouped(pieces: Sequence[_Piece], max_phones: float) -> list[Sequence[_Piece]]:
    """The pieces of each part: the grouping with the lowest cost, by dynamic programming.

    The cost counts cuts, the worst kind first, then parts, then the squares of their phones. No part spans sections.
    """
    # For each number of pieces, the lowest cost and where the last part begins.
    best: list[tuple[tuple[int, ...], int]] = [((0, 0, 0, 0, 0), 0)]
    for end in range(1, len(pieces) + 1):
        cut, num_phones = pieces[end - 1].cut, 0
        options = []
        for start in range(end - 1, -1, -1):
            num_phones += pieces[start].num_phones
            if start < end - 1 and (num_phones > max_phones or pieces[start].cut == Cut.SECTION):
                break
            own = (cut == Cut.INSIDE, cut == Cut.WORD, cut == Cut.CLAUSE, 1, num_phones**2)
            options.append((tuple(a + b for a, b in zip(best[start][0], own, strict=True)), start))
        best.append(min(options))
    groups, end = [], len(pieces)
    while end:
        start = best[end][1]
        groups.append(pieces[start:end])
        end = start
    return groups[::-1]


def _pause_seconds(text: str, cut: Cut) -> float:
    """The pause after a text that ends at a cut."""
    if cut == Cut.SECTION:
        return _PARAGRAPH_SECONDS
    if cut == Cut.SENTENCE:
        return _SENTENCE_SECONDS
    if cut == Cut.CLAUSE:
        mark = text.rstrip().rstrip(_CLOSERS)[-1:]
        return _COMMA_SECONDS if mark and mark in _COMMAS else _CLAUSE_SECONDS
    return 0.0


def join_part(
    audio: Tensor,
    part: Part,
    sample_rate_hz: int,
    overlap: Tensor,
    is_first: bool,
    is_last: bool,
    change: Callable[[Tensor], Tensor] = lambda audio: audio,
    num_sent: int = 0,
) -> tuple[Tensor, Tensor, int, int]:
    """Prepare the audio (N,) of a part to be appended to that of the parts before it.

    `change` is applied to the audio between the silence that is removed at its ends.

    Returns the samples to append, with the pause after the part; the faded end that the next part overlaps, which is
    not among them; how many samples the part itself takes, its faded end included; and how many were removed from its
    start. `overlap` is the end that the part before left. At joins, silence is replaced by the pause, and the audio is
    faded, never scaled. A text of one part keeps its audio unchanged, as do the first `num_sent` samples of any.
    """
    num_fade = round(_FADE_SECONDS * sample_rate_hz)
    num_pause = round(part.pause_seconds * sample_rate_hz)
    is_followed = not is_last or num_pause > 0
    is_joined = not is_first or is_followed
    num_removed = 0
    if is_joined:
        num_removed, end = _sound_span(audio, sample_rate_hz, at_start=not is_first, at_end=is_followed)
        audio = audio[num_removed : max(end, num_sent)]
    audio = change(audio)
    if is_joined:
        num_fade = min(num_fade, len(audio) // 2, len(audio) - num_sent)
        # The gains of the two sides of an overlap add up to 1.
        rise = (torch.arange(num_fade, dtype=audio.dtype) + 0.5) / max(1, num_fade)
        audio = audio.clone()
        if not is_first:
            audio[:num_fade] *= rise
        if is_followed:
            audio[len(audio) - num_fade :] *= rise.flip(0)
        if len(overlap):
            audio = torch.nn.functional.pad(audio, (0, max(0, len(overlap) - len(audio))))
            audio[: len(overlap)] += overlap
    if part.overlaps and is_followed:
        return audio[: len(audio) - num_fade], audio[len(audio) - num_fade :], len(audio), num_removed
    return torch.nn.functional.pad(audio, (0, num_pause)), audio[:0], len(audio), num_removed


def _sound_span(audio: Tensor, sample_rate_hz: int, at_start: bool, at_end: bool) -> tuple[int, int]:
    """What is kept of audio (N,): at most `_EDGE_SECONDS` of silence at the chosen ends, or all if it is silent."""
    hop = round(0.01 * sample_rate_hz)
    sounds = np.flatnonzero(find_sound(audio.numpy(), sample_rate_hz))
    if not len(sounds):
        return 0, len(audio)
    edge = round(_EDGE_SECONDS * sample_rate_hz)
    start = max(0, int(sounds[0]) * hop - edge) if at_start else 0
    end = (int(sounds[-1]) + 2) * hop + edge if at_end else len(audio)
    return start, min(end, len(audio))
