"""The recipe at tiny size: a small corpus, a config, and two ways to run the programs on them."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import json5
import pytest

from benchmarks.synthetic_corpus import write_synthetic_corpus
from tests.conftest import ROOT
from tests.support.tiny_runs import Program
from utils.cli import run

SPEAKERS = ("101", "102", "103", "104")
NUM_ROWS = 24
BROKEN_AUDIO = "104_1104_000001_000000"
NO_TRANSCRIPT = "104_1104_000002_000000"


def write_corpus(folder: Path) -> Path:
    """Four voices in LibriTTS's layout: 12 utterances to train on, 4 to validate, 8 to test.

    One of the training utterances is not audio, and one has no transcript.
    """
    corpus = folder / "LibriTTS"
    write_synthetic_corpus(corpus, minutes=0.1)
    for chapter in corpus.glob("*/*/*"):
        if chapter.parent.name not in SPEAKERS:
            shutil.rmtree(chapter.parent)
        elif chapter.parts[-3] == "test-clean":
            _leave(chapter, 2)
    [chapter] = corpus.glob("train-clean-100/104/*")
    (chapter / f"{BROKEN_AUDIO}.wav").write_text("This is not audio.")
    (chapter / f"{NO_TRANSCRIPT}.normalized.txt").unlink()
    _drop_row(chapter, NO_TRANSCRIPT)
    return corpus


def _leave(chapter: Path, num: int) -> None:
    for audio in sorted(chapter.glob("*.wav"))[num:]:
        for path in chapter.glob(f"{audio.stem}.*"):
            path.unlink()
        _drop_row(chapter, audio.stem)


def _drop_row(chapter: Path, utterance_id: str) -> None:
    [table] = chapter.glob("*.trans.tsv")
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(line for line in lines if not line.startswith(utterance_id)))


def tiny_config(corpus: Path, folder: Path) -> dict:
    """An `exp_config.json` that writes into `folder`, with dropout, and an epoch of five steps."""
    return {
        "base_config": "config/valle.json",
        "dataset": ["libritts"],
        "dataset_path": {"libritts": str(corpus)},
        "log_dir": str(folder / "ckpts"),
        "preprocess": {
            "processed_dir": str(folder / "data"),
            "acoustic_token_extractor": "MelRVQ",
            "mel_rvq": {"frame_rate_hz": 25, "fit_frames": 2000, "fit_iterations": 2, "griffin_lim_iterations": 4},
            "shard_size": 4,
            "num_workers": 0,
        },
        "model": {"decoder_dim": 32, "nhead": 2, "num_decoder_layers": 2, "text_token_num": 128, "dropout": 0.1},
        "train": {
            "max_sentences": 2,
            "max_steps": 3,
            "base_lr": 1e-3,
            "warmup_steps": 2,
            "total_training_steps": 100,
            "precision": "fp32",
            "save_checkpoint_steps": 2,
            "keep_last_steps": 10,
            "valid_interval": 3,
            "log_interval": 1,
            "dataloader": {"num_worker": 0},
        },
        "infer": {
            "min_seconds_per_phone": 0.02,
            "max_seconds_per_phone": 0.05,
            "min_seconds": 0,
            "slack_seconds": 0,
            # Texts have one part, though they are longer than the corpus's.
            "max_part_seconds": 60,
            "max_total_seconds": 60,
            "max_tries": 2,
            "max_batch_size": 2,
        },
    }


def prompt(corpus: Path, speaker: str, index: int = 0) -> tuple[Path, str]:
    """A test utterance's audio, 2.5 to 4 s, and its text."""
    audio = sorted(corpus.glob(f"test-clean/{speaker}/*/*.wav"))[index]
    return audio, audio.with_suffix(".normalized.txt").read_text()


@dataclass(frozen=True)
class Recipe:
    """A config and what the programs made with it, below one folder; `shell` runs `run.sh`."""

    folder: Path
    corpus: Path
    shell: str = "sh"

    @property
    def config(self) -> Path:
        return self.folder / "exp_config.json"

    @property
    def data(self) -> Path:
        return self.folder / "data" / "libritts"

    def experiment(self, name: str) -> Path:
        return self.folder / "ckpts" / name

    def checkpoints(self, name: str) -> list[Path]:
        """Oldest first: their names begin with epoch and step, padded with zeros."""
        return sorted((self.experiment(name) / "checkpoint").glob("epoch-*"))

    def copied(self, name: str, copy: str) -> Path:
        """An experiment's copy under another name, for a test to change."""
        return Path(shutil.copytree(self.experiment(name), self.experiment(copy)))

    def run(self, *flags: str, cwd: Path = ROOT, status: int = 0) -> subprocess.CompletedProcess[str]:
        """`run.sh` in a process of its own, which must end with `status`; on the CPU, in one thread."""
        environment = {
            **os.environ,
            "VIRTUAL_ENV": sys.prefix,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
        }
        script = ROOT / "egs" / "tts" / "VALLE" / "run.sh"
        done = subprocess.run(
            [self.shell, str(script), *flags], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == status, f"{flags} ended with {done.returncode}:\n{done.stderr}"
        return done

    def call(self, program: Program, *flags: str) -> int | str | None:
        """A program of `bins` in this process, as `run.sh` starts it; returns its exit status."""
        with pytest.raises(SystemExit) as ended:
            run(lambda _: program.main(flags))
        return ended.value.code


def make_recipe(folder: Path, corpus: Path, shell: str = "sh") -> Recipe:
    """A recipe with its config written, and nothing run yet."""
    recipe = Recipe(folder, corpus, shell)
    recipe.config.write_text(json5.dumps(tiny_config(corpus, folder), quote_keys=True))
    return recipe


def listing(folder: Path) -> dict[str, int]:
    """Every file below a folder, and when it was last written."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
