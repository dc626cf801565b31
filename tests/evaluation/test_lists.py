"""The test lists that stage 4 writes: the rules of the papers, and the formats of published test sets."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

import bins.evaluate
from evaluation.protocol import LISTS, write_test_lists, write_vctk_lists
from evaluation.published import named_list
from evaluation.published_sets import write_librispeech_pc_lists, write_seed_lists
from processors.manifest import SourceUtterance
from synthesis.test_lists import ListItem, read_test_list
from tests.support.hostile import saved, tone
from tests.support.tiny_runs import call
from utils.cli import find_path
from utils.errors import UserError

SEED_EN = (
    "common_voice_en_1-common_voice_en_2|We asked over twenty people.|prompt-wavs/common_voice_en_1.wav|Get it early.\n"
    "common_voice_en_3-common_voice_en_1|It's here.|prompt-wavs/common_voice_en_3.wav|We asked.|wavs/spoken.wav\n"
)
SEED_ZH = "00000309-00000300|在此，我们祝愿。|prompt-wavs/00000309.wav|二十/七个，红色数字。\n"
F5_LIST = (
    "4992-41806-0009\t4.355\texclaimed Bill Harmon to his wife.\t4992-23283-0000\t6.645\tBut the more had prevailed.\n"
    '4992-23283-0001\t2.71\tHer health is not good"!\t4992-23283-0003\t4.645\tSo there is to me"! he added.\n'
)
MANIFEST = (
    ("test-clean/4992/23283/4992-23283-0000.flac", 6.645, "But the more had prevailed.", "but -- THE more"),
    ("LibriSpeech/test-clean/4992/23283/4992-23283-0001.flac", 2.71, 'Her health is not good"!', "Her health"),
    ("test-clean/4992/23283/4992-23283-0003.flac", 4.645, 'So there is to me"!  he added.', "So there"),
    ("test-clean/4992/41806/4992-41806-0009.flac", 4.355, "a|b", "a b"),
)


def sound(path: Path, seconds: float = 0.1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    saved(tone(seconds, 8000), 8000)(path.with_suffix(".wav"))
    return path.with_suffix(".wav").rename(path)


def items(path: Path) -> list[ListItem]:
    """The items of a list, read as stages 3 and 4 do; all have audio."""
    found = read_test_list(path, lambda name: find_path(name, "audio_prompt", path.parent))
    assert all(isinstance(item, ListItem) for item in found), found
    return found


def texts(path: Path) -> list[tuple[str, str]]:
    return [(item.text, item.prompt_text) for item in items(path)]


@pytest.fixture
def librispeech(tmp_path: Path) -> Path:
    """A folder with LibriSpeech's test-clean."""
    for name, seconds, *_ in MANIFEST:
        sound(tmp_path / "LibriSpeech" / name.removeprefix("LibriSpeech/"), seconds)
    return tmp_path / "LibriSpeech"


def make_rows(folder: Path, seconds: dict[str, float], speakers: dict[str, str]) -> list[SourceUtterance]:
    for name, length in seconds.items():
        sound(folder / f"{name}.wav", length)
    return [
        SourceUtterance(name, str(folder / f"{name}.wav"), f"text {name}", speakers[name], "test") for name in seconds
    ]


def stems(path: Path) -> Sequence[tuple[str, str]]:
    """The reference and the prompt of each line."""
    return [(item.reference_audio.stem, item.prompt_audio.stem) for item in items(path) if item.reference_audio]


def test_the_usual_lists_have_texts_of_4_to_10_s_and_prompts_of_the_same_speaker(tmp_path: Path) -> None:
    seconds = {"a": 3.5, "b": 6.0, "c": 9.9, "d": 10.5, "e": 3.1, "f": 5.0, "g": 8.0, "h": 7.0}
    speakers = {name: "s1" if name < "f" else "s2" if name < "h" else "s3" for name in seconds}
    rows = make_rows(tmp_path, seconds, speakers)
    broken = [
        SourceUtterance("gone", str(tmp_path / "gone.wav"), "text", "s1", "test"),
        SourceUtterance("none", str(tmp_path / "b.wav"), None, "s1", "test"),
        SourceUtterance("bar", str(tmp_path / "b.wav"), "a|b", "s1", "test"),
    ]
    paths = write_test_lists([*rows, *broken], tmp_path / "lists", "corpus")
    assert [path.stem for path in paths] == list(LISTS)
    continuation, cross, previous = paths
    assert stems(continuation) == [(name, name) for name in "bcfgh"]
    assert texts(continuation) == [(f"text {name}", f"text {name}") for name in "bcfgh"]
    # The second speaker has one utterance that is short enough for a prompt: it prompts the other, and has no prompt.
    assert [reference for reference, _ in stems(cross)] == ["b", "c", "g"]
    for reference, prompt in stems(cross):
        assert speakers[prompt] == speakers[reference] and prompt != reference and 2 <= seconds[prompt] <= 5
    # The first utterance of a speaker has the last one as its prompt; the third speaker has no other.
    assert stems(previous) == [("b", "c"), ("c", "b"), ("f", "g"), ("g", "f")]
    assert [named_list(path).num_texts for path in paths] == [5, 3, 4]
    assert named_list(cross).name == "corpus cross_sentence"
    with pytest.raises(UserError, match="no utterance of 4 to 10 s"):
        write_test_lists(rows[:1], tmp_path / "lists", "corpus")


