"""Folders of released models: recognised among stray files, and loaded without running code."""

import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models.experiment import Experiment, load_model
from processors.symbols import SymbolTable
from synthesis.convert import convert
from tests.support.reference import SYMBOLS, write_reference
from utils.checkpoint import find_checkpoints, load_weights, resolve_checkpoint
from utils.errors import UserError
from utils.log import set_up_logging

PAIR = ("nar_predict_layers.0.weight", "nar_audio_embeddings.2.word_embeddings.weight")


def load(folder: Path) -> dict[str, torch.Tensor]:
    source = resolve_checkpoint(folder, "--infer_expt_dir")
    return load_model(source, Experiment.of(source).settings()).named_weights()


def write_weights(folder: Path, weights: dict[str, torch.Tensor], suffix: str) -> None:
    """Replace the only checkpoint's weights by a file of this format."""
    [checkpoint] = (folder / "checkpoint").iterdir()
    for path in checkpoint.iterdir():
        path.unlink()
    if suffix == "safetensors":
        save_file({name: value.clone() for name, value in weights.items()}, checkpoint / "model.safetensors")
    else:
        is_archive = suffix == "bin"
        torch.save(weights, checkpoint / "pytorch_model.bin", _use_new_zipfile_serialization=is_archive)


@pytest.mark.parametrize("missing", [(), *[(name,) for name in PAIR]])
@pytest.mark.parametrize("suffix", ["safetensors", "bin", "bin of old torch"])
def test_both_formats_and_either_of_a_tied_pair(tmp_path: Path, suffix: str, missing: tuple[str, ...]) -> None:
    weights = write_reference(tmp_path)
    write_weights(tmp_path, {name: value for name, value in weights.items() if name not in missing}, suffix)
    found = load(tmp_path)
    assert found.keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in found.items())


def test_wrong_weights_are_an_error_of_one_line(tmp_path: Path) -> None:
    weights = write_reference(tmp_path)
    other = weights | {PAIR[0]: weights[PAIR[0]] + 1}
    short = {name: value for name, value in weights.items() if name not in PAIR}
    for wrong, words in (
        (other, f"{PAIR[1]} and {PAIR[0]} differ"),
        (short, "missing, such as nar_audio_embeddings.2"),
        (weights | {"nar_extra": torch.zeros(1)}, "unknown weight nar_extra"),
        (weights | {"ar_predict_layer.weight": torch.zeros(3, 32)}, "(3, 32), the model's is (1025, 32)"),
        ({"ar": 1}, "not a dict of named weights"),
    ):
        write_weights(tmp_path, wrong, "bin")
        with pytest.raises(UserError) as raised:
            load(tmp_path)
        assert words in str(raised.value) and "\n" not in str(raised.value)


def test_half_precision_weights_are_read_as_the_same_numbers(tmp_path: Path) -> None:
    halves = {name: value.half() for name, value in write_reference(tmp_path).items()}
    write_weights(tmp_path, halves, "bin")
    assert all(
        value.dtype == torch.float32 and value.equal(halves[name].float()) for name, value in load(tmp_path).items()
    )


def test_the_newest_is_the_highest_epoch_and_stray_files_do_not_matter(tmp_path: Path) -> None:
    write_reference(tmp_path)
    folder = tmp_path / "checkpoint"
    [first] = find_checkpoints(folder)
    for name in ("epoch-0010_step-0000100_loss-3.000000", "epoch-0009_step-0009999_loss-1.000000", "epoch-0011"):
        first.path.rename(folder / name) if name == "epoch-0011" else (folder / name).mkdir()
        if name != "epoch-0011":
            torch.save({}, folder / name / "pytorch_model.bin")
    (folder / "epoch-0099_step-0000100_loss-3.000000").mkdir()
    for stray in ("ckpts.json", "epoch-0100.pt", "epoch-0100_step-0000001_loss-1.000000"):
        (folder / stray).write_bytes(b"stray")
    for stray in ("optimizer.bin", "random_states_0.pkl", "scheduler.bin"):
        (folder / "epoch-0011" / stray).write_bytes(b"stray")
    assert resolve_checkpoint(tmp_path, "").path == folder / "epoch-0011"
    (folder / "final_epoch-0011_step-0000700_loss-2.000000").mkdir()
    torch.save({}, folder / "final_epoch-0011_step-0000700_loss-2.000000" / "pytorch_model.bin")
    assert resolve_checkpoint(folder, "").path.name.startswith("final_")
    # The path of one checkpoint means that checkpoint, even if a newer one exists.
    assert resolve_checkpoint(folder / "epoch-0011", "").path == folder / "epoch-0011"
    assert load(folder / "epoch-0011")


