"""Custom corpora in all supported layouts: each is read correctly, or refused in one line."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

import bins.preprocess
from config.schema import Settings
from processors.corpora import read_corpus
from processors.manifest import SourceUtterance
from processors.splits import is_usable
from tests.conftest import ROOT, defaults
from tests.support.tiny_runs import call, write_config, write_custom
from utils.audio import read_audio
from utils.config import load_settings
from utils.errors import UserError


def write(path: Path, content: str | bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(path: Path, **changes: object) -> dict[str, SourceUtterance]:
    settings = defaults().preprocess.model_copy(update=changes)
    return {row.id: row for row in read_corpus("custom", path, settings)}


def brief(rows: dict[str, SourceUtterance], folder: Path) -> dict[str, tuple[str, str | None, str]]:
    """Audio path below the corpus, text and speaker of each row."""
    return {id_: (str(Path(row.audio_path).relative_to(folder)), row.text, row.speaker) for id_, row in rows.items()}


ANNA = ("wavs/a.flac", "The kettle, he said, is on.", "anna")
BEN = ("wavs/b.flac", "Nobody answered.", "ben")


@pytest.mark.parametrize(
    "content",
    [
        "audio_file|text|speaker_name\nwavs/a.flac|The kettle, he said, is on.|anna\nb|Nobody answered.|ben\n",
        "speaker\tsentence\tpath\nanna\tThe kettle, he said, is on.\ta.flac\nben\tNobody answered.\tb\n",
        'file_name,transcription,speaker_id\na.flac,"The kettle, he said, is on.",anna\nb.flac,Nobody answered.,ben\n',
        "ID|Speaker|Raw|normalized_text\na|anna|x|The kettle, he said, is on.\nb|ben|y|Nobody answered.\n",
        'extra,clip,text,client_id\n1,a,"The kettle, he said, is on.",anna\n2,b,Nobody answered.,ben\n',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["metadata.csv", "metadata.tsv"])
def test_a_heading_determines_the_columns_in_any_order_and_separator(
    tmp_path: Path, content: str, encoding: str, name: str
) -> None:
    write(tmp_path / "wavs" / "a.flac")
    write(tmp_path / "wavs" / "b.flac")
    write(tmp_path / name, content.replace("\n", "\r\n").encode(encoding))
    assert sorted(brief(read(tmp_path), tmp_path).values()) == [ANNA, BEN]


@pytest.mark.parametrize(
    ("heading", "words"), [("file|speaker", "no column of text"), ("text|speaker", "no column of audio")]
)
def test_a_heading_that_lacks_a_column_is_an_error(tmp_path: Path, heading: str, words: str) -> None:
    write(tmp_path / "metadata.csv", f"{heading}\na|b\n")
    with pytest.raises(UserError, match=words):
        read(tmp_path)


def test_raw_text_is_not_taken_for_speakers(tmp_path: Path) -> None:
    lines = ["a|In 1865 he came.|In eighteen sixty-five he came.", "b|Mr. Brown left.|Mister Brown left."]
    write(tmp_path / "metadata.csv", "\n".join(lines))
    rows = read(tmp_path)
    assert rows["a"].text == "In eighteen sixty-five he came." and rows["a"].speaker == tmp_path.name


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["wavs/a.flac|The sentence is long.|anna", "wavs/b.flac|Another one is.|ben"], "looks like speakers"),
        ([f"u{n}|speaker{n}|A text of {n} words." for n in range(12)], "is another in each row"),
        ([f"u{n}|anna|always the same" for n in range(12)], "is 'always the same' in each row"),
        ([f"A text of {n} words.|u{n}.wav" for n in range(3)], "names audio files"),
    ],
)
def test_implausible_columns_are_one_line(tmp_path: Path, lines: Sequence[str], words: str) -> None:
    write(tmp_path / "metadata.csv", "\n".join(lines))
    with pytest.raises(UserError, match=words) as caught:
        read(tmp_path)
    assert "put a heading" in str(caught.value) and "\n" not in str(caught.value)


def test_json_lines_of_other_tools(tmp_path: Path) -> None:
    lines = [
        {"id": "e1", "wav": "a.mp3", "text": "Emilia's.", "speaker": "s1", "language": "en"},
        {"audio_filepath": "b.wav", "text": "NeMo's.", "duration": 3.2},
        {"audio_filepath": "c.wav", "text": "A part.", "offset": 1.5, "duration": 3.0, "id": "part"},
        {"audio_filepath": "c.wav", "text": "The first.", "offset": 0.0, "duration": 1.5, "id": "first"},
        {"audio": {"path": "d.flac", "sampling_rate": 16000}, "transcription": "A hub's.", "speaker_id": 7},
        {"file_name": "e.wav", "sentence": "A folder's."},
    ]
    path = write(tmp_path / "list.jsonl", "\n".join(map(json.dumps, lines)))
    rows = brief(read(path), tmp_path)
    assert rows == {
        "e1": ("a.mp3", "Emilia's.", "s1"),
        "b": ("b.wav", "NeMo's.", tmp_path.name),
        "part": ("c.wav", "A part.", tmp_path.name),
        "first": ("c.wav", "The first.", tmp_path.name),
        "d": ("d.flac", "A hub's.", "7"),
        "e": ("e.wav", "A folder's.", tmp_path.name),
    }
    assert rows == brief(read(tmp_path), tmp_path)
    part = read(path)["part"]
    assert (part.start_seconds, part.duration_seconds) == (1.5, 3.0)
    first = read(path)["first"]
    assert (first.start_seconds, first.duration_seconds) == (0.0, 1.5)
    assert read(path)["b"].duration_seconds is None


def test_a_field_that_is_missing_is_named(tmp_path: Path) -> None:
    path = write(
        tmp_path / "list.jsonl", '{"sound": "a.wav", "text": "x"}\n{"audio": "b.wav", "words": "y"}\nno json\n'
    )
    rows = read(path)
    assert "line 1: no audio: none of the fields audio," in str(rows["list.jsonl_line1"].problem)
    assert str(rows["b"].problem).startswith("no transcript: none of the fields normalized_text, ")
    assert "line 3: no JSON object" in str(rows["list.jsonl_line3"].problem)


def test_audio_beside_its_text(tmp_path: Path) -> None:
    for name, text in (("anna/one.opus", "One."), ("anna/deep/two.mp3", "Two."), ("ben/one.wav", None)):
        write(tmp_path / name)
        if text is not None:
            write((tmp_path / name).with_suffix(".lab" if "two" in name else ".txt"), text)
    write(tmp_path / "README.txt", "Not of an utterance.")
    assert brief(read(tmp_path), tmp_path) == {
        "anna_one": ("anna/one.opus", "One.", "anna"),
        "anna_deep_two": ("anna/deep/two.mp3", "Two.", "anna"),
        "ben_one": ("ben/one.wav", None, "ben"),
    }


def test_json_lines_of_another_encoding_are_decoded(tmp_path: Path) -> None:
    texts = [f"你好世界，今天天气很好{number}" for number in range(20)]
    lines = "".join(
        json.dumps({"audio": f"{n}.wav", "text": text}, ensure_ascii=False) + "\n" for n, text in enumerate(texts)
    )
    path = write(tmp_path / "list.jsonl", lines.encode("gb18030"))
    assert sorted(str(row.text) for row in read(path).values()) == sorted(texts)


def test_a_missing_quotation_mark_drops_no_row_silently(tmp_path: Path) -> None:
    write(tmp_path / "metadata.csv", 'file_name,text\na.wav,"Yes, I said.\nb.wav,Hello.\n')
    with pytest.raises(UserError, match="is a quotation mark missing"):
        read(tmp_path)
    write(tmp_path / "metadata.csv", 'file_name,text\na.wav,"Yes, I said.\nb.wav,Hello."\nc.wav,Bye.\n')
    rows = read(tmp_path)
    assert [row.text for row in rows.values() if row.problem is None] == ["Bye."]
    assert "is a quotation mark missing" in str(rows["metadata.csv_line3"].problem)


@pytest.mark.parametrize("has_splits", [True, False])
def test_common_voice(tmp_path: Path, has_splits: bool) -> None:
    for name in ("one", "two"):
        write(tmp_path / "clips" / f"{name}.mp3")
    heading = "client_id\tpath\tsentence\tup_votes\n"
    one, two = 'x1\tone.mp3\tHe said "no".\t2\n', "x2\ttwo.mp3\tTwo.\t2\n"
    write(tmp_path / "validated.tsv", heading + one + two)
    if has_splits:
        write(tmp_path / "train.tsv", heading + one)
        write(tmp_path / "dev.tsv", heading + two)
    rows = read(tmp_path)
    expected = {"one": ("clips/one.mp3", 'He said "no".', "x1"), "two": ("clips/two.mp3", "Two.", "x2")}
    assert brief(rows, tmp_path) == expected
    assert not has_splits or {row.id: row.split for row in rows.values()} == {"one": "train", "two": "valid"}


def test_kaldi_runs_no_command(tmp_path: Path) -> None:
    write(tmp_path / "audio" / "r1.wav")
    write(tmp_path / "wav.scp", f"r1 audio/r1.wav\nr2 touch {tmp_path}/ran |\n")
    write(tmp_path / "text", "u1 The first.\nu2 The second.\nu3 The third.\n")
    write(tmp_path / "utt2spk", "u1 anna\nu2 anna\nu3 ben\n")
    write(tmp_path / "segments", "u1 r1 0.0 1.5\nu2 r1 1.5 4.0\nu3 r2 0 1\n")
    rows = read(tmp_path)
    assert [(row.text, row.speaker, row.start_seconds, row.duration_seconds) for row in rows.values()] == [
        ("The first.", "anna", 0.0, 1.5),
        ("The second.", "anna", 1.5, 2.5),
        ("The third.", "ben", 0.0, 1.0),
    ]
    assert rows["u1"].audio_path == str(tmp_path / "audio" / "r1.wav") and rows["u1"].problem is None
    assert "a command here, which is not run" in str(rows["u3"].problem)
    assert not (tmp_path / "ran").exists()


def test_segments_of_kaldi_with_a_channel_an_open_end_or_no_times(tmp_path: Path) -> None:
    write(tmp_path / "wav.scp", "r1 audio/r1.wav\n")
    write(tmp_path / "text", "u1 The first.\nu2 The second.\nu3 The third.\n")
    write(tmp_path / "segments", "u1 r1 0.5 1.5 1\nu2 r1 1.5 -1\nu3 r1 0.0 abc\n")
    rows = read(tmp_path)
    assert (rows["u1"].start_seconds, rows["u1"].duration_seconds) == (0.5, 1.0)
    assert (rows["u2"].start_seconds, rows["u2"].duration_seconds) == (1.5, None)
    assert "segments gives no start and end" in str(rows["u3"].problem)


def test_aishell3(tmp_path: Path) -> None:
    write(tmp_path / "train" / "content.txt", "SSB00050001.wav\t广 guang3 州 zhou1 女 nv3\n")
    write(tmp_path / "test" / "content.txt", "SSB00060001.wav\t好 hao3\n")
    rows = read(tmp_path)
    assert brief(rows, tmp_path) == {
        "SSB00050001": ("train/wav/SSB0005/SSB00050001.wav", "广州女", "SSB0005"),
        "SSB00060001": ("test/wav/SSB0006/SSB00060001.wav", "好", "SSB0006"),
    }
    assert [row.split for row in rows.values()] == ["train", "test"]


def test_mls(tmp_path: Path) -> None:
    for part, id_ in (("train", "10_20_000001"), ("dev", "11_21_000002")):
        write(tmp_path / part / "transcripts.txt", f"{id_}\tein satz\n")
        write(tmp_path / part / "audio" / id_[:2] / id_[3:5] / f"{id_}.flac")
    rows = read(tmp_path)
    assert brief(rows, tmp_path)["10_20_000001"] == ("train/audio/10/20/10_20_000001.flac", "ein satz", "10")
    assert [row.split for row in rows.values()] == ["train", "valid"]


def test_split_folders_with_a_table_each(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write(tmp_path / part / f"{part}.mp3")
        write(tmp_path / part / "metadata.csv", f"file_name,transcription\n{part}.mp3,Of {part}.\n")
    rows = read(tmp_path)
    assert {row.text: row.split for row in rows.values()} == {"Of train.": "train", "Of test.": "test"}


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff", "au", "opus"])
def test_all_formats_of_libsndfile_are_audio(tmp_path: Path, suffix: str) -> None:
    options = {"format": "OGG", "subtype": "OPUS"} if suffix == "opus" else {}
    (tmp_path / "wavs").mkdir()
    samples = 0.3 * np.sin(np.arange(24000) / 20)
    soundfile.write(tmp_path / "wavs" / f"a.{suffix}", samples, 24000, **options)
    write(tmp_path / "metadata.csv", "a|A text.\n")
    [row] = read(tmp_path).values()
    assert len(read_audio(Path(row.audio_path), 24000)) == pytest.approx(24000, abs=2500)


def test_other_audio_formats_name_the_command_to_convert(tmp_path: Path) -> None:
    write(tmp_path / "wavs" / "a.m4a", b"\0\0\0\x20ftypM4A ")
    write(tmp_path / "metadata.csv", "a.m4a|A text.\n")
    [row] = read(tmp_path).values()
    with pytest.raises(UserError, match=r"m4a is not supported; convert it: ffmpeg -i a\.m4a a\.flac"):
        read_audio(Path(row.audio_path), 24000)


def test_unusable_rows_leave_no_part_empty(tmp_path: Path) -> None:
    for number in range(100):
        write(tmp_path / "wavs" / f"{number:03d}.wav")
    listed = range(3, 99, 12)
    write(tmp_path / "metadata.csv", "".join(f"{number:03d}|Text {number}.\n" for number in listed))
    settings = defaults().preprocess
    for seed in range(5):
        rows = read(tmp_path, split_seed=seed)
        assert len(rows) == 100
        usable = [row for row in rows.values() if is_usable(row, settings)]
        assert len(usable) == len(listed)
        assert {row.split for row in usable} == {"train", "valid", "test"}


def test_audio_that_cannot_be_decoded_leaves_no_part_empty(tmp_path: Path) -> None:
    """Of 40 clips with transcripts 4 are usable: others are not audio, silent, too short, or of another script."""
    rate_hz, good = 24000, {3, 17, 21, 38}
    speech = np.random.default_rng(0).normal(0, 0.1, rate_hz)
    lines = []
    for number in range(40):
        path, text = tmp_path / "wavs" / f"{number:03d}.wav", f"Text {number}."
        path.parent.mkdir(exist_ok=True)
        if number in good:
            soundfile.write(path, speech, rate_hz)
        elif number % 4 == 0:
            write(path, b"no audio")
        elif number % 4 == 1:
            soundfile.write(path, speech * 0, rate_hz)
        elif number % 4 == 2:
            soundfile.write(path, speech[:2400], rate_hz)
        else:
            soundfile.write(path, speech, rate_hz)
            text = "привет"
        lines.append(f"{number:03d}|{text}\n")
    write(tmp_path / "metadata.csv", "".join(lines))
    for seed in range(8):
        rows = read(tmp_path, split_seed=seed)
        assert {row.split for id_, row in rows.items() if int(id_) in good} == {"train", "valid", "test"}


def test_unusable_speakers_leave_no_part_empty(tmp_path: Path) -> None:
    """Like VCTK's p315, who has no transcripts."""
    lines = []
    for speaker in range(25):
        for number in range(2):
            write(tmp_path / "wavs" / f"{speaker}_{number}.wav")
            text = "" if speaker >= 3 else f"A text {number}."
            lines.append(json.dumps({"audio": f"wavs/{speaker}_{number}.wav", "text": text, "speaker": f"p{speaker}"}))
    path = write(tmp_path / "list.jsonl", "\n".join(lines))
    for seed in range(5):
        usable = [row for row in read(path, split_seed=seed).values() if row.text]
        assert {row.split for row in usable} == {"train", "valid", "test"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"audio": "C:\\data\\a.wav", "text": "A text."}, "its path has backslashes"),
        ({"sound": "a.wav", "text": "A text."}, "no audio: none of the fields audio"),
    ],
)
@pytest.mark.parametrize("extractor", ["MelRVQ", "fitted MelRVQ"])
def test_stage_1_without_a_result_names_the_most_common_reason(
    tmp_path: Path, line: dict, words: str, extractor: str
) -> None:
    config = write_config(tmp_path / "exp_config.json", write_custom(tmp_path / "good", 8), tmp_path)
    if extractor != "MelRVQ":
        # If the codebooks exist, it is the corpus itself that fails.
        assert call(bins.preprocess, "--config", str(config)) == 0
    path = write(tmp_path / "bad" / "list.jsonl", "\n".join(json.dumps(line) for _ in range(5)))
    with pytest.raises(UserError, match=words) as caught:
        call(bins.preprocess, "--config", str(config), "--set", f"dataset_path.custom={path}")
    message = str(caught.value)
    assert "\n" not in message
    assert (
        "training utterances has audio that can be read" in message
        or "5 utterances were left out, 5 of them" in message
    )


def test_a_corpus_is_named_once(tmp_path: Path) -> None:
    config = write_config(tmp_path / "exp_config.json", tmp_path, tmp_path)
    with pytest.raises(UserError, match="dataset names custom twice"):
        load_settings(config, Settings, ['dataset=["custom", "custom"]'], root=ROOT)
