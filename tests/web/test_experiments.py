"""The experiments that the page offers."""

import logging
import shutil
from pathlib import Path

import pytest

from tests.web.conftest import Trained
from utils.errors import UserError
from web.experiments import ExperimentList


def test_only_complete_experiments_are_offered(trained: Trained) -> None:
    assert trained.log_dir.joinpath("ar", "args.json").is_file()
    assert ExperimentList(trained.log_dir).find() == {"nar": trained.checkpoint}


def test_the_first_experiment_may_be_in_another_folder(trained: Trained, tmp_path: Path) -> None:
    elsewhere = Path(shutil.copytree(trained.nar, tmp_path / "other"))
    for first in (elsewhere, next((elsewhere / "checkpoint").glob("epoch-*"))):
        experiments = ExperimentList(trained.log_dir, first)
        assert list(experiments.find()) == ["other", "nar"]
        assert experiments.first_checkpoint().path.is_relative_to(elsewhere)
    assert list(ExperimentList(trained.log_dir, trained.nar).find()) == ["nar"]
    assert list(ExperimentList(trained.log_dir, last=elsewhere).find()) == ["nar", "other"]
    assert ExperimentList(tmp_path / "empty", last=elsewhere).first_checkpoint().path.is_relative_to(elsewhere)
    shutil.rmtree(elsewhere)
    assert list(experiments.find()) == ["nar"]


@pytest.mark.parametrize("name", ["args.json", "symbols.dict"])
def test_a_damaged_experiment_is_left_out_and_logged(
    own: Trained, name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("vallet"), "propagate", True)
    (own.nar / name).write_text("{")
    assert ExperimentList(own.log_dir).find() == {}
    assert f"{own.nar} is left out: " in caplog.text


def test_no_complete_experiment_is_an_error(trained: Trained, tmp_path: Path) -> None:
    for log_dir in (tmp_path, tmp_path / "gone"):
        with pytest.raises(UserError, match="--log_dir: no experiment with an AR and a NAR model in"):
            ExperimentList(log_dir).first_checkpoint()
    with pytest.raises(UserError, match="--infer_expt_dir: no whole checkpoint"):
        ExperimentList(trained.log_dir, tmp_path).first_checkpoint()