def test_unknown_keys_are_named_once_and_known_ones_take_effect(tmp_path: Path, capsys) -> None:
    write_reference(tmp_path, prefix_mode=2, preprocess='"add_blank": true')
    set_up_logging()
    settings = Experiment(tmp_path, is_reference=True).settings(["infer.top_k=7"])
    [line, blank] = capsys.readouterr().err.splitlines()
    for key in ("exp_name", "model.scaling_xformers", "preprocess.extract_phoneme", "train.ddp"):
        assert line.count(key) == 1
    assert "base_config" not in line and "max_epoch" not in line and "add_blank" in blank
    assert settings.preprocess.add_blank and settings.model.prefix_mode == 2 and settings.infer.top_k == 7
    # Keys that the file lacks have their defaults.
    assert settings.model.norm_first and settings.model.audio_token_num == 1024


def test_a_setting_of_a_wrong_type_names_the_file_and_the_key(tmp_path: Path) -> None:
    write_reference(tmp_path)
    args = (tmp_path / "args.json").read_text()
    (tmp_path / "args.json").write_text(args.replace('"nhead": 2', '"nhead": "two"'))
    with pytest.raises(UserError, match=r"args\.json: model\.nhead must be an integer"):
        load(tmp_path)


class Attack:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "The code ran.")


@pytest.mark.parametrize("kind", ["archive", "old torch", "plain pickle"])
def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, kind: str) -> None:
    weights, ran = write_reference(tmp_path), tmp_path / "ran"
    [checkpoint] = (tmp_path / "checkpoint").iterdir()
    path = checkpoint / "pytorch_model.bin"
    if kind == "plain pickle":
        path.write_bytes(pickle.dumps({**weights, "ar_attack": Attack(ran)}))
    else:
        torch.save({**weights, "ar_attack": Attack(ran)}, path, _use_new_zipfile_serialization=kind == "archive")
        assert zipfile.is_zipfile(path) == (kind == "archive")
    with pytest.raises(UserError, match=r"refused.*run code") as raised:
        load(tmp_path)
    assert not ran.exists() and str(path) in str(raised.value) and "\n" not in str(raised.value)
    # Without the check, the file does run code.
    if kind == "plain pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert ran.exists()


@pytest.mark.parametrize("size", [0, 10, 1000])
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_truncated_file_is_an_error_of_one_line(tmp_path: Path, suffix: str, size: int) -> None:
    write_weights(tmp_path, write_reference(tmp_path), suffix)
    [path] = tmp_path.glob("checkpoint/*/*")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match="damaged") as raised:
        load(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_converted_folder_holds_the_same_model(tmp_path: Path) -> None:
    weights = write_reference(tmp_path / "released")
    source = resolve_checkpoint(tmp_path / "released", "--input")
    settings = Experiment.of(source).settings()
    written = convert(source, settings, tmp_path / "ours")
    found = resolve_checkpoint(tmp_path / "ours", "--infer_expt_dir")
    assert found.path == written and not found.is_reference and not found.can_resume
    assert written.name == source.path.name
    assert load_weights(found).keys() <= weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in load(tmp_path / "ours").items())
    ours = Experiment.of(found)
    assert ours.settings() == settings
    tables = [SymbolTable.load(experiment.symbols) for experiment in (Experiment.of(source), ours)]
    assert tables[0] == tables[1] and tables[0].phones == tuple(sorted(SYMBOLS))
    with pytest.raises(UserError, match="--output"):
        convert(source, settings, tmp_path / "ours")
