"""Adapters through the programs: training, resuming, speaking, merging, and a base that is not there."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

import bins.average
import bins.convert
import bins.inference
import bins.train
import vallet
from models.experiment import read_weights
from tests.support.recipe import Recipe, listing, prompt
from utils.checkpoint import find_checkpoints, resolve_checkpoint
from utils.errors import UserError
from web.experiments import can_speak

LORA = ("--set", "train.lora.rank=2", "--set", "train.base_lr=1e-2")


def start(recipe: Recipe, name: str, stage: int, *flags: str) -> int | str | None:
    own = ("--config", str(recipe.config), "--name", name, "--model_train_stage", str(stage))
    return recipe.call(bins.train, *own, *flags)


def from_base(recipe: Recipe, base: str) -> tuple[str, ...]:
    return ("--resume_from_ckpt_path", str(recipe.experiment(base)), "--resume_type", "finetune", *LORA)


def speak(recipe: Recipe, experiment: Path, output: Path) -> np.ndarray:
    audio, text = prompt(recipe.corpus, "102")
    texts = ("--infer_text", "Wait for me.", "--infer_text_prompt", text, "--infer_audio_prompt", str(audio))
    own = ("--infer_expt_dir", str(experiment), "--infer_output_dir", str(output), "--infer_mode", "single")
    # After three steps of training, speech may not end by itself; the status is then 1.
    assert recipe.call(bins.inference, *own, *texts) in (0, 1)
    [path] = (output / "single").glob("*.wav")
    return soundfile.read(path)[0]


def tensors(recipe: Recipe, name: str, index: int = -1) -> dict[str, torch.Tensor]:
    return load_file(recipe.checkpoints(name)[index] / "adapter.safetensors")


def assert_same(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> None:
    assert some.keys() == others.keys()
    assert [name for name, value in some.items() if not value.equal(others[name])] == []


@pytest.fixture(scope="module")
def adapter(trained: Recipe) -> Recipe:
    """The trained recipe with an adapter of both models, experiment `adapter`."""
    before = listing(trained.experiment("nar"))
    assert start(trained, "adapter", 0, *from_base(trained, "nar")) == 0
    # The base is only read.
    assert listing(trained.experiment("nar")) == before
    return trained


def test_a_checkpoint_holds_the_adapter_alone_and_names_its_base(adapter: Recipe) -> None:
    last = adapter.checkpoints("adapter")[-1]
    assert sorted(path.name for path in last.iterdir()) == ["adapter.safetensors", "meta.json", "training_state.pt"]
    found = tensors(adapter, "adapter")
    assert all(name.endswith(("lora_A.weight", "lora_B.weight")) for name in found)
    assert {name.split("_")[0] for name in found} == {"ar", "nar"}
    assert any(value.any() for name, value in found.items() if "lora_B" in name)
    base = adapter.checkpoints("nar")[-1]
    recorded = json.loads((last / "meta.json").read_text())["adapter"]
    assert Path(recorded["base"]).name == base.name and recorded["rank"] == 2
    assert (last / "adapter.safetensors").stat().st_size < (base / "model.safetensors").stat().st_size / 4


def test_a_resumed_adapter_equals_an_uninterrupted_one(adapter: Recipe) -> None:
    with_average = ("--set", "train.ema_decay=0.5")
    assert start(adapter, "whole", 0, *from_base(adapter, "nar"), *with_average, "--set", "train.max_steps=5") == 0
    assert start(adapter, "parts", 0, *from_base(adapter, "nar"), *with_average, "--set", "train.max_steps=2") == 0
    resumed = ("--resume", "true", *LORA, *with_average, "--set", "train.max_steps=5")
    assert start(adapter, "parts", 0, *resumed) == 0
    assert_same(tensors(adapter, "parts"), tensors(adapter, "whole"))
    assert any(not value.equal(tensors(adapter, "parts", 0)[name]) for name, value in tensors(adapter, "whole").items())


def test_base_and_adapter_speak_as_the_merged_model(adapter: Recipe, tmp_path: Path) -> None:
    flags = ("--input", str(adapter.experiment("adapter")), "--output", str(tmp_path / "merged"), "--merge")
    assert adapter.call(bins.convert, *flags) == 0
    [written] = find_checkpoints(tmp_path / "merged" / "checkpoint")
    assert not written.is_adapter and "adapter" not in json.loads((written.path / "meta.json").read_text())
    base = load_file(adapter.checkpoints("nar")[-1] / "model.safetensors")
    found = load_file(written.weights)
    assert found.keys() == base.keys()
    changed = {name for name, value in found.items() if not value.equal(base[name])}
    assert changed and all("layers." in name and name.endswith("weight") and "norm" not in name for name in changed)

    speech = speak(adapter, adapter.experiment("adapter"), tmp_path / "a")
    np.testing.assert_array_equal(speech, speak(adapter, tmp_path / "merged", tmp_path / "b"))
    assert not np.array_equal(speech, speak(adapter, adapter.experiment("nar"), tmp_path / "c"))
    audio, text = prompt(adapter.corpus, "102")
    with vallet.load(adapter.experiment("adapter")) as tts:
        said = tts.say("Wait for me.", prompt=audio, prompt_text=text)
    assert len(said.audio) == len(speech)
    assert can_speak(resolve_checkpoint(adapter.experiment("adapter"), ""))


def test_adapters_of_one_model_leave_the_other_to_the_base(adapter: Recipe, tmp_path: Path) -> None:
    for stage, part in ((1, "ar"), (2, "nar")):
        assert start(adapter, f"adapter_{part}", stage, *from_base(adapter, "nar"), "--set", "train.max_steps=1") == 0
        assert {name.split("_")[0] for name in tensors(adapter, f"adapter_{part}")} == {part}
        assert len(speak(adapter, adapter.experiment(f"adapter_{part}"), tmp_path / part))
    # Merged into its base, an adapter of an AR is the AR of a NAR.
    assert start(adapter, "small", 1, *from_base(adapter, "ar"), "--set", "train.max_steps=1") == 0
    flags = ("--ar_model_ckpt_dir", str(adapter.experiment("small")), "--set", "train.max_steps=1")
    assert start(adapter, "of_small", 2, *flags) == 0
    expected = read_weights(resolve_checkpoint(adapter.experiment("small"), ""))
    found = load_file(adapter.checkpoints("of_small")[-1] / "model.safetensors")
    assert_same({name: value for name, value in found.items() if name.startswith("ar_")}, expected)


def test_training_of_all_weights_goes_on_from_an_adapter(adapter: Recipe) -> None:
    source = ("--resume_from_ckpt_path", str(adapter.experiment("adapter")), "--resume_type", "finetune")
    assert start(adapter, "whole_again", 0, *source, "--set", "train.max_steps=1", "--set", "train.base_lr=1e-12") == 0
    expected = read_weights(resolve_checkpoint(adapter.experiment("adapter"), ""))
    found = load_file(adapter.checkpoints("whole_again")[-1] / "model.safetensors")
    torch.testing.assert_close(found, {name: expected[name] for name in found}, rtol=0, atol=1e-6)


def test_the_average_of_adapters_is_that_of_the_merged_weights(adapter: Recipe, tmp_path: Path) -> None:
    flags = ("--infer_expt_dir", str(adapter.experiment("adapter")), "--num_checkpoints", "2")
    assert adapter.call(bins.average, *flags, "--output_dir", str(tmp_path / "averaged")) == 0
    first, second = map(read_weights, find_checkpoints(adapter.experiment("adapter") / "checkpoint"))
    [written] = find_checkpoints(tmp_path / "averaged" / "checkpoint")
    found = read_weights(written)
    assert not written.is_adapter
    torch.testing.assert_close(found, {name: (value + second[name]) / 2 for name, value in first.items()})


def test_a_base_is_found_beside_the_adapter_and_is_missed_in_one_line(
    adapter: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    moved, lost = tmp_path / "moved", tmp_path / "lost"
    for folder, names in ((moved, ("nar", "adapter")), (lost, ("adapter",))):
        for name in names:
            shutil.copytree(adapter.experiment(name), folder / name)
            for meta in (folder / name).glob("checkpoint/*/meta.json"):
                meta.write_text(meta.read_text().replace(str(adapter.folder), "/nowhere"))
    assert len(speak(adapter, moved / "adapter", tmp_path / "a"))

    def refused(expected: str) -> None:
        with pytest.raises(UserError, match=expected):
            vallet.load(lost / "adapter")
        own = ("--infer_expt_dir", str(lost / "adapter"), "--infer_mode", "batch", "--test_list_file", __file__)
        capsys.readouterr()
        assert adapter.call(bins.inference, *own) == 1
        assert len(capsys.readouterr().err.splitlines()) == 1
        assert not can_speak(resolve_checkpoint(lost / "adapter", ""))

    refused(r"/epoch-\S+: its base /nowhere\S+ is missing; put it back, or name it as \"base\" in \S+meta.json")
    # Named again, it counts if it is the right one.
    last = find_checkpoints(lost / "adapter" / "checkpoint")[-1].path
    meta = json.loads((last / "meta.json").read_text())
    for name, is_right in (("nar", True), ("ar", False)):
        meta["adapter"]["base"] = str(adapter.experiment(name))
        (last / "meta.json").write_text(json.dumps(meta))
        if is_right:
            assert len(speak(adapter, lost / "adapter", tmp_path / "b"))
        else:
            with pytest.raises(UserError, match="is not the base that it was trained on; name that one"):
                vallet.load(lost / "adapter")
    del meta["adapter"]["fingerprint"]
    (last / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(UserError, match=r"meta.json: does not name the base of the adapter"):
        vallet.load(lost / "adapter")


def test_mistakes_are_one_line(adapter: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    base, own = str(adapter.experiment("nar")), str(adapter.experiment("adapter"))
    finetune = ("--resume_type", "finetune")
    for name, stage, flags, expected in (
        ("none", 1, LORA, "train.lora.rank: an adapter begins with a trained model, named by --resume_from_ckpt_path"),
        ("none", 2, ("--resume_from_ckpt_path", base, *LORA), "is no adapter; an adapter begins with a trained model"),
        ("none", 0, ("--resume_from_ckpt_path", own, *finetune, *LORA), "is an adapter; merge it first"),
        ("nar", 0, ("--resume_from_ckpt_path", base, *finetune, *LORA), "cannot be in the folder of its base"),
        ("none", 2, (*from_base(adapter, "nar"), "--ar_model_ckpt_dir", base), "keeps the AR model of its base"),
        ("adapter", 0, ("--resume", "true"), "is an adapter of rank 2, alpha 16.0, targets ['in_proj'"),
        ("none", 0, (*from_base(adapter, "nar"), "--set", 'train.lora.targets=["qkv"]'), "lora.targets: no linear"),
    ):
        assert start(adapter, name, stage, *flags) == 1
        assert expected in capsys.readouterr().err.splitlines()[-1]
    for flags, expected in (
        (("--input", own), "is an adapter; --merge writes it merged into its base"),
        (("--input", base, "--merge"), "--merge: "),
    ):
        assert adapter.call(bins.convert, *flags, "--output", str(tmp_path / "new")) == 1
        assert expected in capsys.readouterr().err
        assert not (tmp_path / "new").exists()