def test_a_prompt_of_vctk_is_the_longest_below_3_5_and_10_s(tmp_path: Path) -> None:
    seconds = {"a": 2.5, "b": 2.9, "c": 4.0, "d": 12.0, "e": 6.0, "f": 7.0}
    rows = make_rows(tmp_path, seconds, {name: "s1" if name < "e" else "s2" for name in seconds})
    short, middle, long = write_vctk_lists(rows, tmp_path / "lists", "vctk")
    assert [prompt for _, prompt in stems(short)] == ["b"] and [prompt for _, prompt in stems(middle)] == ["c"]
    assert [prompt for _, prompt in stems(long)] == ["c", "f"]
    assert all(reference != prompt for path in (short, middle, long) for reference, prompt in stems(path))
    assert named_list(long).name == "vctk 10s"
    with pytest.raises(UserError, match="no speaker has an utterance of less than 3 s"):
        write_vctk_lists([row for row in rows if row.speaker == "s2"], tmp_path / "lists", "vctk")


def test_seed_tts_eval_is_read_as_it_is_published(tmp_path: Path) -> None:
    for name in ("en/prompt-wavs/common_voice_en_1", "en/prompt-wavs/common_voice_en_3", "zh/prompt-wavs/00000309"):
        sound(tmp_path / f"{name}.wav")
    for name in ("en/wavs/common_voice_en_1-common_voice_en_2", "en/wavs/spoken"):
        sound(tmp_path / f"{name}.wav")
    (tmp_path / "en" / "meta.lst").write_text(SEED_EN)
    (tmp_path / "zh" / "hardcase.lst").write_text(SEED_ZH)
    english, hard = write_seed_lists(tmp_path, tmp_path / "lists")
    first, second = items(english)
    assert first.name == "batch/common_voice_en_1-common_voice_en_2"
    assert (first.text, first.prompt_text) == ("Get it early.", "We asked over twenty people.")
    assert first.prompt_audio == tmp_path / "en" / "prompt-wavs" / "common_voice_en_1.wav"
    # A recording stands in the fifth field, or in wavs under the line's name.
    assert first.reference_audio == tmp_path / "en" / "wavs" / f"{Path(first.name).name}.wav"
    assert second.reference_audio == tmp_path / "en" / "wavs" / "spoken.wav"
    [item] = items(hard)
    assert (item.text, item.reference_audio) == ("二十/七个，红色数字。", None)
    names = [(found.name, found.num_texts, found.language) for found in map(named_list, (english, hard)) if found]
    assert names == [("seed-tts-eval test_en", 2, "en-us"), ("seed-tts-eval hardcase", 1, "cmn")]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("a|b|c", "line 2: has 3 fields"),
        ("a|b|prompt-wavs/none.wav|text", "line 2: .*none.wav is missing"),
    ],
)
def test_a_wrong_line_of_a_meta_file_is_one_line(tmp_path: Path, line: str, words: str) -> None:
    sound(tmp_path / "en" / "prompt-wavs" / "common_voice_en_1.wav")
    (tmp_path / "en" / "meta.lst").write_text(f"{SEED_EN.splitlines()[0]}\n{line}\n")
    with pytest.raises(UserError, match=f"meta.lst: {words}") as raised:
        write_seed_lists(tmp_path, tmp_path / "lists")
    assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match=r"--test_set .*zh: has none of en/meta.lst"):
        write_seed_lists(tmp_path / "zh", tmp_path / "lists")


