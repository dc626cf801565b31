"""Corpora in their official layouts: utterances, ids, splits and errors. Audio files are empty."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import json5
import pytest

import config
from config.schema import Dataset, PreprocessSettings
from processors.corpora import describe_split, read_corpus
from processors.manifest import SourceUtterance
from tests.conftest import TEST_DATA
from utils.errors import UserError

SPEECH = TEST_DATA / "speech"


def make_settings(**changes: object) -> PreprocessSettings:
    text = (Path(config.__path__[0]) / "tts.json").read_text(encoding="utf-8")
    return PreprocessSettings.model_validate({**json5.loads(text)["preprocess"], **changes})


def write(path: Path, content: str | bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def write_jsonl(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def read(name: Dataset, path: Path, **changes: object) -> dict[str, SourceUtterance]:
    rows = read_corpus(name, path, make_settings(**changes))
    assert [row.id for row in rows] == sorted({row.id for row in rows})
    return {row.id: row for row in rows}


def texts(rows: dict[str, SourceUtterance]) -> dict[str, str | None]:
    return {row.id: row.text for row in rows.values()}


def test_libritts(tmp_path: Path) -> None:
    chapter = tmp_path / "LibriTTS_R" / "train_clean_100" / "19" / "198"
    for name in ("19_198_1", "19_198_2", "19_198_3", "._19_198_1"):
        write(chapter / f"{name}.wav")
    table = "19_198_1\tMr. A\tMister A\n19_198_2\tno normalized text\n19_198_4\tB\tBee \xff\n"
    write(chapter / "19_198.trans.tsv", table.encode("latin-1"))
    write(chapter / "19_198_2.normalized.txt", "from the sidecar\n")
    write(tmp_path / "LibriTTS_R" / "dev-other" / "7" / "8" / "7_8_1.wav")
    write(tmp_path / "LibriTTS_R" / "test-clean" / "9" / "8" / "9_8_1.wav")
    write(tmp_path / "LibriTTS_R" / "speakers.tsv")
    rows = read("libritts", tmp_path)
    assert texts(rows) == {
        "19_198_1": "Mister A",
        "19_198_2": "from the sidecar",
        "19_198_3": None,
        "19_198_4": "Bee \u00ff",
        "7_8_1": None,
        "9_8_1": None,
    }
    assert [row.split for row in rows.values()] == ["train"] * 4 + ["valid", "test"]
    assert rows["19_198_1"].speaker == "19"
    assert rows["19_198_4"].audio_path == str(chapter / "19_198_4.wav")
    assert rows == read("libritts", tmp_path / "LibriTTS_R")


def test_librispeech_is_lower_cased(tmp_path: Path) -> None:
    chapter = tmp_path / "dev-clean" / "1" / "2"
    write(chapter / "1-2-0000.flac")
    write(chapter / "1-2-0001.flac")
    write(chapter / "1-2.trans.txt", "1-2-0000 IT TOLD US\n1-2-0001\n\n1-2-0002 GONE\n")
    rows = read("librispeech", tmp_path)
    assert texts(rows) == {"1-2-0000": "it told us", "1-2-0001": None, "1-2-0002": "gone"}
    assert {row.split for row in rows.values()} == {"valid"}
    assert {row.speaker for row in rows.values()} == {"1"}


def test_ljspeech(tmp_path: Path) -> None:
    for id_ in ("a", "b", "c", "d"):
        write(tmp_path / "LJSpeech-1.1" / "wavs" / f"{id_}.wav")
    write(
        tmp_path / "LJSpeech-1.1" / "metadata.csv", "a|in 1850|in eighteen fifty\nb|plain|\r\nno bars\nc\ne|gone|gone\n"
    )
    rows = read("ljspeech", tmp_path)
    assert texts(rows) == {"a": "in eighteen fifty", "b": "plain", "c": None, "d": None, "e": "gone"}
    assert {row.speaker for row in rows.values()} == {"LJ"}
    assert rows["e"].audio_path == str(tmp_path / "LJSpeech-1.1" / "wavs" / "e.wav")


def test_vctk_takes_each_utterance_once(tmp_path: Path) -> None:
    root = tmp_path / "VCTK-Corpus-0.92"
    audio = root / "wav48_silence_trimmed"
    for name in ("p225/p225_001_mic1", "p225/p225_001_mic2", "p280/p280_001_mic1", "p315/p315_001_mic1"):
        write(audio / f"{name}.flac")
    write(audio / "log.txt")
    for name in ("p225/p225_001", "p225/p225_002", "p280/p280_001"):
        write(root / "txt" / f"{name}.txt", f"text of {name}\n")
    rows = read("vctk", tmp_path)
    assert {row.id: Path(row.audio_path).name for row in rows.values()} == {
        "p225_001": "p225_001_mic2.flac",
        "p225_002": "p225_002_mic2.flac",
        "p280_001": "p280_001_mic1.flac",
        "p315_001": "p315_001_mic1.flac",
    }
    assert rows["p280_001"].text == "text of p280/p280_001"
    assert rows["p315_001"].text is None
    assert rows["p315_001"].speaker == "p315"


def test_hifitts(tmp_path: Path) -> None:
    row = {"audio_filepath": "audio/92_clean/1/a_0.flac", "text": "raw", "text_normalized": "Normalized."}
    write_jsonl(tmp_path / "92_manifest_clean_train.json", [row])
    other = json.dumps({"audio_filepath": "audio/6_other/1/b.flac", "text": "raw"})
    write(tmp_path / "6_manifest_other_dev.json", f"{other}\n{{broken\n[1]\n\n")
    rows = read("hifitts", tmp_path)
    assert rows["audio_92_clean_1_a_0"] == SourceUtterance(
        "audio_92_clean_1_a_0", str(tmp_path / "audio/92_clean/1/a_0.flac"), "Normalized.", "92", "train"
    )
    assert texts(rows) == {
        "6_manifest_other_dev.json_line2": None,
        "6_manifest_other_dev.json_line3": None,
        "audio_6_other_1_b": "raw",
        "audio_92_clean_1_a_0": "Normalized.",
    }
    assert {row.split for row in rows.values() if row.speaker == "6"} == {"valid"}


def test_custom_csv_of_two_fields(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    for name in ("wavs/a.wav", "wavs/b.flac", "wavs/extra.flac", "deep/c.wav", "d.flac"):
        write(folder / name)
    write(folder / "metadata.csv", "\ufeffid|text\na|one | two\nb| B \nbroken\ndeep/c|C\nd|D\ne|E\n|no id\n")
    rows = read("custom", folder)
    assert texts(rows) == {
        "a": "one | two",
        "b": "B",
        "d": "D",
        "deep_c": "C",
        "e": "E",
        "extra": None,
        "metadata.csv_line4": None,
        "metadata.csv_line8": None,
    }
    found = {row.id: Path(row.audio_path).relative_to(folder).as_posix() for row in rows.values() if not row.problem}
    assert found["b"] == "wavs/b.flac"
    assert found["deep_c"] == "deep/c.wav"
    assert found["d"] == "d.flac"
    assert found["e"] == "wavs/e.wav"
    assert {row.speaker for row in rows.values()} == {"mine"}
    assert rows["metadata.csv_line4"].problem == "1 fields, where the heading has 2"
    assert rows["metadata.csv_line8"].problem == "no audio: its field is empty"


def test_custom_csv_of_three_fields(tmp_path: Path) -> None:
    write(tmp_path / "metadata.csv", "broken\na|eve|one | two\nb||B\nc|only two\n")
    for id_ in ("a", "b", "c"):
        write(tmp_path / "wavs" / f"{id_}.wav")
    rows = read("custom", tmp_path)
    assert texts(rows) == {"a": "one | two", "b": "B", "c": None}
    assert rows["a"].speaker == "eve"
    assert rows["b"].speaker == tmp_path.name


def test_ids_are_unique_and_safe(tmp_path: Path) -> None:
    write(tmp_path / "metadata.csv", "../up/x|0\na|1\na|2\na__2|3\na|4\nt\tab|5\nx\0/y|6\n")
    rows = read("custom", tmp_path)
    assert texts(rows) == {"__up_x": "0", "a": "1", "a__2": "3", "a__3": "2", "a__4": "4", "t_ab": "5", "x__y": "6"}


def test_an_id_longer_than_a_file_name_stops_nothing(tmp_path: Path) -> None:
    write(tmp_path / "metadata.csv", f"{'x' * 5000}|0\na|1\n")
    assert len(read("custom", tmp_path)) == 2


def test_custom_jsonl(tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "mine" / "list.jsonl",
        [
            {"audio": "clips/a.wav", "text": "A", "speaker": 7, "split": "dev"},
            {"audio": "/else/b.wav", "text": "B\nB", "speaker": "eve", "id": "bee"},
            {"audio": "clips/c.wav", "text": None, "split": "test"},
            {"text": "no audio"},
            {"audio": "clips/d.wav", "text": "\ud800", "split": "train"},
        ],
    )
    path.write_bytes(path.read_bytes() + b"\xff\n")
    rows = read("custom", path)
    assert texts(rows) == {
        "bee": "B B",
        "clips_a": "A",
        "clips_c": None,
        "clips_d": "?",
        "list.jsonl_line4": None,
        "list.jsonl_line6": None,
    }
    assert [row.split for row in rows.values()] == ["train", "valid", "test", "train", "train", "train"]
    assert [row.speaker for row in rows.values()] == ["eve", "7", "mine", "mine", "mine", "mine"]
    assert rows["bee"].audio_path == "/else/b.wav"
    assert rows["clips_a"].audio_path == str(tmp_path / "mine" / "clips" / "a.wav")
    assert describe_split("custom", list(rows.values()), make_settings()) == "the corpus's own parts"


def test_custom_jsonl_with_an_unknown_split_names_the_line(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "list.jsonl", [{"audio": "a.wav", "text": "A", "split": "held-out"}])
    with pytest.raises(UserError, match=r"list\.jsonl, line 1: split is 'held-out'"):
        read("custom", path)


def write_cuts(path: Path) -> None:
    from lhotse import AudioSource, CutSet, MonoCut, MultiCut, Recording, SupervisionSegment

    def recording(source: str, channels: list[int], source_type: str = "file") -> Recording:
        return Recording("r", [AudioSource(source_type, channels, source)], 16000, 160000, 10.0, channels)

    def supervision(text: str | None, speaker: str | None) -> SupervisionSegment:
        return SupervisionSegment("s", "r", 0.0, 1.0, text=text, speaker=speaker)

    mono = recording("audio/r.wav", [0])
    whole = MonoCut("whole", 0, 10, 0, supervisions=[supervision("Whole", "eve")], recording=mono)
    cuts = [
        whole,
        MonoCut("part", 2.5, 1.5, 0, supervisions=[supervision(None, None)], recording=mono),
        MonoCut("silent", 2.5, 1.5, 0, recording=recording("/else/r.wav", [0])),
        MonoCut("left", 0, 10, 0, recording=recording("stereo.wav", [0, 1])),
        MultiCut("both", 0, 10, [0, 1], recording=recording("stereo.wav", [0, 1])),
        MonoCut("piped", 0, 10, 0, recording=recording("sox x -", [0], "command")),
        whole.perturb_speed(1.1).with_id("fast"),
        whole.append(whole).with_id("mixed"),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    CutSet.from_cuts(cuts).to_file(path)


def test_custom_cuts(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    write_cuts(folder / "cuts_train.jsonl.gz")
    write(folder / "audio" / "r.wav")
    write_jsonl(folder / "plain.jsonl", [{"type": "MonoCut", "id": "broken"}])
    rows = read("custom", folder)
    stretches = {row.id: (row.start_seconds, row.duration_seconds) for row in rows.values()}
    assert {id_: stretches.pop(id_) for id_ in ("part", "silent")} == {"part": (2.5, 1.5), "silent": (2.5, 1.5)}
    assert set(stretches.values()) == {(0.0, None)}
    assert rows["whole"].audio_path == rows["part"].audio_path == str(folder / "audio" / "r.wav")
    assert rows["silent"].audio_path == "/else/r.wav"
    assert rows["both"].audio_path == "stereo.wav"
    assert texts(rows)["whole"] == "Whole"
    assert texts(rows)["part"] is None
    assert rows["whole"].speaker == "eve"
    assert rows["part"].speaker == rows["silent"].speaker == "mine"
    for id_ in ("left", "piped", "fast", "mixed"):
        assert str(rows[id_].problem).startswith(f"{folder / 'cuts_train.jsonl.gz'}, line ")
    assert {row.split for row in rows.values()} == {"train"}
    assert read("custom", folder / "cuts_train.jsonl.gz") == rows
    assert texts(read("custom", folder / "plain.jsonl")) == {"plain.jsonl_line1": None}


def test_a_broken_gzip_is_named(tmp_path: Path) -> None:
    write_cuts(tmp_path / "cuts.jsonl.gz")
    write(tmp_path / "cuts.jsonl.gz", (tmp_path / "cuts.jsonl.gz").read_bytes()[:-20])
    with pytest.raises(UserError, match=r"cuts\.jsonl\.gz: cannot be read to its end"):
        read("custom", tmp_path)


@pytest.mark.parametrize("name", ["libritts", "librispeech", "ljspeech", "vctk", "hifitts", "custom"])
def test_a_wrong_path_is_one_clear_line(name: Dataset, tmp_path: Path) -> None:
    write(tmp_path / "LibriTTS" / "notes" / "readme.txt")
    for path in (tmp_path / "absent", tmp_path, tmp_path / "LibriTTS" / "notes" / "readme.txt"):
        with pytest.raises(UserError) as error:
            read(name, path)
        message = str(error.value)
        assert message.startswith(f"dataset_path.{name}: ")
        assert str(path) in message
        assert "expected" in message
        assert "\n" not in message


def test_the_rule_of_a_split_is_described(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"audio": f"{n}.wav", "text": "A", "speaker": str(n)} for n in range(20)])
    settings = make_settings()
    rows = read_corpus("custom", tmp_path / "a.jsonl", settings)
    assert describe_split("custom", rows, settings) == "hash of the speaker, seed 0, valid 0.01, test 0.01"
    assert describe_split("vctk", rows[:5], settings) == "hash of the utterance, seed 0, valid 0.01, test 0.01"
    assert describe_split("libritts", rows, settings) == "the corpus's own parts"


@pytest.mark.parametrize(
    ("name", "folder", "count"),
    [
        ("libritts", "LibriTTS", 4),
        ("ljspeech", "LJSpeech-1.1", 32),
        ("vctk", "VCTK-Corpus-0.92", 40),
        ("librispeech", "LibriSpeech", 100),
        ("custom", "Kathleen", 1142),
    ],
)
def test_real_corpora(name: Dataset, folder: str, count: int) -> None:
    if not (SPEECH / folder).is_dir():
        pytest.skip(f"VALLET_TEST_DATA names no folder with {folder}")
    rows = read(name, SPEECH / folder)
    assert len(rows) == count
    assert all(row.text and Path(row.audio_path).is_file() for row in rows.values())
