"""Splits of corpora that have none of their own, and the order of rows in shards."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

from config.schema import PreprocessSettings
from processors.features import UtteranceReader
from processors.manifest import SourceUtterance, Split

# Rounds of replacing units that cannot be read.
_MOST_LOOKED_AT = 100
AUTO_MIN_SPEAKERS = 20  # From this many on, `split_by` auto keeps speakers whole.


@dataclass(frozen=True)
class FoundUtterance:
    """An utterance as its reader found it; `split` is None where the corpus has no splits.

    `problem` is the reason why stage 1 cannot use the row, where the reader of the corpus knows one. `language` is ""
    where the corpus names none. `place` is the file and line of the text, for error lines.
    """

    id: str
    audio_path: str
    text: str | None
    speaker: str
    split: Split | None = None
    start_seconds: float = 0.0
    duration_seconds: float | None = None
    problem: str | None = None
    language: str = ""
    place: str = ""


def assign_splits(rows: Sequence[FoundUtterance], settings: PreprocessSettings) -> list[SourceUtterance]:
    """Give every row its split: its own where any row has one (the others then train), else that of `hash_splits`."""
    if any(row.split for row in rows):
        splits: list[Split] = [row.split or "train" for row in rows]
    else:
        splits = hash_splits(rows, settings)
    return [_with_split(row, split) for row, split in zip(rows, splits, strict=True)]


def _with_split(row: FoundUtterance | SourceUtterance, split: Split) -> SourceUtterance:
    return SourceUtterance(**{**vars(row), "split": split})


def hash_splits(rows: Sequence[FoundUtterance | SourceUtterance], settings: PreprocessSettings) -> list[Split]:
    """The split of each row, from a hash of (`split_seed`, its unit) alone.

    A unit is a speaker or an utterance (`split_unit`). Only units with a usable row take part, so that no part is empty
    because all of its rows fail; a unit without one trains. As its place does not depend on the other units, adding
    data moves nothing, but for two things: with three units or more, a part whose fraction is above 0 is never empty
    (the units with the smallest hashes go to valid, the next to test), and one unit always stays to train on.
    """
    by_speaker = split_unit(rows, settings) == "speaker"
    units = [row.speaker if by_speaker else row.id for row in rows]
    usable: dict[str, list[FoundUtterance | SourceUtterance]] = {}
    for unit, row in zip(units, rows, strict=True):
        if is_usable(row, settings):
            usable.setdefault(unit, []).append(row)
    ranked = sorted(usable or set(units), key=lambda unit: (_hash_fraction(settings.split_seed, unit), unit))
    if usable:
        ranked = _with_readable_parts(ranked, usable, settings)
    valid_end, test_end = _part_ends(ranked, settings)
    split_of: dict[str, Split] = {}
    for rank, unit in enumerate(ranked):
        split_of[unit] = "valid" if rank < valid_end else "test" if rank < test_end else "train"
    return [split_of.get(unit, "train") for unit in units]


def _part_ends(ranked: Sequence[str], settings: PreprocessSettings) -> tuple[int, int]:
    """Where valid ends and where test ends among units that are sorted by their hash."""
    fractions = [_hash_fraction(settings.split_seed, unit) for unit in ranked]
    valid_end = sum(fraction < settings.valid_fraction for fraction in fractions)
    test_end = sum(fraction < settings.valid_fraction + settings.test_fraction for fraction in fractions)
    guaranteed = len(ranked) >= 3
    min_valid, min_test = (
        int(guaranteed and fraction > 0) for fraction in (settings.valid_fraction, settings.test_fraction)
    )
    valid_end = max(valid_end, min_valid)
    test_end = min(max(test_end, valid_end + min_test), len(ranked) - 1)
    return min(valid_end, test_end - min_test), test_end


def _with_readable_parts(
    ranked: list[str], usable: Mapping[str, Sequence[FoundUtterance | SourceUtterance]], settings: PreprocessSettings
) -> list[str]:
    """`ranked` without units that turn out to be unusable when they are read, where one might leave a part empty.

    Only the first unit of valid and of test and the last of train are read: with these usable no part is empty, and a
    corpus of any size costs a few reads. Units that are taken out train, where stage 1 names them.
    """
    reader = UtteranceReader([], settings, None)

    @cache
    def is_readable(unit: str) -> bool:
        return any(reader.load([_with_split(row, "train")])[0].failure is None for row in usable[unit])

    left = ranked
    # Bounded: where hardly anything can be read, stage 1 reports that, and the split does not matter.
    for _ in range(_MOST_LOOKED_AT):
        valid_end, _ = _part_ends(left, settings)
        deciding = {left[0], left[min(valid_end, len(left) - 1)], left[-1]}
        unreadable = {unit for unit in deciding if not is_readable(unit)}
        if not unreadable:
            return left
        left = [unit for unit in left if unit not in unreadable]
        if not left:
            break
    return ranked


def is_usable(row: FoundUtterance | SourceUtterance, settings: PreprocessSettings) -> bool:
    """Whether stage 1 can use a row, as far as this is known without opening its audio."""
    seconds = row.duration_seconds
    if row.problem is not None or not any(character.isalnum() for character in row.text or ""):
        return False
    if seconds is not None and not settings.min_duration <= seconds <= settings.max_duration:
        return False
    try:
        return Path(row.audio_path).is_file()
    except (OSError, ValueError):
        return False


def split_unit(
    rows: Sequence[FoundUtterance | SourceUtterance], settings: PreprocessSettings
) -> Literal["speaker", "utterance"]:
    """The unit of a hash split: `split_by`, where auto means speaker for 20 speakers or more."""
    if settings.split_by != "auto":
        return settings.split_by
    return "speaker" if len({row.speaker for row in rows}) >= AUTO_MIN_SPEAKERS else "utterance"


def make_ids_unique(rows: Sequence[FoundUtterance]) -> list[FoundUtterance]:
    """Keep the first of each id unchanged; later ones become `<id>__2`, `<id>__3` and so on."""
    given = {row.id for row in rows}
    used: set[str] = set()
    copies: dict[str, int] = {}
    unique = []
    for row in rows:
        new_id = row.id
        while new_id in used or (new_id != row.id and new_id in given):
            copies[row.id] = copies.get(row.id, 1) + 1
            new_id = f"{row.id}__{copies[row.id]}"
        used.add(new_id)
        unique.append(replace(row, id=new_id))
    return unique


def in_lasting_order(
    rows: Sequence[SourceUtterance], recorded: Mapping[str, Split], keeps_splits: bool
) -> list[SourceUtterance]:
    """Rows in the order that they are cut into shards: recorded rows as recorded, then new ones ordered by a hash.

    Thus a corpus that grows keeps its finished shards, and a shard holds utterances of many speakers. With
    `keeps_splits` recorded rows also keep their split.
    """
    place = {row_id: index for index, row_id in enumerate(recorded)}
    ordered = sorted(rows, key=lambda row: (place.get(row.id, len(place)), _hash_fraction(0, f"row {row.id}"), row.id))
    if not keeps_splits:
        return ordered
    return [_with_split(row, recorded.get(row.id, row.split)) for row in ordered]


def _hash_fraction(seed: int, unit: str) -> float:
    digest = hashlib.sha256(f"{seed}:{unit}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
