"""The commands of the recipe and their outputs.

A fixture is a command. It runs once, on the outputs of others. One command of each of the stages 1 to 3 runs through
`run.sh`, the others run in this process.
"""

import json
import os
import shutil
import subprocess
from contextlib import redirect_stderr
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import bins.inference
import bins.train
from tests.conftest import ROOT
from tests.support.recipe import (
    BROKEN_AUDIO,
    NO_TRANSCRIPT,
    NUM_ROWS,
    Recipe,
    listing,
    make_recipe,
    prompt,
    write_corpus,
)
from tests.support.tiny_runs import ROOMY, call, let_speech_end, sets

Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Recipe:
    return make_recipe(tmp_path_factory.mktemp("recipe"), corpus)


@pytest.fixture(scope="module")
def features(recipe: Recipe) -> Done:
    return recipe.run("--stage", "1", "--config", str(recipe.config), "--num_workers", "1")


def train(recipe: Recipe, name: str, stage: int, *flags: str) -> str:
    """Train in this process; returns what was logged."""
    own = ("--name", name, f"--config={recipe.config}", "--model_train_stage", str(stage))
    with redirect_stderr(StringIO()) as logged:
        assert call(bins.train, *flags, *own) == 0
    return logged.getvalue()


@pytest.fixture(scope="module")
def ar(recipe: Recipe, features: Done) -> Done:
    own = ("--name", "ar", "--stage", "2", f"--config={recipe.config}", "--model_train_stage", "1")
    return recipe.run("--set", "train.dataloader.num_worker=1", *own)


@pytest.fixture(scope="module")
def nar(recipe: Recipe, ar: Done) -> str:
    return train(recipe, "nar", 2, "--ar_model_ckpt_dir", str(recipe.experiment("ar")))


@pytest.fixture(scope="module")
def resumed(recipe: Recipe, ar: Done) -> str:
    recipe.copied("ar", "resumed")
    return train(recipe, "resumed", 1, "--resume", "true", "--set", "train.max_steps=6")


@pytest.fixture(scope="module")
def uninterrupted(recipe: Recipe, features: Done) -> str:
    return train(recipe, "uninterrupted", 1, "--set=train.max_steps=6")


@pytest.fixture(scope="module")
def rewound(recipe: Recipe, ar: Done) -> str:
    older = recipe.copied("ar", "rewound") / "checkpoint" / recipe.checkpoints("ar")[0].name
    return train(recipe, "rewound", 1, "--resume_from_ckpt_path", str(older))


@pytest.fixture(scope="module")
def finetuned(recipe: Recipe, ar: Done) -> str:
    flags = ("--resume_from_ckpt_path", str(recipe.experiment("ar")), "--resume_type", "finetune")
    return train(recipe, "finetuned", 1, *flags, "--set", "train.max_steps=1", "--set", "train.base_lr=1e-12")


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint / "model.safetensors")


def training_state(checkpoint: Path) -> dict:
    return torch.load(checkpoint / "training_state.pt", weights_only=True)


def optimizer_steps(checkpoint: Path) -> set[int]:
    return {int(state["step"]) for state in training_state(checkpoint)["optimizer"]["state"].values()}


