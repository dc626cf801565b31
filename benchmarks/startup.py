"""Start-up times of `run.sh --help` and of stage 3."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.measure import Row, seconds_of, seconds_once
from benchmarks.synthetic_corpus import VOICES
from config.schema import ValleExperiment
from models.experiment import Experiment
from models.valle.valle import VALLE
from processors.codecs.encodec import Encodec, build_encodec
from processors.espeak_speech import render
from processors.symbols import SymbolTable
from utils.audio import write_audio
from utils.checkpoint import checkpoint_name, save_checkpoint
from utils.config import save_settings
from utils.paths import ROOT

RUN_SH = ["sh", str(ROOT / "egs" / "tts" / "VALLE" / "run.sh")]
TEXT = "The old house is near the river."
PHONES = "! , . ? _ aɪ aʊ b d dʒ eɪ f h i iː j k l m n oʊ p s t tʃ uː v w z æ ð ŋ ɐ ɑː ɔː ə ɚ ɛ ɜː ɡ ɪ ɹ ɾ ʃ ʊ ʌ θ ᵻ"


def rows(settings: ValleExperiment, device: torch.device) -> list[Row]:
    """Time `--help`, and stage 3 with a model of the default size, minus the time of synthesis itself."""
    seconds = seconds_of(lambda: _run("--help"))
    help_row = Row("run.sh --help", seconds, goal="at most 0.3 s", goal_met=seconds <= 0.3)
    with tempfile.TemporaryDirectory() as folder:
        experiment = Experiment(Path(folder) / "expt")
        prompt = Path(folder) / "prompt.wav"
        write_audio(prompt, torch.from_numpy(render(TEXT, VOICES[0])).float(), 24000)
        _write_experiment(settings, experiment)
        flags = ["--stage", "3", "--infer_mode", "single", "--infer_expt_dir", str(experiment.folder)]
        texts = ["--infer_text", "Wait.", "--infer_text_prompt", TEXT, "--infer_audio_prompt", str(prompt)]
        # Random weights do not end their speech, which is a failure with the exit status 1.
        total = seconds_once(lambda: _run(*flags, *texts, "--top_k", "1", statuses=(0, 1)))
        [line] = (experiment.folder / "result" / "results.jsonl").read_text().splitlines()
        row = json.loads(line)
        fixed = total - row["seconds"] * row["real_time_factor"]
    return [help_row, Row("stage 3, before synthesis", fixed, goal="at most 8 s", goal_met=fixed <= 8)]


def _run(*flags: str, statuses: Sequence[int] = (0,)) -> None:
    environment = {
        **os.environ,
        "VIRTUAL_ENV": sys.prefix,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run([*RUN_SH, *flags], capture_output=True, text=True, env=environment)
    if done.returncode not in statuses:
        raise RuntimeError(f"run.sh {' '.join(flags)} ended with {done.returncode}: {done.stderr}")


def _write_experiment(settings: ValleExperiment, experiment: Experiment) -> None:
    """Write an experiment with random weights; EnCodec's are included, so that nothing is downloaded."""
    torch.manual_seed(0)
    experiment.folder.mkdir()
    save_settings(settings, experiment.args)
    SymbolTable.from_phones(PHONES.split()).save(experiment.symbols)
    torch.save(build_encodec().state_dict(), experiment.codec(Encodec.file_name))
    name = checkpoint_name(1, 1, 1.0)
    meta = {"train_stage": 2, "codec": None, "ends_epoch": True}
    weights = VALLE(settings.model).named_weights()
    save_checkpoint(experiment.checkpoints, name, weights=weights, state=None, meta=meta, rank_states=())
