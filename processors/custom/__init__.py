"""Reads a user's own corpus in any of the usual layouts. No audio is opened here."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from processors.custom.files import SPLIT_NAMES
from processors.custom.folders import (
    has_pairs,
    is_aishell3,
    is_kaldi,
    is_mls,
    read_aishell3,
    read_kaldi,
    read_mls,
    read_pairs,
)
from processors.custom.manifests import (
    cut_manifests,
    json_manifests,
    read_cut_manifests,
    read_json_manifests,
    read_json_rows,
)
from processors.custom.tables import common_voice_tables, read_common_voice, read_tables, tables_of
from processors.splits import FoundUtterance


class Layout(NamedTuple):
    """A layout of a folder: `fits` is true for a folder that has it, `read` gives its utterances."""

    fits: Callable[[Path], object]
    read: Callable[[Path], Iterator[FoundUtterance]]


def _split_folders(folder: Path) -> list[Path]:
    """Subfolders train, dev, ... with a table each, as in Hugging Face's audiofolder."""
    return [part for part in sorted(folder.iterdir()) if part.name in SPLIT_NAMES and part.is_dir() and tables_of(part)]


def _read_split_folders(folder: Path) -> Iterator[FoundUtterance]:
    for part in _split_folders(folder):
        yield from read_tables(part, SPLIT_NAMES[part.name])


# The first layout that fits a folder is used.
LAYOUTS = (
    Layout(tables_of, read_tables),
    Layout(is_kaldi, read_kaldi),
    Layout(common_voice_tables, read_common_voice),
    Layout(is_aishell3, read_aishell3),
    Layout(is_mls, read_mls),
    Layout(_split_folders, _read_split_folders),
    Layout(cut_manifests, read_cut_manifests),
    Layout(json_manifests, read_json_manifests),
    Layout(has_pairs, read_pairs),
)


def read_custom(path: Path) -> Iterator[FoundUtterance]:
    """The utterances of a JSON-lines file, or of a folder in one of `LAYOUTS`, in the order of its files.

    Raises UserError if a manifest is broken, or its columns or splits are not plausible.
    """
    if path.is_file() and path.name.endswith((".jsonl", ".jsonl.gz")):
        yield from read_json_rows(path)
    elif path.is_dir():
        layout = next((layout for layout in LAYOUTS if layout.fits(path)), None)
        if layout is not None:
            yield from layout.read(path)