def write_librispeech_pc(folder: Path) -> Path:
    folder.mkdir()
    names = ("audio_filepath", "duration", "text", "text_raw")
    rows = (dict(zip(names, row, strict=True)) for row in MANIFEST)
    (folder / "test-clean.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "librispeech_pc_test_clean_cross_sentence.lst").write_text(F5_LIST)
    return folder


def test_librispeech_pc_has_punctuation_and_f5_ttss_list_its_own_prompts(tmp_path: Path, librispeech: Path) -> None:
    source = write_librispeech_pc(tmp_path / "pc")
    cross, f5 = write_librispeech_pc_lists(source, librispeech, tmp_path / "lists")
    # Of the manifest's utterances, one is short enough to be a prompt, and one has a bar.
    prompts = [("4992-23283-0000", "4992-23283-0001"), ("4992-23283-0003", "4992-23283-0001")]
    assert set(stems(cross)) <= {*prompts, ("4992-23283-0000", "4992-23283-0003")} and len(stems(cross)) == 2
    assert texts(cross)[1] == ('So there is to me"! he added.', 'Her health is not good"!')
    first, second = items(f5)
    assert (first.text, first.prompt_text) == ("But the more had prevailed.", "exclaimed Bill Harmon to his wife.")
    assert first.name == "batch/4992-23283-0000" and first.prompt_audio.stem == "4992-41806-0009"
    assert second.reference_audio == librispeech / "test-clean" / "4992" / "23283" / "4992-23283-0003.flac"
    assert named_list(f5).name == "librispeech-pc test-clean f5-tts"
    # One of the files alone, and the folder above the corpus.
    [alone] = write_librispeech_pc_lists(source / "test-clean.json", librispeech.parent, tmp_path / "more")
    assert stems(alone) == stems(cross)


def test_wrong_files_of_librispeech_pc_are_one_line(tmp_path: Path, librispeech: Path) -> None:
    source = write_librispeech_pc(tmp_path / "pc")
    manifest, f5 = sorted(source.iterdir(), key=lambda path: path.suffix)
    for path, line, words in (
        (manifest, '{"audio_filepath": "x", "duration": 1}', "line 5: has no audio_filepath, duration and text"),
        (f5, "a\tb", "line 3: has 2 fields"),
        (f5, F5_LIST.splitlines()[0].replace("0009", "0008"), r"line 3: .*4992-41806-0008.flac is missing"),
    ):
        whole = path.read_text()
        path.write_text(f"{whole}{line}\n")
        with pytest.raises(UserError, match=f"{path.name}: {words}") as raised:
            write_librispeech_pc_lists(path, librispeech, tmp_path / "lists")
        assert "\n" not in str(raised.value)
        path.write_text(whole)
    with pytest.raises(UserError, match=r"--test_set .*: has neither test-clean.json"):
        write_librispeech_pc_lists(librispeech, librispeech, tmp_path / "lists")
    with pytest.raises(UserError, match=r"dataset_path.librispeech: .* has no test-clean"):
        write_librispeech_pc_lists(source, source, tmp_path / "lists")


def build(name: str, folder: Path, *flags: str) -> list[str]:
    """The names of the lists that stage 4 writes into `folder`, with their texts."""
    assert call(bins.evaluate, "--build_test_lists", name, "--eval_output_dir", str(folder), *flags) == 0
    found = {path.name: named_list(path) for path in sorted(folder.iterdir())}
    return [f"{name}: {named.name}, {named.num_texts}" for name, named in found.items() if named is not None]


def test_stage_4_writes_the_lists_of_each_test_set(tmp_path: Path, librispeech: Path) -> None:
    chapter = librispeech / "test-clean" / "4992" / "23283"
    lines = (f"4992-23283-{number} SOME WORDS\n" for number in ("0000", "0001", "0003"))
    (chapter / "4992-23283.trans.txt").write_text("".join(lines))
    # The papers test on test-clean alone.
    other = shutil.copytree(librispeech / "test-clean", librispeech / "test-other")
    assert sorted(other.rglob("*.flac"))
    corpus = ("--set", f"dataset_path.librispeech={librispeech}")
    assert build("librispeech", tmp_path / "ls", *corpus) == [
        "continuation.txt: librispeech test-clean continuation, 2",
        "cross_sentence.txt: librispeech test-clean cross_sentence, 2",
        "previous_utterance.txt: librispeech test-clean previous_utterance, 2",
    ]
    source = write_librispeech_pc(tmp_path / "pc")
    assert build("librispeech-pc", tmp_path / "lists", "--test_set", str(source), *corpus) == [
        "librispeech_pc_cross_sentence.txt: librispeech-pc test-clean cross_sentence, 2",
        "librispeech_pc_f5_tts.txt: librispeech-pc test-clean f5-tts, 2",
    ]


def test_vctk_is_tested_on_its_test_split_where_it_is_trained_on(tmp_path: Path) -> None:
    for speaker in ("p1", "p2", "p3", "p4"):
        for number, seconds in enumerate((2.0, 4.0, 6.0, 3.0)):
            sound(tmp_path / "vctk" / "wav48_silence_trimmed" / speaker / f"{speaker}_{number}_mic2.flac", seconds)
            text = tmp_path / "vctk" / "txt" / speaker / f"{speaker}_{number}.txt"
            text.parent.mkdir(parents=True, exist_ok=True)
            text.write_text("some words")
    corpus = ("--set", f"dataset_path.vctk={tmp_path / 'vctk'}", "--set", "preprocess.split_by=speaker")
    whole = build("vctk", tmp_path / "whole", *corpus)
    assert whole == ["vctk_10s.txt: vctk 10s, 4", "vctk_3s.txt: vctk 3s, 4", "vctk_5s.txt: vctk 5s, 4"]
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"base_config": "config/valle.json", "dataset": ["vctk"]}))
    [first, *_] = build("vctk", tmp_path / "part", "--config", str(config), *corpus)
    assert first == "vctk_10s.txt: vctk 10s, 1"
