"""Random configs and lists: any content gives settings, rows, or one clear error line."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.schema import Settings
from synthesis.test_lists import InvalidLine, ListItem, read_test_list
from tests.conftest import ROOT
from tests.support.faults import Tally
from tests.support.tiny_runs import keys
from utils.cli import find_path
from utils.config import load_settings
from utils.errors import UserError
from utils.text_files import read_text_file

KEYS = sorted(key for key, _ in keys())
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("[a path]")
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner))


@st.composite
def configs(draw: st.DrawFn) -> bytes:
    """Text that is not JSON5, arbitrary JSON, and valid configs with keys changed, removed or made up."""
    if draw(st.integers(0, 3)) == 0:
        return draw(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
    content: Any = {"base_config": "config/valle.json", "dataset": ["custom"], "dataset_path": {"custom": "somewhere"}}
    for _ in range(draw(st.integers(0, 3))):
        *sections, name = draw(st.sampled_from(KEYS)).split(".")
        inner = content
        for section in sections:
            inner = inner.setdefault(section, {}) if isinstance(inner.get(section, {}), dict) else {}
        inner[draw(st.sampled_from([name, name, name + "s", "x"]))] = draw(VALUES)
    text = json.dumps(content)
    if draw(st.booleans()):
        cut = draw(st.integers(0, len(text)))
        text = text[:cut] + draw(st.text(max_size=3)) + text[cut + draw(st.integers(0, 2)) :]
    return text.encode("utf-8", "replace")


@st.composite
def lists(draw: st.DrawFn) -> bytes:
    """Lines of any number of fields, some of them existing audio files; comments, blank lines, any line ends."""
    fields = st.sampled_from(["hello there", "", "missing.wav", "AUDIO", "../../etc/passwd", "~nobody/x"]) | st.text(
        max_size=12
    )
    lines = draw(
        st.lists(st.lists(fields, min_size=1, max_size=4).map("|".join) | st.just("# no|such|line"), max_size=6)
    )
    end = draw(st.sampled_from(["\n", "\r\n"]))
    mark = draw(st.sampled_from(["", "\ufeff"]))
    return (mark + end.join(lines)).encode("utf-8", "replace") + draw(st.sampled_from([b"", b"\xff", b"\x00"]))


def fuzz_configs(num: int) -> Tally:
    """Each config gives settings, or one line that names the file."""
    tally = Tally("fuzzed configs")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "exp_config.json"

        def attempt(content: bytes) -> None:
            path.write_bytes(content)
            load_settings(path, Settings, root=ROOT)

        _fuzz(tally, num, configs(), attempt, str(path))
    return tally


def fuzz_lists(num: int) -> Tally:
    """Each list gives a row for every line that is neither blank nor a comment, or one line that names the file."""
    tally = Tally("fuzzed test lists")
    with tempfile.TemporaryDirectory() as folder:
        path, audio = Path(folder) / "list.txt", Path(folder) / "voice.wav"
        audio.write_bytes(b"")

        def attempt(content: bytes) -> None:
            path.write_bytes(content.replace(b"AUDIO", bytes(audio)))
            rows = read_test_list(path, lambda name: find_path(name, "audio_prompt"))
            lines = read_text_file(path).splitlines()
            assert len(rows) == sum(bool(line.strip()) and not line.startswith("#") for line in lines)
            for row in rows:
                name = Path(row.name)
                assert name.parts[0] == "batch" and len(name.parts) == 2 and len(name.name.encode()) < 240
                assert isinstance(row, InvalidLine) or (isinstance(row, ListItem) and row.prompt_audio.is_file())

        _fuzz(tally, num, lists(), attempt, str(path))
    return tally


def _fuzz(
    tally: Tally, num: int, strategy: st.SearchStrategy[bytes], attempt: Callable[[bytes], None], path: str
) -> None:
    @settings(max_examples=num, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def each(content: bytes) -> None:
        tally.tried += 1
        try:
            attempt(content)
        except UserError as error:
            if "\n" in str(error) or path not in str(error):
                tally.lost.append(f"{content!r}: said {error}")
        except Exception as error:
            tally.lost.append(f"{content!r}: {type(error).__name__}: {error}")

    each()
