"""A corpus of bad files and texts, with the expected result of each."""

import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

import bins.preprocess
from processors.manifest import SPLITS, list_shards, read_shards
from tests.support.faults import Tally
from tests.support.tiny_runs import call, sets, write_config

RATE_HZ = 24000
HANDLED = None
Write = Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """An utterance, and why stage 1 leaves it out (a part of the reason), or None where it is `HANDLED`.

    `stored` is the id that it is kept under, where that cannot be its own.
    """

    name: str
    write: Write
    text: Any
    reason: str | None = HANDLED
    suffix: str = ".wav"
    id: str | None = None
    stored: str | None = None


def tone(seconds: float = 1.0, rate_hz: int = RATE_HZ, channels: int = 1) -> np.ndarray:
    time = np.arange(int(seconds * rate_hz)) / rate_hz
    wave = 0.3 * np.sin(2 * math.pi * 220 * time) * (1 + 0.5 * np.sin(2 * math.pi * 3 * time))
    return np.stack([wave * (1 + 0.1 * channel) for channel in range(channels)], axis=1)


def saved(audio: np.ndarray, rate_hz: int = RATE_HZ, kind: str = "WAV", subtype: str | None = None) -> Write:
    return lambda path: soundfile.write(path, audio, rate_hz, format=kind, subtype=subtype)


def cut(num_bytes: int, kind: str = "WAV") -> Write:
    """The first bytes of a file; a negative number leaves out the last ones."""

    def write(path: Path) -> None:
        soundfile.write(path, tone(), RATE_HZ, format=kind)
        path.write_bytes(path.read_bytes()[:num_bytes])

    return write


GOOD = saved(tone())


def audio_cases() -> Iterator[Case]:
    """Formats and rates that can be read, and files that cannot."""
    for rate_hz in (8000, 11025, 16000, 22050, 32000, 44100, 48000, 88200, 96000):
        yield Case(f"rate {rate_hz}", saved(tone(rate_hz=rate_hz), rate_hz), "hello")
    for subtype in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"):
        yield Case(f"wav {subtype}", saved(tone(), subtype=subtype), "hello")
    for subtype in ("PCM_S8", "PCM_16", "PCM_24"):
        yield Case(f"flac {subtype}", saved(tone(), kind="FLAC", subtype=subtype), "hello", suffix=".flac")
    for channels in (2, 4, 8):
        yield Case(f"{channels} channels", saved(tone(channels=channels)), "hello")
    yield Case("flac called wav", saved(tone(), kind="FLAC"), "hello")
    yield Case("ogg called wav", saved(tone(), kind="OGG"), "hello")
    yield Case("wav called flac", GOOD, "hello", suffix=".flac")
    yield Case("wav without a suffix", GOOD, "hello", suffix="")
    yield Case("clipping", saved(np.sign(tone())), "hello")
    yield Case("very quiet", saved(1e-3 * tone()), "hello")
    yield Case("constant", saved(np.full(RATE_HZ, 0.25)), "hello")
    yield Case("its last bytes missing", cut(-1001), "hello")
    for name, audio in (("NaN", math.nan), ("infinity", math.inf)):
        broken = tone()
        broken[1000] = audio
        yield Case(f"has {name}", saved(broken, subtype="FLOAT"), "hello", "not finite")
    yield Case("all zero", saved(np.zeros(RATE_HZ)), "hello", "silent")
    yield Case("0.05 s", saved(tone(0.05)), "hello", "shorter than")
    yield Case("0.49 s", saved(tone(0.49)), "hello", "shorter than")
    yield Case("14.1 s", saved(tone(14.1)), "hello", "longer than")
    yield Case("300 s", saved(tone(300, 8000), 8000), "hello", "longer than")
    for num_bytes in (0, 10, 30):
        yield Case(f"{num_bytes} bytes of wav", cut(num_bytes), "hello", "cannot be read as audio")
    yield Case("a header alone", cut(44), "hello", "shorter than")
    yield Case("a third of flac", cut(9000, "FLAC"), "hello", "audio")
    yield Case("text called wav", lambda path: path.write_text("no audio") and None, "hello", "cannot be read as audio")
    yield Case("noise called wav", lambda path: path.write_bytes(bytes(range(256)) * 9) and None, "hello", "cannot be")
    yield Case("a folder", lambda path: path.mkdir(), "hello", "not a file")
    yield Case("a pipe", os.mkfifo, "hello", "not a file")
    yield Case("not there", lambda path: None, "hello", "no such audio file")
    yield Case("a loop of links", lambda path: path.symlink_to(path), "hello", "audio")
    yield Case("a link to nothing", lambda path: path.symlink_to("nothing"), "hello", "no such audio file")
    yield Case("a link to an endless file", lambda path: path.symlink_to("/dev/zero"), "hello", "not a file")


