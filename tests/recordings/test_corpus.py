"""Stage 0: recordings that are made of known clips come back as these clips."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyloudnorm
import pytest
import soundfile

import bins.build_corpus
import bins.evaluate
from processors.espeak_speech import SAMPLE_RATE_HZ, espeak_synthesizer
from tests.support.faults import ended, in_child, killed
from tests.support.recordings import ANNA, BEN, LONG, SENTENCES, SHORT, Clip, say, use_stand_ins, write_recording
from tests.support.tiny_runs import ROOMY, call, infer, let_speech_end, prepare, sets, train, write_config
from utils.errors import UserError

CLUSTER = ("--speaker_model", "stand-in")
TALKS = ("talk_1.wav", "talk_2.flac")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def build(raw: Path, corpus: Path, *flags: str, **changes: Any) -> list[dict[str, Any]]:
    """Stage 0 in this process; returns the rows of the corpus."""
    own = {"recordings.num_workers": 0, **{f"recordings.{key}": value for key, value in changes.items()}}
    folders = ("--audio_dir", str(raw), "--output_dir", str(corpus))
    assert call(bins.build_corpus, *folders, *flags, *sets(own)) == 0
    return lines(corpus / "metadata.jsonl")


@pytest.fixture(scope="module")
def stand_ins() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_stand_ins(monkeypatch)
        yield


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[Clip]]]:
    """Two talks of two voices, one of them with noise that is heard."""
    raw = tmp_path_factory.mktemp("raw")
    clips = {}
    for index, name in enumerate(TALKS):
        said = [(text, (ANNA, BEN)[(place + index) % 2]) for place, text in enumerate(SENTENCES)]
        clips[name] = write_recording(raw / name, said, noise=(0.0005, 0.003)[index], seed=index)
    return raw, clips


@pytest.fixture(scope="module")
def corpus(
    stand_ins: None, truth: tuple[Path, dict[str, list[Clip]]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    build(truth[0], folder, *CLUSTER)
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips in a folder for each speaker, with text files, except for one."""
    raw = tmp_path_factory.mktemp("pairs")
    with espeak_synthesizer() as espeak:
        for place, text in enumerate(SENTENCES):
            voice = (ANNA, BEN)[place % 2]
            audio = np.pad(say(espeak, text, voice), SAMPLE_RATE_HZ // 2)
            path = raw / voice.speaker / f"{place}.wav"
            path.parent.mkdir(exist_ok=True)
            soundfile.write(path, audio + 0.0005 * np.random.default_rng(place).standard_normal(len(audio)), 24000)
            if place:
                path.with_suffix(".txt").write_text(f" {text}\n")
    return raw


def test_segments_are_the_clips(corpus: Path, truth: tuple[Path, dict[str, list[Clip]]]) -> None:
    rows = lines(corpus / "metadata.jsonl")
    for name, clips in truth[1].items():
        found = [row for row in rows if row["recording"] == name]
        assert len(found) == len(clips)
        for row, clip in zip(found, clips, strict=True):
            assert abs(row["start"] - clip.start) <= 0.05 and abs(row["end"] - clip.end) <= 0.05
            assert row["duration"] == pytest.approx(row["end"] - row["start"] + 0.06, abs=0.002)
            assert row["text"] and row["language"] == "en"


def test_voices_are_told_apart_across_recordings(corpus: Path, truth: tuple[Path, dict[str, list[Clip]]]) -> None:
    rows = lines(corpus / "metadata.jsonl")
    clips = [clip for name in TALKS for clip in truth[1][name]]
    pairs = {(row["speaker"], clip.speaker) for row, clip in zip(rows, clips, strict=True)}
    assert len(pairs) == 2 and {speaker for speaker, _ in pairs} == {"speaker_0001", "speaker_0002"}


def test_segments_have_the_loudness(corpus: Path) -> None:
    for row in lines(corpus / "metadata.jsonl"):
        audio, rate_hz = soundfile.read(corpus / row["audio"])
        assert pyloudnorm.Meter(rate_hz).integrated_loudness(audio) == pytest.approx(-23, abs=0.5)
        assert row["loudness_lufs"] == pytest.approx(-23, abs=0.05) and np.abs(audio).max() < 1


def test_the_ratio_of_speech_to_noise_is_near_the_true_one(
    corpus: Path, truth: tuple[Path, dict[str, list[Clip]]]
) -> None:
    rows = lines(corpus / "metadata.jsonl")
    for name, noise in zip(TALKS, (0.0005, 0.003), strict=True):
        audio, rate_hz = soundfile.read(truth[0] / name)
        for row in rows:
            if row["recording"] == name:
                part = audio[round(row["start"] * rate_hz) : round(row["end"] * rate_hz)]
                # Pauses inside do not count as speech, and half of the noise is above what is kept at 16 kHz.
                true_db = 10 * np.log10((np.mean(part**2) - noise**2) / (noise**2 * 16 / 24))
                assert row["snr_db"] == pytest.approx(true_db, abs=2)


def test_the_report_has_sound(corpus: Path) -> None:
    page = (corpus / "report.html").read_text(encoding="utf-8")
    assert page.count("<audio") == 5 and "data:audio/flac;base64," in page
    assert "0.01 h in 2 recordings" in page and "speaker_0002" in page and "word word" in page


def test_stages_1_to_4_run_on_the_corpus(corpus: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "exp_config.json", corpus, tmp_path)
    prepare(config, {})
    stats = json.loads((tmp_path / "data" / "custom" / "stats.json").read_text())
    assert stats["dropped"] == 0
    assert sum(split["utterances"] for split in stats["splits"].values()) == 2 * len(SENTENCES)
    cut = (tmp_path / "data" / "custom" / "splits.tsv").read_text()
    assert "talk_1.wav_0001\t" in cut

    for stage, name in ((1, "ar"), (2, "nar")):
        given = ("--ar_model_ckpt_dir", str(tmp_path / "ckpts" / "ar")) if stage == 2 else ()
        train(config, name, stage, ROOMY, *given)
    nar = tmp_path / "ckpts" / "nar"
    let_speech_end(nar)
    rows = lines(corpus / "metadata.jsonl")
    # Of each speaker, one row is the prompt of another one's text.
    pairs = [(row, next(one for one in rows if one["speaker"] == row["speaker"])) for row in rows]
    test_list = tmp_path / "list.txt"
    test_list.write_text(
        "".join(
            f"{row['text']}|{prompt['text']}|{corpus / prompt['audio']}|{corpus / row['audio']}\n"
            for row, prompt in pairs
            if row is not prompt
        )
    )
    given = ("--test_list_file", str(test_list))
    infer(nar, tmp_path / "out", {}, "--infer_mode", "batch", *given)
    own = ("--audio_dir", str(tmp_path / "out"), "--eval_output_dir", str(tmp_path / "eval"), "--asr", "none")
    assert call(bins.evaluate, *own, *given) in (0, 1)
    systems = json.loads((tmp_path / "eval" / "metrics.json").read_text())["systems"]
    measured = systems["out"]["num_utterances"] + len(systems["out"]["failures"])
    assert measured == 2 * len(SENTENCES) - 2 and systems["out"]["metrics"]["mcd_db"]["mean"] > 0


def test_texts_beside_the_recordings_are_kept(pairs: Path, tmp_path: Path) -> None:
    rows = build(pairs, tmp_path, "--asr", "none", "--language", "en")
    assert {(row["text"], row["speaker"], row["language"]) for row in rows} == {
        (text, ("anna", "ben")[place % 2], "en-us") for place, text in enumerate(SENTENCES) if place
    }
    # Silence at the ends is cut off.
    for row in rows:
        seconds = soundfile.info(pairs / row["recording"]).duration
        assert abs(row["start"] - 0.5) <= 0.05 and abs(row["end"] - (seconds - 0.5)) <= 0.05
    [left] = lines(tmp_path / "left_out.jsonl")
    assert (left["id"], left["category"]) == ("anna/0.wav", "no transcript") and "--asr whisper" in left["reason"]
    assert "no transcript" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_table_names_parts_speakers_and_languages(truth: tuple[Path, dict[str, list[Clip]]], tmp_path: Path) -> None:
    raw, clips = shutil.copytree(truth[0], tmp_path / "raw"), truth[1][TALKS[0]]
    rows = [
        {
            "audio": TALKS[0],
            "text": clip.text,
            "speaker": clip.speaker,
            "language": "en-gb",
            "offset": clip.start - 0.2,
            "duration": clip.end - clip.start + 0.4,
        }
        for clip in clips
    ]
    # The whole of a talk has one text: nothing says where its words are.
    rows += [{"audio": TALKS[1], "text": "A long talk.", "speaker": "both"}, {"audio": "lost.wav", "text": "Gone."}]
    (raw / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = build(raw, tmp_path / "corpus", "--asr", "none")
    assert [(row["text"], row["speaker"], row["language"]) for row in found] == [
        (clip.text, clip.speaker, "en-gb") for clip in clips
    ]
    for row, clip in zip(found, clips, strict=True):
        assert abs(row["start"] - clip.start) < 0.05 and abs(row["end"] - clip.end) < 0.05
    assert {row["category"] for row in lines(tmp_path / "corpus" / "left_out.jsonl")} == {"too long", "no audio file"}


def test_a_killed_run_continues_to_the_same_rows(pairs: Path, tmp_path: Path) -> None:
    flags = ("--audio_dir", str(pairs), "--asr", "none", *sets({"recordings.num_workers": 0}))
    build(pairs, tmp_path / "whole", "--asr", "none")
    broken = tmp_path / "broken"
    # At later and later moments, until there is nothing left to interrupt.
    moments = iter(np.arange(0.2, 10, 0.2))
    num_killed = 0
    while killed(in_child(bins.build_corpus, (*flags, "--output_dir", str(broken))), next(moments)):
        num_killed += 1
    assert num_killed
    # One result is half written, one has lost its audio, and a file never got its name.
    first = min((broken / "results").rglob("*.json"))
    first.write_text(first.read_text()[:40])
    min((broken / "audio" / "ben").rglob("*.flac")).unlink()
    (broken / "audio" / "ben" / ".0123.part.flac").touch()
    build(pairs, broken, "--asr", "none", num_workers=1)
    for name in ("metadata.jsonl", "left_out.jsonl", "stats.json", "report.html"):
        assert (broken / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    for row in lines(broken / "metadata.jsonl"):
        assert (broken / row["audio"]).read_bytes() == (tmp_path / "whole" / row["audio"]).read_bytes()
    assert not list(broken.rglob(".*"))


def test_ranks_make_the_same_rows(pairs: Path, tmp_path: Path) -> None:
    build(pairs, tmp_path / "one", "--asr", "none")
    flags = ("--audio_dir", str(pairs), "--output_dir", str(tmp_path / "two"), "--asr", "none", "--num_workers", "0")
    assert ended(in_child(bins.build_corpus, flags, num_processes=2)) == 0
    for name in ("metadata.jsonl", "left_out.jsonl"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_a_limit_cuts_nothing_again(pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = build(pairs, tmp_path, "--asr", "none")
    times = {
        path: path.stat().st_mtime_ns
        for path in [*tmp_path.glob("results/**/*.json"), *tmp_path.glob("audio/**/*.flac")]
    }
    rate = sorted(row["characters_per_second"] for row in rows)[2]
    fewer = build(pairs, tmp_path, "--asr", "none", max_characters_per_second=rate)
    assert fewer == [row for row in rows if row["characters_per_second"] <= rate] and len(fewer) < len(rows)
    assert {row["category"] for row in lines(tmp_path / "left_out.jsonl")} == {"no transcript", "fast"}
    assert times == {path: path.stat().st_mtime_ns for path in times}
    assert "6 of 6 recordings are there already" in capsys.readouterr().err


def test_copies_are_left_out(stand_ins: None, truth: tuple[Path, dict[str, list[Clip]]], tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    audio, rate_hz = soundfile.read(shutil.copy(truth[0] / TALKS[0], raw / "a.wav"))
    soundfile.write(raw / "b.flac", audio, rate_hz)
    soundfile.write(raw / "c.mp3", 0.6 * audio, rate_hz)
    rows = build(raw, tmp_path / "corpus", *CLUSTER)
    assert {row["recording"] for row in rows} == {"a.wav"} and len(rows) == len(SENTENCES)
    left = {row["id"]: row for row in lines(tmp_path / "corpus" / "left_out.jsonl")}
    assert left["b.flac"]["reason"] == "the same audio as a.wav"
    assert left["c.mp3/0003"]["reason"] == "like a.wav/0003" and len(left) == 1 + len(SENTENCES)
    kept = build(raw, tmp_path / "corpus", *CLUSTER, min_duplicate_similarity=None)
    assert len(kept) == 2 * len(SENTENCES)


def test_what_cannot_be_used_is_named(pairs: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    (raw / "anna").mkdir(parents=True)
    (raw / "anna" / "broken.wav").write_text("no audio")
    (raw / "anna" / "broken.m4a").write_text("no audio")
    soundfile.write(raw / "anna" / "silent.wav", np.zeros(3 * 24000), 24000)
    soundfile.write(raw / "anna" / "cut.flac", np.random.default_rng(0).uniform(-0.1, 0.1, 3 * 24000), 24000)
    (raw / "anna" / "cut.flac").write_bytes((raw / "anna" / "cut.flac").read_bytes()[:50000])
    for path in raw.rglob("*.*"):
        path.with_suffix(".txt").write_text("Words.")
    shutil.copy(pairs / "ben" / "1.wav", raw / "anna")
    shutil.copy(pairs / "ben" / "1.txt", raw / "anna")
    # The corpus may lie among the recordings, and its own audio is not read.
    for _ in range(2):
        rows = build(raw, raw / "corpus", "--asr", "none")
        assert [row["id"] for row in rows] == ["anna/1.wav/0001"]
    reasons = {row["id"]: row["reason"] for row in lines(raw / "corpus" / "left_out.jsonl")}
    assert reasons.keys() == {"anna/broken.wav", "anna/broken.m4a", "anna/cut.flac", "anna/silent.wav/0001"}
    assert "cannot be read as audio" in reasons["anna/broken.wav"] and "no speech" in reasons["anna/silent.wav/0001"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--audio_dir", "{empty}", "--output_dir", "{new}"), "--audio_dir: .*empty has no audio files"),
        (("--audio_dir", "{pairs}/none", "--output_dir", "{new}"), "--audio_dir: no such file or folder"),
        (("--audio_dir", "{pairs}/ben/1.wav", "--output_dir", "{new}"), "--audio_dir: .* is a file"),
        (("--audio_dir", "{pairs}", "--output_dir", "{pairs}"), "--output_dir: .* has the recordings in it"),
        (
            ("--audio_dir", "{pairs}", "--output_dir", "{new}", *CLUSTER),
            "--speaker_model: .*recordings.speakers=cluster",
        ),
        (
            (
                *("--audio_dir", "{pairs}", "--output_dir", "{new}", "--asr", "none", "--num_workers", "0"),
                *("--set", "recordings.min_snr_db=90"),
            ),
            "nothing could be used; 6 were left out, 5 of them as noisy, such as anna/2.wav/0001: speech is",
        ),
        (
            ("--audio_dir", "{pairs}", "--output_dir", "{new}", "--set", "recordings.max_pause=0.2"),
            "max_pause must not be below cut_pause",
        ),
    ],
)
def test_mistakes_are_one_line(flags: tuple[str, ...], words: str, pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    places = {"empty": tmp_path / "empty", "new": tmp_path / "new", "pairs": pairs}
    with pytest.raises(UserError, match=words) as error:
        call(bins.build_corpus, *(flag.format(**places) for flag in flags))
    assert "\n" not in str(error.value)


def test_long_speech_is_cut_and_short_speech_joined(stand_ins: None, tmp_path: Path) -> None:
    said = [(LONG, ANNA), (SHORT, ANNA), (SENTENCES[0], ANNA), (SENTENCES[1], BEN)]
    clips = write_recording(tmp_path / "raw" / "x.wav", said, 0.001, pauses=(0.6, 0.7))
    alone = write_recording(tmp_path / "raw" / "y.wav", [(SHORT, ANNA), (SENTENCES[2], ANNA)], 0.001, pauses=(1.2, 1.3))
    rows = build(tmp_path / "raw", tmp_path / "corpus", *CLUSTER, max_duration=5)
    assert all(2 <= row["end"] - row["start"] <= 5 for row in rows)
    assert clips[0].end - clips[0].start > 5 and rows[0]["end"] < clips[0].end
    # Short speech joins what is near.
    [joined] = [row for row in rows if row["start"] < clips[1].start + 0.05 and clips[1].end - 0.05 < row["end"]]
    assert joined["end"] - joined["start"] > clips[1].end - clips[1].start + 1
    # What is farther away than the longest pause is not joined.
    [left] = lines(tmp_path / "corpus" / "left_out.jsonl")
    assert (left["recording"], left["category"]) == ("y.wav", "too short") and abs(left["end"] - alone[0].end) <= 0.05
