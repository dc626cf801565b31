"""The flags of stage 3 take effect in its outputs."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

import bins.inference
from synthesis.results import free_name
from tests.support.recipe import Recipe, listing, prompt


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


class Speaker:
    """Synthesizes one text into a new folder with each call."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe, self.folder = recipe, folder
        self.audio, self.text = prompt(recipe.corpus, "103")
        self.num_calls = 0

    def say(self, *flags: str, text: str | None = "The old house is near the river.", output: str = "") -> np.ndarray:
        self.num_calls += 1
        text_flags = () if text is None else ("--infer_text", text)
        status = self.recipe.call(
            bins.inference,
            *("--infer_expt_dir", str(self.recipe.experiment("nar")), "--infer_mode", "single", *text_flags),
            *("--infer_text_prompt", self.text, "--infer_audio_prompt", str(self.audio)),
            *("--infer_output_dir", str(self.output), *flags),
        )
        # Speech that was cut off is a failure, but its audio is written.
        assert status == any("error" in row for row in rows(self.output))
        return soundfile.read(self.output / "single" / f"{output or self.audio.stem}.wav")[0]

    @property
    def output(self) -> Path:
        return self.folder / str(self.num_calls)


@pytest.fixture
def speaker(trained: Recipe, tmp_path: Path) -> Speaker:
    return Speaker(trained, tmp_path)


def test_sampling_flags_take_effect(speaker: Speaker) -> None:
    greedy = speaker.say("--top_k", "1", "--seed", "1")
    for flags in (["--top_k=1", "--seed=2"], ["--top_p", "1e-6"], ["--temperature", "1e-4"]):
        np.testing.assert_array_equal(speaker.say(*flags), greedy, err_msg=str(flags))
    drawn = speaker.say("--seed", "1")
    np.testing.assert_array_equal(speaker.say("--seed", "1"), drawn)
    for flags in (["--seed", "2"], ["--top_k", "5"], ["--top_p", "0.2"], ["--temperature", "0.3"]):
        assert not np.array_equal(speaker.say(*flags, *([] if "--seed" in flags else ["--seed", "1"])), drawn), flags
    np.testing.assert_array_equal(speaker.say("--set", "infer.top_k=1"), greedy)


def test_a_config_gives_the_infer_section(speaker: Speaker, tmp_path: Path) -> None:
    greedy = speaker.say("--top_k", "1")
    config = json.loads(speaker.recipe.config.read_text())
    config["infer"]["top_k"] = 1
    (tmp_path / "other.json").write_text(json.dumps(config))
    np.testing.assert_array_equal(speaker.say("--config", str(tmp_path / "other.json"), "--seed", "5"), greedy)


def test_speech_that_is_cut_off_is_a_failure_everywhere(trained: Recipe, tmp_path: Path, capsys) -> None:
    audio, text = prompt(trained.corpus, "101")
    single = ("--infer_mode", "single", "--infer_text_prompt", text, "--infer_audio_prompt", str(audio))
    where = ("--infer_expt_dir", str(trained.experiment("nar")), "--infer_output_dir", str(tmp_path))
    flags = ("--set", "infer.max_seconds_per_phone=0.001", "--set", "infer.min_seconds_per_phone=0")
    assert trained.call(bins.inference, *where, *single, "--infer_text", "Nine ships.", *flags) == 1
    [row] = rows(tmp_path)
    assert row["ended"] in ("cap", "floor") and row["tries"] == 2 and "tries" in row["error"]
    # Its audio is written nevertheless.
    assert (tmp_path / row["audio"]).is_file()
    stderr = capsys.readouterr().err
    assert "0 of 1 texts synthesized" in stderr and f"{row['name']}: {row['error']}" in stderr


def test_changes_of_a_prompt_are_in_the_results(speaker: Speaker, tmp_path: Path) -> None:
    plain = speaker.say("--top_k", "1")
    samples, rate_hz = soundfile.read(speaker.audio)
    quiet = np.zeros(rate_hz)
    speaker.audio = tmp_path / "padded.wav"
    soundfile.write(speaker.audio, np.concatenate([quiet, samples, quiet]), rate_hz)
    padded = speaker.say("--top_k", "1")
    [row] = rows(speaker.output)
    assert row["prompt"]["trimmed_seconds"] == pytest.approx([1, 1], abs=0.5)
    assert row["prompt"]["seconds"] < len(samples) / rate_hz + 0.2
    assert len(padded) == pytest.approx(len(plain), rel=0.5)


