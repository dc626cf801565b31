"""Released models of the reference recipe in the programs: inference, fine-tuning, conversion."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

import bins.convert
import bins.inference
import bins.train
from processors.symbols import SymbolTable
from tests.support.recipe import Recipe, listing, prompt
from tests.support.reference import SYMBOLS, write_reference
from tests.support.standin_encodec import make_standin


@pytest.fixture
def released(trained: Recipe, tmp_path: Path) -> Path:
    """A released folder with the codec of the recipe's data."""
    write_reference(tmp_path / "released")
    return tmp_path / "released"


def train(recipe: Recipe, name: str, stage: int, *flags: str) -> int | str | None:
    own = ("--config", str(recipe.config), "--name", name, "--model_train_stage", str(stage))
    still = ("--set", "train.max_steps=1", "--set", "train.base_lr=1e-12", "--set", "train.valid_interval=100")
    return recipe.call(bins.train, *own, *flags, *still)


def speak(recipe: Recipe, experiment: Path, output: Path, *flags: str) -> tuple[np.ndarray, dict]:
    audio, text = prompt(recipe.corpus, "102")
    texts = ("--infer_text", "Wait for me.", "--infer_text_prompt", text, "--infer_audio_prompt", str(audio))
    own = ("--infer_expt_dir", str(experiment), "--infer_output_dir", str(output), "--infer_mode", "single")
    status = recipe.call(bins.inference, *own, *texts, "--top_k", "1", *flags)
    [row] = [json.loads(line) for line in (output / "results.jsonl").read_text().splitlines()]
    assert status == (row["ended"] != "eos")
    return soundfile.read(output / row["audio"])[0], row


def test_a_released_folder_works_with_encodec_before_and_after_conversion(trained: Recipe, tmp_path: Path) -> None:
    released = tmp_path / "released"
    write_reference(released, prefix_mode=2, preprocess='"acoustic_token_extractor": "Encodec"')
    args = (released / "args.json").read_text().replace('"acoustic_token_extractor": "MelRVQ", ', "")
    (released / "args.json").write_text(args)
    weights = tmp_path / "encodec.th"
    make_standin([prompt(trained.corpus, "101")[0]], weights)
    codec = ("--set", f"preprocess.codec_checkpoint={weights}")
    before = listing(released)
    speech, row = speak(trained, released, tmp_path / "out", *codec)
    assert listing(released) == before
    assert np.abs(speech).max() > 0 and row["ended"] == "cap"
    # 16 frames of 1/75 s for each id of the prompt and the text together, plus one.
    num_ids = (row["seconds"] * 75 - 1) / 16
    assert num_ids == pytest.approx(round(num_ids), abs=0.01) and num_ids > len("Wait for me.")

    flags = ("--input", str(released), "--output", str(tmp_path / "ours"), *codec)
    assert trained.call(bins.convert, *flags) == 0
    assert listing(released) == before
    # The folder contains the codec. The maximum length is our own: seconds per phone of the text.
    again, row = speak(trained, tmp_path / "ours", tmp_path / "out_of_ours")
    shared = min(len(speech), len(again)) // 2
    assert row["ended"] == "cap" and len(again) < len(speech)
    # Nearly the same: the NAR attends to all frames, of which there are fewer.
    np.testing.assert_allclose(again[:shared], speech[:shared], atol=5e-3)
    assert np.abs(speech[:shared]).max() > 0.05


def test_fine_tuning_keeps_every_id_and_begins_with_the_weights(trained: Recipe, released: Path) -> None:
    before = listing(released)
    [checkpoint] = (released / "checkpoint").iterdir()
    source = torch.load(checkpoint / "pytorch_model.bin", weights_only=True)
    tune = ("--resume_from_ckpt_path", str(checkpoint), "--resume_type", "finetune")
    assert train(trained, "released_ar", 1, *tune) == 0
    assert train(trained, "released_nar", 2, *tune) == 0
    assert train(trained, "nar_on_released", 2, "--ar_model_ckpt_dir", str(released)) == 0
    assert listing(released) == before
    new = [phone for phone in SymbolTable.load(trained.data / "symbols.dict").phones if phone not in SYMBOLS]
    assert new
    for name, models in (("released_ar", ["ar"]), ("released_nar", ["ar", "nar"]), ("nar_on_released", ["ar"])):
        table = SymbolTable.load(trained.experiment(name) / "symbols.dict")
        assert table.phones == (*sorted(SYMBOLS), *sorted(new))
        [tuned] = trained.checkpoints(name)
        meta = json.loads((tuned / "meta.json").read_text())
        assert meta["step"] == 1 and meta["codec"] is not None
        found = load_file(tuned / "model.safetensors")
        for model in models:
            for key in [key for key in found if key.startswith(f"{model}_")]:
                torch.testing.assert_close(found[key], source[key], rtol=0, atol=1e-9)


def test_unsupported_uses_of_a_released_folder_are_one_line(trained: Recipe, released: Path, capsys) -> None:
    before = listing(released)
    [checkpoint] = (released / "checkpoint").iterdir()

    def error_of(*flags: str, name: str = "from_released") -> str:
        capsys.readouterr()
        assert train(trained, name, 2, *flags) == 1
        # Unknown settings are logged in a separate line before.
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: ")
        return error

    source = ("--resume_from_ckpt_path", str(released))
    assert "holds weights alone; continue from it with finetune" in error_of(*source)
    assert "model.nhead is 4, but 2" in error_of(*source, "--resume_type", "finetune", "--set", "model.nhead=4")
    small = ("--set", "model.text_token_num=40")
    assert "model.text_token_num" in error_of(*source, "--resume_type", "finetune", *small)
    log_dir = ("--set", f"log_dir={released.parent}")
    assert "--name" in error_of("--ar_model_ckpt_dir", str(released), *log_dir, name=released.name)
    (checkpoint / "pytorch_model.bin").write_bytes(b"no")
    assert "pytorch_model.bin" in error_of(*source, "--resume_type", "finetune")
    (checkpoint / "pytorch_model.bin").unlink()
    assert "no whole checkpoint" in error_of(*source, "--resume_type", "finetune")
    assert listing(released).keys() < before.keys()