def text_cases() -> Iterator[Case]:
    """Texts that can be synthesized, and texts that cannot."""
    spoken = {
        "digits": "1234567890",
        "a newline": "hello\nthere",
        "a bar": "hello | there",
        "one letter": "a",
        "long": "hello there " * 400,
        "emoji and a word": "😀 hello",
        "a lone surrogate": "hello \ud800 there",
        "control characters": "hel\x00lo \x07there\x1b",
        "markup": "<speak>hello</speak>",
        "formats": "%s %d {0} ${HOME}",
        "accents apart": "e\u0301te\u0301",
        "an underscore": "snake_case",
        "a number and a stop": "3.5 is enough.",
        "zero width": "hel\u200blo",
        "right to left": "\u202ehello\u202c",
    }
    for name, text in spoken.items():
        yield Case(f"text: {name}", GOOD, text)
    for name, text in {"cyrillic": "Привет", "chinese": "你好", "arabic": "مرحبا"}.items():
        yield Case(f"text: {name}", GOOD, text, "letters that cannot be read in its language")
    marks = {"stops": "...", "marks": "?!", "dashes": "—", "quotes": '""'}
    blank = {"empty": "", "spaces": "  \t ", "breaks": "\n\n", "null": None, "a number": 5, "a list": ["hello"]}
    for name, text in marks.items():
        yield Case(f"text: {name}", GOOD, text, "nothing that can be spoken")
    for name, empty in blank.items():
        yield Case(f"text: {name}", GOOD, empty, "no transcript")


def name_cases() -> Iterator[Case]:
    """File names and ids."""
    names = (
        "two words",
        "-leading-dash",
        "ünïcödé",
        "日本語",
        "😀",
        "quote'\"",
        "100%",
        "#hash",
        "semi;colon",
        "$HOME",
        "*",
    )
    for name in (*names, "n" * 246):
        yield Case(name, GOOD, "hello")
    yield Case("back\\slash", GOOD, "hello", stored="back_slash")
    yield Case("new\nline", GOOD, "hello", stored="new_line")
    ids = {"../../escape": "____escape", "/absolute": "_absolute", "a/b/c": "a_b_c", "..": "_", "tab\there": "tab_here"}
    for number, (id_, stored) in enumerate({**ids, "with space": "with space", "x" * 300: "x" * 300}.items()):
        yield Case(f"id {number}", GOOD, "hello", id=id_, stored=stored)
    yield Case("twin one", GOOD, "hello", id="twin")
    yield Case("twin two", GOOD, "hello", id="twin", stored="twin__2")


def hostile_corpus(folder: Path) -> Tally:
    """Stage 1 on all cases at once: each gives its result, the counts add up, and nothing else is written."""
    cases = [*audio_cases(), *text_cases(), *name_cases()]
    corpus = folder / "corpus"
    corpus.mkdir(parents=True)
    rows = []
    for case in cases:
        audio = corpus / f"{case.name}{case.suffix}"
        case.write(audio)
        rows.append({"audio": audio.name, "text": case.text, "id": case.id or case.name})
    broken = ["{", "[]", "null", '{"text": "hello"}', '{"audio": 5}', "not json", "\ufeff{}"]
    lines = [json.dumps(row) for row in rows] + broken
    (corpus / "rows.jsonl").write_text("\n".join(lines) + "\n\n")
    config = write_config(folder / "exp_config.json", corpus / "rows.jsonl", folder)
    before = {path for path in folder.rglob("*") if not path.is_relative_to(folder / "data")}
    assert call(bins.preprocess, "--config", str(config), *sets({"preprocess.num_workers": 1})) == 0
    tally = Tally("stage 1 on bad files, texts and names", tried=len(lines))
    data = folder / "data" / "custom"
    utterances = [row for split in SPLITS for row in read_shards(list_shards(data / split))]
    failures = [json.loads(line) for line in (data / "failures.jsonl").read_text().splitlines()]
    for case in cases:
        id_ = case.stored or case.id or case.name
        found = [row for row in utterances if row.id == id_]
        reasons = [failure["reason"] for failure in failures if failure["id"] == id_]
        if len(found) + len(reasons) != 1:
            tally.lost.append(f"{id_!r}: {len(found)} times in the shards, left out for {reasons}")
        elif bool(found) != (case.reason is HANDLED) or (case.reason or "") not in "".join(reasons):
            tally.lost.append(f"{id_!r}: left out for {reasons}, not for {case.reason!r}")
    stats = json.loads((data / "stats.json").read_text())
    num_kept = sum(counts["utterances"] for counts in stats["splits"].values())
    if (num_kept, stats["dropped"]) != (len(utterances), len(failures)) or num_kept + stats["dropped"] != len(lines):
        tally.lost.append(f"{len(lines)} rows, but {num_kept} utterances and {stats['dropped']} left out")
    if {path for path in folder.rglob("*") if not path.is_relative_to(folder / "data")} != before:
        tally.lost.append("something was written outside of processed_dir")
    return tally