def test_a_text_file_is_synthesized_in_parts(speaker: Speaker, tmp_path: Path, capsys) -> None:
    said = "The old house is near the river. It was built long ago.\n\nNobody lives there now. [pause 0.5s] The end."
    (tmp_path / "story.txt").write_text(said)
    limits = ("--set", "infer.max_part_seconds=2", "--copysyn")
    speech = speaker.say("--infer_text_file", str(tmp_path / "story.txt"), *limits, text=None, output="story")
    [row] = rows(speaker.output)
    assert row["name"] == "single/story" and row["text"] == said
    assert row["parts"][-1]["text"] == "The end." and len(row["parts"]) >= 4
    last, end = row["parts"][-2:]
    assert round(24000 * end["start"]) - round(24000 * last["end"]) == 12000
    assert len(speech) == round(24000 * end["end"]) and "parts are done" in capsys.readouterr().err
    listed = sorted(path.name for path in speaker.output.rglob("*"))
    assert listed == ["results.jsonl", "single", "story.wav", "story_copysyn.wav"]
    # The same text in a flag has the same parts.
    np.testing.assert_array_equal(speaker.say(*limits, text=said), speech)


def test_continual_keeps_the_start_and_reads_the_prompts_text(speaker: Speaker) -> None:
    settings = ("continual_prompt_seconds=1", "min_seconds_per_phone=0", "max_seconds_per_phone=1e-6")
    overrides = [word for setting in settings for word in ("--set", f"infer.{setting}")]
    speech = speaker.say("--continual", "--copysyn", *overrides, text=None)
    # At least one frame of 1/25 s is generated.
    assert len(speech) == 24000 + 960
    [row] = rows(speaker.output)
    assert (row["text"], row["seconds"], row["ended"]) == (speaker.text, 1.04, "cap")
    copy, _ = soundfile.read(speaker.output / "single" / f"{speaker.audio.stem}_copysyn.wav")
    assert len(copy) == pytest.approx(24000 * row["prompt"]["seconds"], abs=24)


def test_a_single_run_never_replaces_the_speech_of_another(speaker: Speaker, trained: Recipe, capsys) -> None:
    first = speaker.say()
    stem = speaker.audio.stem
    for number in (2, 3):
        speaker.num_calls -= 1
        speaker.say(text="Another text.", output=f"{stem}_{number}")
        assert f"{stem}_{number}.wav" in capsys.readouterr().err
    np.testing.assert_array_equal(soundfile.read(speaker.output / "single" / f"{stem}.wav")[0], first)
    texts = {row["name"]: row["text"] for row in rows(speaker.output)}
    others = {f"single/{stem}_{number}": "Another text." for number in (2, 3)}
    assert texts == {f"single/{stem}": "The old house is near the river.", **others}


def test_a_copy_never_replaces_the_speech_of_a_prompt_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "single").mkdir()
    (tmp_path / "single" / "anna_copysyn.wav").touch()
    (tmp_path / "single" / "anna_2.wav").touch()
    assert free_name(tmp_path, "single/anna") == "single/anna_3"
    assert free_name(tmp_path, "single/ben") == "single/ben"


def test_a_list_never_replaces_the_speech_of_another_list(trained: Recipe, tmp_path: Path, capsys) -> None:
    audio, text = prompt(trained.corpus, "101")
    flags = ("--infer_expt_dir", str(trained.experiment("nar")), "--infer_output_dir", str(tmp_path / "out"))

    def say(said: str) -> int | str | None:
        (tmp_path / "list.txt").write_text(f"{said}|{text}|{audio}")
        return trained.call(
            bins.inference, *flags, "--infer_mode", "batch", "--test_list_file", str(tmp_path / "list.txt")
        )

    say("One text.")
    before = listing(tmp_path / "out")
    assert say("Another text.") == 1
    assert "is there with another text or prompt" in capsys.readouterr().err
    assert listing(tmp_path / "out") == before
    # The same list may run again.
    say("One text.")
    assert listing(tmp_path / "out").keys() == before.keys()
    assert listing(tmp_path / "out") != before


def test_without_an_output_folder_speech_goes_into_the_experiment(trained: Recipe) -> None:
    experiment = trained.copied("nar", "nar_speaks")
    before = listing(experiment)
    audio, text = prompt(trained.corpus, "102")
    single = ("--infer_mode", "single", "--infer_text", "Wait.", "--infer_text_prompt", text)
    flags = ("--infer_expt_dir", str(experiment), *single, "--infer_audio_prompt", str(audio))
    assert trained.call(bins.inference, *flags) in (0, 1)
    new = listing(experiment).keys() - before.keys()
    assert new == {f"result/single/{audio.stem}.wav", "result/results.jsonl"}


