"""A user's own corpus, in any of the usual layouts. No audio is opened here."""

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
from processors.custom.manifests import cut_manifests, json_manifest, read_cut_folder, read_json_rows
from processors.custom.tables import common_voice_tables, read_common_voice, read_table, table_of
from processors.splits import FoundUtterance


class Layout(NamedTuple):
    """A way in which a corpus lies in a folder: what it looks like, and what reads it."""

    fits: Callable[[Path], object]
    read: Callable[[Path], Iterator[FoundUtterance]]


def _split_folders(folder: Path) -> list[Path]:
    """Subfolders train, dev, ... that have a table each, as Hugging Face's audiofolder has them."""
    return [part for part in sorted(folder.iterdir()) if part.name in SPLIT_NAMES and part.is_dir() and table_of(part)]


def _read_split_folders(folder: Path) -> Iterator[FoundUtterance]:
    for part in _split_folders(folder):
        table = table_of(part)
        assert table is not None
        yield from read_table(table, SPLIT_NAMES[part.name])


def _read_folder_table(folder: Path) -> Iterator[FoundUtterance]:
    table = table_of(folder)
    assert table is not None
    yield from read_table(table)


def _read_json_manifest(folder: Path) -> Iterator[FoundUtterance]:
    manifest = json_manifest(folder)
    assert manifest is not None
    yield from read_json_rows(manifest)


# The first that fits a folder reads it.
LAYOUTS = (
    Layout(table_of, _read_folder_table),
    Layout(is_kaldi, read_kaldi),
    Layout(common_voice_tables, read_common_voice),
    Layout(is_aishell3, read_aishell3),
    Layout(is_mls, read_mls),
    Layout(_split_folders, _read_split_folders),
    Layout(cut_manifests, read_cut_folder),
    Layout(json_manifest, _read_json_manifest),
    Layout(has_pairs, read_pairs),
)


def read_custom(path: Path) -> Iterator[FoundUtterance]:
    """The utterances of a file of JSON lines, or of a folder in one of `LAYOUTS`, in the order of its files.

    Raises UserError where a manifest is broken, or its columns or splits cannot be what they are taken for.
    """
    if path.is_file() and path.name.endswith((".jsonl", ".jsonl.gz")):
        yield from read_json_rows(path)
    elif path.is_dir():
        layout = next((layout for layout in LAYOUTS if layout.fits(path)), None)
        if layout is not None:
            yield from layout.read(path)