def assert_same(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> None:
    assert some.keys() == others.keys()
    assert [name for name, value in some.items() if not value.equal(others[name])] == []


def scalars(experiment: Path, name: str) -> dict[int, float]:
    """A scalar of the experiment's log, by step."""
    values: dict[int, float] = {}
    for file in sorted((experiment / "log").glob("events.*")):
        events = EventAccumulator(str(file)).Reload()
        if name in events.Tags()["scalars"]:
            values |= {event.step: event.value for event in events.Scalars(name)}
    return values


def test_the_counts_of_stage_1_add_up_and_failures_are_named(recipe: Recipe, features: Done) -> None:
    stats = json.loads((recipe.data / "stats.json").read_text())
    split_sizes = {split: counts["utterances"] for split, counts in stats["splits"].items()}
    assert split_sizes == {"train": 10, "valid": 4, "test": 8}
    assert sum(split_sizes.values()) + stats["dropped"] == NUM_ROWS
    failures = [json.loads(line) for line in (recipe.data / "failures.jsonl").read_text().splitlines()]
    reasons = {failure["id"]: failure["reason"] for failure in failures}
    assert reasons.keys() == {BROKEN_AUDIO, NO_TRANSCRIPT}
    assert "cannot be read as audio" in reasons[BROKEN_AUDIO]
    assert reasons[NO_TRANSCRIPT] == "no transcript"
    assert stats["dropped_why"] == {"unreadable audio": 1, "no transcript": 1}
    shards = {split: len(list((recipe.data / split).glob("cuts.*.jsonl.gz"))) for split in split_sizes}
    assert shards == {"train": 3, "valid": 1, "test": 2}
    symbols = (recipe.data / "symbols.dict").read_text().splitlines()
    assert len(symbols) == stats["phones"] + len(("<pad>", "<bos>", "<eos>"))
    assert "2 left out" in features.stderr


def test_ar_training_writes_a_complete_experiment(recipe: Recipe, ar: Done) -> None:
    experiment = recipe.experiment("ar")
    assert json.loads((experiment / "args.json").read_text())["train"]["base_lr"] == 1e-3
    assert (experiment / "symbols.dict").read_bytes() == (recipe.data / "symbols.dict").read_bytes()
    codec = "mel_rvq.safetensors"
    assert (experiment / codec).read_bytes() == (recipe.data.parent / codec).read_bytes()
    older, newer = recipe.checkpoints("ar")
    loss = scalars(experiment, "train/loss")
    for step, checkpoint in ((2, older), (3, newer)):
        position, loss_in_name = checkpoint.name.rsplit("-", 1)
        assert position == f"epoch-0000_step-{step:07d}_loss" and len(loss_in_name.split(".")[1]) == 6
        # TensorBoard stores single precision.
        assert float(loss_in_name) == pytest.approx(loss[step], abs=1e-5)
    assert {name.split("_")[0] for name in weights(newer)} == {"ar"}
    assert optimizer_steps(newer) == {3}
    assert (weights(older)["ar_predict_layer.weight"] != weights(newer)["ar_predict_layer.weight"]).any()


def test_ar_training_logs_numbers_speech_and_attention(recipe: Recipe, ar: Done) -> None:
    experiment = recipe.experiment("ar")
    for name in ("loss", "ar/loss", "ar/top10", "learning_rate", "gradient_norm", "tokens_per_second"):
        values = scalars(experiment, f"train/{name}")
        assert list(values) == [1, 2, 3], name
        assert np.isfinite(list(values.values())).all(), name
    assert scalars(experiment, "train/learning_rate")[1] == pytest.approx(0.5e-3)
    assert list(scalars(experiment, "valid/loss")) == [3]
    [file] = (experiment / "log").glob("events.*")
    events = EventAccumulator(str(file)).Reload()
    [speech] = events.Audio("sample/speech")
    assert (speech.step, speech.sample_rate) == (3, 24000)
    assert speech.length_frames > 0
    for name in ("sample/attention", "sample/spectrogram"):
        [picture] = events.Images(name)
        assert picture.step == 3 and picture.width > 100


def test_nar_training_copies_the_ar(recipe: Recipe, nar: str) -> None:
    newest_ar, newest = weights(recipe.checkpoints("ar")[-1]), weights(recipe.checkpoints("nar")[-1])
    assert_same({name: value for name, value in newest.items() if name.startswith("ar_")}, newest_ar)
    assert any(name.startswith("nar_decoder") for name in newest)
    logged = [f"train/nar_{stage}/top10" for stage in range(1, 8)]
    # Each step trains and logs one stage.
    assert sum(len(scalars(recipe.experiment("nar"), name)) for name in logged) == 3
    assert list(scalars(recipe.experiment("nar"), "valid/nar_7/top10")) == [3]


def test_a_resumed_training_equals_an_uninterrupted_one(recipe: Recipe, resumed: str, uninterrupted: str) -> None:
    broken, whole = recipe.checkpoints("resumed"), recipe.checkpoints("uninterrupted")
    # Step 3 is inside the first epoch and step 6 inside the second, so the position in the data is restored, too.
    assert broken[-1].name == whole[-1].name
    assert broken[-1].name.startswith("epoch-0001_step-0000006")
    assert_same(weights(broken[-1]), weights(whole[-1]))
    states = [training_state(path) for path in (broken[-1], whole[-1])]
    assert states[0]["progress"] == states[1]["progress"]
    assert states[0]["progress"]["batch"] == 1
    assert states[0]["ranks"][0]["cpu"].equal(states[1]["ranks"][0]["cpu"])
    assert optimizer_steps(broken[-1]) == {6}
    for name in ("train/loss", "train/gradient_norm", "valid/loss", "train/learning_rate"):
        values = [scalars(recipe.experiment(experiment), name) for experiment in ("resumed", "uninterrupted")]
        assert values[0] == values[1]
        assert 6 in values[0]


def test_a_given_checkpoint_is_used_even_if_there_is_a_newer_one(recipe: Recipe, rewound: str) -> None:
    older, newer = recipe.checkpoints("ar")
    assert f"resumed from {recipe.experiment('rewound') / 'checkpoint' / older.name}" in rewound
    superseded = recipe.experiment("rewound") / "checkpoint" / "superseded"
    assert [path.name for path in superseded.iterdir()] == [newer.name]
    assert [path.name for path in recipe.checkpoints("rewound")] == [older.name, newer.name]
    # The same step from the same state gives the same weights.
    assert_same(weights(recipe.checkpoints("rewound")[-1]), weights(newer))


def test_fine_tuning_takes_only_the_weights(recipe: Recipe, finetuned: str) -> None:
    [checkpoint] = recipe.checkpoints("finetuned")
    assert checkpoint.name.startswith("epoch-0000_step-0000001")
    assert optimizer_steps(checkpoint) == {1}
    source, tuned = weights(recipe.checkpoints("ar")[-1]), weights(checkpoint)
    assert source.keys() == tuned.keys()
    # The learning rate was almost 0, so these are still the initial weights.
    for name, value in source.items():
        torch.testing.assert_close(tuned[name], value, rtol=0, atol=1e-9)
    first_loss = scalars(recipe.experiment("finetuned"), "train/loss")[1]
    assert first_loss != scalars(recipe.experiment("ar"), "train/loss")[1]
    assert len(recipe.checkpoints("ar")) == 2


# Characters that a shell could expand, split or drop.
TEXT = 'Fünf  "große" Vögel; it\'s $HOME, `ls` * \\n & more!'


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_each_stage_starts_its_program_with_the_flags_as_given(shell: str, tmp_path: Path) -> None:
    """With a `python` that prints its arguments: whatever `run.sh` does with them, it does before Python starts."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\n[ "$1" = -c ] || printf "%s\\0" "$CUDA_VISIBLE_DEVICES" "$VALLET_GPU" "$@"\n')
    python.chmod(0o755)
    environment = {**os.environ, "VIRTUAL_ENV": str(tmp_path), "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    for stage, program in enumerate(("build_corpus", "preprocess", "train", "inference", "evaluate", "webui")):
        stage_flags = ["-s", str(stage)] if stage % 2 else [f"--stage={stage}"]
        flags = ["--a", TEXT, *stage_flags, "--b=my speech", "--gpu", "3", "--set", "c=[1, 2]", ""]
        command = [shell, str(ROOT / "egs" / "tts" / "VALLE" / "run.sh"), *flags]
        done = subprocess.run(command, env=environment, cwd=tmp_path, check=True, capture_output=True, text=True)
        given = ["--a", TEXT, "--b=my speech", "--set", "c=[1, 2]", ""]
        assert done.stdout.split("\0")[:-1] == ["3", "3", str(ROOT / "bins" / f"{program}.py"), *given]


def test_single_inference_writes_only_into_its_folder(recipe: Recipe, nar: str, tmp_path: Path) -> None:
    if shutil.which("bash") is not None:
        recipe = replace(recipe, shell="bash")
    audio, text = prompt(recipe.corpus, "101")
    shutil.copy(audio, tmp_path / "my prompt.wav")
    shutil.copytree(recipe.experiment("nar"), tmp_path / "nar")
    let_speech_end(tmp_path / "nar")
    before = listing(tmp_path)
    # Run from a folder that has a module with the name of one of ours, with relative paths and flags in any order.
    (tmp_path / "utils.py").write_text("raise RuntimeError('not the project')")
    recipe.run(
        *("--infer_audio_prompt", "my prompt.wav", f"--infer_text={TEXT}", "--copysyn", "--infer_mode=single"),
        *("--stage", "3", "--infer_text_prompt", text, "--infer_expt_dir", "nar", "--infer_output_dir=my speech"),
        *sets(ROOMY),
        cwd=tmp_path,
    )
    after = listing(tmp_path)
    new = {"my speech/single/my prompt.wav", "my speech/single/my prompt_copysyn.wav", "my speech/results.jsonl"}
    # The choice of attention heads is kept for the next time.
    assert after.keys() - before.keys() == new | {"utils.py", "nar/attention_heads.json"}
    assert {name: after[name] for name in before} == before
    [row] = [json.loads(line) for line in (tmp_path / "my speech" / "results.jsonl").read_text().splitlines()]
    speech, rate_hz = soundfile.read(tmp_path / "my speech" / row["audio"])
    assert (row["text"], row["prompt_text"], row["prompt_audio"]) == (TEXT, text, str(tmp_path / "my prompt.wav"))
    assert (rate_hz, row["seconds"]) == (24000, round(len(speech) / 24000, 3))
    assert row["ended"] == "eos" and "error" not in row
    assert row["real_time_factor"] > 0
    assert np.abs(speech).max() > 0
    copy, _ = soundfile.read(tmp_path / "my speech" / "single" / "my prompt_copysyn.wav")
    assert len(copy) == pytest.approx(24000 * row["prompt"]["seconds"], abs=24)


def test_batch_inference_synthesizes_every_valid_line(
    recipe: Recipe, nar: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (first, first_text), (second, second_text) = (prompt(recipe.corpus, speaker) for speaker in ("101", "102"))
    lines = [
        "# text|text_prompt|audio_prompt",
        f"Put it there.|{first_text}|{first}",
        "",
        f"{second_text}|{second}|Have you seen it?",
        f"Nobody says this.|{first_text}|missing.wav",
        f"A last one. | {second_text} | {second}",
    ]
    (tmp_path / "list.txt").write_text("\n".join(lines) + "\n")
    before = listing(recipe.experiment("nar"))
    flags = ("--infer_mode", "batch", "--infer_expt_dir", str(recipe.experiment("nar")))
    monkeypatch.chdir(tmp_path)
    assert call(bins.inference, *flags, "--test_list_file", "list.txt", "--infer_output_dir", "out") == 1
    after = listing(recipe.experiment("nar"))
    assert after.keys() - before.keys() <= {"attention_heads.json"} and before.items() <= after.items()
    names = [f"batch/2_{first.stem}", f"batch/4_{second.stem}", f"batch/6_{second.stem}"]
    assert listing(tmp_path / "out").keys() == {f"{name}.wav" for name in names} | {"results.jsonl"}
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    spoken = {row["name"]: row["text"] for row in rows if "audio" in row}
    assert spoken == dict(zip(names, ["Put it there.", "Have you seen it?", "A last one."], strict=True))
    [failed] = [row for row in rows if "audio" not in row]
    assert failed["name"] == "batch/5"
    assert "missing.wav" in failed["error"]
    logged = capsys.readouterr().err
    assert "Traceback" not in logged
    assert [line for line in logged.splitlines() if "missing.wav" in line] == [f"batch/5: {failed['error']}"]