@pytest.mark.parametrize("flag", ["--test_list_file", "--infer_test_list_file"])
def test_a_batch_equals_each_line_alone(trained: Recipe, tmp_path: Path, flag: str) -> None:
    voices = [prompt(trained.corpus, name) for name in ("101", "102", "103")]
    texts = ["A short one.", "This is a text that is rather longer than that.", "There were seven ships."]
    lines = [f"{said}|{text}|{audio}\n" for said, (audio, text) in zip(texts, voices, strict=True)]
    (tmp_path / "list.txt").write_text("".join(lines))
    common = ("--infer_expt_dir", str(trained.experiment("nar")), "--infer_output_dir", str(tmp_path / "out"))
    assert trained.call(bins.inference, *common, "--infer_mode", "batch", flag, str(tmp_path / "list.txt")) in (0, 1)
    for number, (said, (audio, text)) in enumerate(zip(texts, voices, strict=True), start=1):
        single = ("--infer_text", said, "--infer_text_prompt", text, "--infer_audio_prompt", str(audio))
        assert trained.call(bins.inference, *common, "--infer_mode", "single", *single) in (0, 1)
        together, alone = (
            soundfile.read(tmp_path / "out" / name)[0]
            for name in (f"batch/{number}_{audio.stem}.wav", f"single/{audio.stem}.wav")
        )
        np.testing.assert_array_equal(together, alone)


def test_every_line_gives_audio_or_a_reason(trained: Recipe, tmp_path: Path) -> None:
    """Prompts and texts of all sorts in one list: audio for the valid lines, the reason for the others."""
    voice, said = prompt(trained.corpus, "101")
    speech, rate_hz = soundfile.read(voice)
    short, long = speech[: rate_hz // 10], np.tile(speech, 20)[: 60 * rate_hz]
    at_48k = np.repeat(speech, 2)
    prompts = {
        "clipped": (np.sign(speech), rate_hz),
        "at_48k": (at_48k, 48000),
        "stereo": (np.stack([speech, speech], axis=1), rate_hz),
        "n" * 245: (speech, rate_hz),
    }
    useless = {"short": short, "long": long, "silent": 0 * speech}
    for name, (samples, rate) in (prompts | {name: (samples, rate_hz) for name, samples in useless.items()}).items():
        soundfile.write(tmp_path / f"{name}.wav", samples, rate)
    (tmp_path / "text.wav").write_text("This is no audio.")
    texts = ("a", "12345", "😀 hello", "naïve", "hello " * 150)
    good = [f"Hello there.|{said}|{tmp_path / name}.wav" for name in prompts] + [
        f"{text}|{said}|{voice}" for text in texts
    ]
    good += [f"Hello there.|{said}|{voice}|{voice}", f"{said}|{voice}|Hello there.|{voice}"]
    bad = {
        f"|{said}|{voice}": "nothing that can be spoken",
        f"?!|{said}|{voice}": "nothing that can be spoken",
        f"Привет|{said}|{voice}": "read in its language: П (CYRILLIC CAPITAL LETTER PE), р (CYRILLIC SMALL LETTER ER)",
        f"Hello.|Привет|{voice}": "the prompt's text has letters",
        f"Hello.||{voice}": "nothing that can be spoken",
        f"Hello.|{voice}": "2 fields",
        f"a|b|c|{voice}|{voice}": "5 fields",
        f"a|b|{voice}|missing.wav": "no such file",
        f"Hello.|{said}|{tmp_path / 'missing.wav'}": "no such file",
        f"Hello.|{said}|{tmp_path / 'text.wav'}": "cannot be read as audio",
        f"Hello.|{said}|{tmp_path}": "not a file",
        f"Hello.|{said}|{tmp_path / 'short.wav'}": "s of sound; at least 0.5 s",
        f"Hello.|{said}|{tmp_path / 'long.wav'}": "no pause in its first 15 s",
        f"Hello.|{said}|{tmp_path / 'silent.wav'}": "the prompt is silent",
    }
    lines = ["# a comment", *good, "", "   ", *bad]
    (tmp_path / "list.txt").write_bytes(("\ufeff" + "\r\n".join(lines)).encode())
    flags = (
        "--infer_mode",
        "batch",
        "--test_list_file",
        str(tmp_path / "list.txt"),
        "--set",
        "infer.max_batch_size=20",
    )
    where = ("--infer_expt_dir", str(trained.experiment("nar")), "--infer_output_dir", str(tmp_path / "out"))
    assert trained.call(bins.inference, *where, *flags) == 1
    found = rows(tmp_path / "out")
    assert len(found) == len(good) + len(bad)
    for row in found[: len(good)]:
        audio, _ = soundfile.read(tmp_path / "out" / row["audio"])
        assert len(audio) and np.isfinite(audio).all() and row["ended"] in ("eos", "cap", "floor")
    for row, reason in zip(found[len(good) :], bad.values(), strict=True):
        assert reason in row["error"], row
    assert len(list((tmp_path / "out").rglob("*.wav"))) == len(good)
