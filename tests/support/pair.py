"""A complete experiment and one without a NAR, for the tests of the queue, the page, the API and the server."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from synthesis.load import load_experiment
from synthesis.synthesizer import Synthesizer
from tests.support.tiny_runs import ROOMY, let_speech_end, prepare_custom, train
from utils.checkpoint import Checkpoint, resolve_checkpoint


@dataclass(frozen=True)
class Trained:
    """Experiments `ar`, without a NAR, and `nar`, complete, below `log_dir`, and their corpus."""

    folder: Path

    @property
    def log_dir(self) -> Path:
        return self.folder / "ckpts"

    @property
    def nar(self) -> Path:
        return self.log_dir / "nar"

    @property
    def checkpoint(self) -> Checkpoint:
        return resolve_checkpoint(self.nar, "")

    def give_word_times(self) -> None:
        """Choose an attention head of the complete one: in a tiny model none follows the text by itself."""
        choice = {"checkpoint": self.checkpoint.path.name, "heads": [[0, 0]], "diagonality": 1.0}
        (self.nar / "attention_heads.json").write_text(json.dumps(choice))

    def prompt(self, index: int = 0) -> tuple[Path, str]:
        """Audio of 0.8 to 1.6 s from the corpus, and its text."""
        text = (self.folder / "corpus" / "metadata.csv").read_text().splitlines()[index].split("|")[2]
        return self.folder / "corpus" / "wavs" / f"u{index:02d}.wav", text


def train_pair(folder: Path) -> Trained:
    """Train both experiments in a few steps."""
    config = prepare_custom(folder)
    train(config, "ar", 1, {})
    train(config, "nar", 2, ROOMY, "--ar_model_ckpt_dir", str(folder / "ckpts" / "ar"))
    let_speech_end(folder / "ckpts" / "nar")
    return Trained(folder)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def own(trained: Trained, tmp_path: Path) -> Trained:
    """A copy that a test may change."""
    return Trained(Path(shutil.copytree(trained.folder, tmp_path / "own")))


@pytest.fixture(scope="session")
def synthesizer(trained: Trained) -> Synthesizer:
    """The synthesizer of stage 3."""
    return load_experiment(trained.nar, "")[0]
