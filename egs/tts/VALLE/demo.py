"""From nothing to speech on a bare machine: a corpus, the three stages through `run.sh`, and a check of what was said.

What ended is noted in `<workdir>/done.json`, so that a second call does only what is missing.
"""

import argparse
import hashlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio

from processors.demo_corpus import SAMPLE_RATE_HZ, VOICES, Voice, render, write_demo_corpus
from utils.checkpoint import find_checkpoints
from utils.device import has_fast_bf16
from utils.errors import UserError
from utils.files import written_aside

ROOT = Path(__file__).resolve().parents[3]
CONFIG = "egs/tts/VALLE/demo_config.json"
EXPERIMENTS = Path("ckpts/tts")
# Where products in bf16 are slow, as many steps as twenty minutes have room for.
AR_STEPS = (
    []
    if has_fast_bf16(torch.device("cpu"))
    else ["--set", "train.max_steps=1700", "--set", "train.total_training_steps=1800"]
)
# The NAR has less to learn: what a sentence is comes from the AR.
NAR_STEPS = ["--set", "train.max_steps=400", "--set", "train.total_training_steps=400"]
NUM_REFERENCES = 10
NUM_RIGHT_LEAST = 14
# Texts are swapped this many lines apart: less than NUM_REFERENCES, so that both texts are among the references.
ROTATION = 5
PROMPT_SECONDS = (2.5, 4.0)
SILENT_RMS = 0.003


@dataclass(frozen=True)
class Line:
    """A line of a test list: what to say, and in whose voice."""

    text: str
    text_prompt: str
    audio_prompt: Path
    voice: Voice


class Parts:
    """The parts of the demo that have ended, with the seconds they took and the settings they had."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._notes: dict[str, dict[str, str | float]] = json.loads(path.read_text()) if path.is_file() else {}
        self._seen: list[str] = []
        self._settings = hashlib.sha256((ROOT / CONFIG).read_bytes() + repr([AR_STEPS, NAR_STEPS]).encode()).hexdigest()

    def run(self, part: str, work: Callable[[], None], product: Path | None = None) -> None:
        """Do the work, unless it ended before and its product is there; without a product the work sees to that itself.

        Raises UserError where the product was made with other settings.
        """
        self._seen.append(part)
        note = self._notes.get(part, {})
        if product is not None and product.exists():
            if note.get("settings") != self._settings:
                raise UserError(f"{product} was not made by this demo with {CONFIG} as it is: remove it or give --name")
            if "seconds" in note:
                print(f"== {part}: there already, in {product}", flush=True)
                return
        print(f"== {part}", flush=True)
        is_kept = product is None and note.get("settings") == self._settings
        known: dict[str, str | float] = note if is_kept else {"settings": self._settings}
        self._note(part, known)
        start = time.monotonic()
        work()
        # Work that sees by itself that all is there takes no time; what it took at first is what is told.
        self._note(part, {"seconds": round(time.monotonic() - start, 1), **known})

    def report(self) -> None:
        """Print how long each part took when it was done."""
        seconds = {part: float(self._notes[part]["seconds"]) for part in self._seen}
        for part, part_seconds in {**seconds, "in all": sum(seconds.values())}.items():
            print(f"   {part:28s} {part_seconds / 60:5.1f} min")

    def _note(self, part: str, note: dict[str, str | float]) -> None:
        self._notes[part] = note
        with written_aside(self._path) as aside:
            aside.write_text(json.dumps(self._notes, indent=2))


def run_sh(*flags: str | Path) -> None:
    """Call run.sh as a user does, in the environment of this program. Raises UserError where it fails."""
    command = ["sh", "egs/tts/VALLE/run.sh", *map(str, flags)]
    print(f"$ {shlex.join(command)}", flush=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    active = {"VIRTUAL_ENV": sys.prefix} if sys.prefix != sys.base_prefix else {}
    environment = {**os.environ, "PATH": path, **active}
    status = subprocess.run(command, cwd=ROOT, env=environment).returncode
    if status != 0:
        raise UserError(f"run.sh ended with status {status}: see its message above")


def train(name: str, *flags: str | Path) -> None:
    """Stage 2; an interrupted training goes on from its latest checkpoint."""
    is_begun = bool(find_checkpoints(ROOT / EXPERIMENTS / name / "checkpoint"))
    run_sh("--stage", "2", *flags, "--name", name, *(["--resume", "true"] if is_begun else []))


def held_out_lines(corpus: Path) -> list[Line]:
    """Two held-out sentences of every voice, each with another held-out utterance of the voice as its prompt."""
    lines = []
    for voice in VOICES:
        paths = sorted((corpus / "test-clean" / voice.speaker).rglob("*.wav"))
        shortest, longest = PROMPT_SECONDS
        prompts = [path for path in paths[2:] if shortest <= soundfile.info(path).duration <= longest]
        for path, prompt in zip(paths[:2], prompts, strict=False):
            text, text_prompt = (file.with_suffix(".normalized.txt").read_text() for file in (path, prompt))
            lines.append(Line(text, text_prompt, prompt, voice))
    return lines


def swap_texts(lines: list[Line]) -> list[Line]:
    """The same prompts, each with the text of another line."""
    return [replace(line, text=lines[(i + ROTATION) % len(lines)].text) for i, line in enumerate(lines)]


def write_list(path: Path, lines: list[Line]) -> None:
    """A test list as stage 3 reads it."""
    rows = [f"{line.text}|{line.text_prompt}|{os.path.relpath(line.audio_prompt, ROOT)}\n" for line in lines]
    path.write_text("".join(rows))


@cache
def _mel_filters() -> np.ndarray:
    return torchaudio.functional.melscale_fbanks(513, 0, SAMPLE_RATE_HZ / 2, 40, SAMPLE_RATE_HZ).numpy()


def cepstra(audio: np.ndarray) -> np.ndarray:
    """(frames, 13) cepstra without the energy, every 15 ms, each of mean 0; audio is (samples,) at 24 kHz."""
    loudness = np.abs(audio) > 0.02 * np.abs(audio).max()
    first, last = int(loudness.argmax()), len(audio) - int(loudness[::-1].argmax())
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(audio[first:last], 512), 1024)[::360] * np.hanning(1024)
    mel = np.abs(np.fft.rfft(frames)) ** 2 @ _mel_filters()
    # What lies 40 dB below the loudest is noise in generated speech, and exact silence in a reference.
    log_mel = np.log(np.maximum(mel, 1e-4 * mel.max())).T
    cosines = np.cos(np.pi / 40 * np.outer(np.arange(1, 14), np.arange(40) + 0.5))
    features = (cosines @ log_mel).T
    return features - features.mean(0)


def dtw_cost(a: np.ndarray, b: np.ndarray) -> float:
    """Mean distance along the best path through (frames, features) a and b; a diagonal step counts twice."""
    distances = np.sqrt(np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T, 0))
    costs = distances[0].cumsum() + distances[0, 0]
    for row in distances[1:]:
        entry = row + np.minimum(costs, np.concatenate([[np.inf], costs[:-1] + row[1:]]))
        # From the cheapest column of entry, the path goes along the row.
        along = row.cumsum()
        costs = along + np.minimum.accumulate(entry - along)
    return float(costs[-1] / (len(a) + len(b)))


@cache
def reference(text: str, voice: Voice) -> np.ndarray:
    """The cepstra of what the voice itself makes of the text."""
    return cepstra(render(text, voice))


def nearest_text(audio: np.ndarray, texts: list[str], voice: Voice) -> str:
    """Which of the texts, as this voice says it, the audio is nearest to."""
    spoken = cepstra(audio)
    return min(texts, key=lambda text: dtw_cost(spoken, reference(text, voice)))


def listen(folder: Path, lines: list[Line], originals: list[Line]) -> list[str]:
    """For each line, which of ten held-out sentences was said; prints how loud the audio is.

    Raises UserError for a file that is missing or silent.
    """
    heard, peaks, levels, durations = [], [], [], []
    for i, line in enumerate(lines):
        path = folder / "batch" / f"{i + 1}_{line.audio_prompt.stem}.wav"
        if not path.is_file():
            raise UserError(f"{path} is missing: stage 3 did not speak this line")
        audio, sample_rate_hz = soundfile.read(path, dtype="float32")
        peaks.append(float(np.abs(audio).max(initial=0)))
        levels.append(float(np.sqrt((audio**2).sum() / max(1, len(audio)))))
        durations.append(len(audio) / sample_rate_hz)
        if levels[-1] < SILENT_RMS:
            raise UserError(f"{path} is silent: root mean square {levels[-1]:.4f} of full scale")
        texts = [originals[(i + k) % len(originals)].text for k in range(NUM_REFERENCES)]
        heard.append(nearest_text(audio, texts, line.voice))
        if heard[-1] != line.text:
            print(f"   {path.name}: asked {line.text!r}, nearest {heard[-1]!r}")
    ranges = [(min(values), max(values)) for values in (durations, peaks, levels)]
    told = [f"{low:.2f} to {high:.2f}" for low, high in ranges]
    print(f"   {len(lines)} files in {folder}: {told[0]} s, peak {told[1]}, rms {told[2]}", flush=True)
    return heard


def check(results: list[Path], originals: list[Line], swapped: list[Line]) -> bool:
    """Print how often the held-out sentence was said, and how often a swapped one; True where the text was read."""
    print("== check: the nearest of ten held-out sentences, as the same voice says them", flush=True)
    num_right = _num_said(listen(results[0], originals, originals), originals)
    heard = listen(results[1], swapped, originals)
    num_asked, num_former, num = _num_said(heard, swapped), _num_said(heard, originals), len(originals)
    print(f"   held-out sentences: {num_right} of {num} right ({NUM_RIGHT_LEAST} needed)")
    print(f"   texts swapped: {num_asked} of {num} are the text that was asked, {num_former} the one before the swap")
    return num_right >= NUM_RIGHT_LEAST and num_asked > num // 2


def _num_said(heard: list[str], lines: list[Line]) -> int:
    return sum(text == line.text for text, line in zip(heard, lines, strict=True))


def demo(name: str, workdir: Path) -> bool:
    """All parts; True where speech came out that says the text."""
    workdir.mkdir(parents=True, exist_ok=True)
    parts = Parts(workdir / "done.json")
    corpus, ar, nar = workdir / "LibriTTS", EXPERIMENTS / f"{name}_ar", EXPERIMENTS / f"{name}_nar"
    if (ROOT / nar).exists() and not (ROOT / ar).exists():
        raise UserError(f"{nar} was trained beside {ar}, which is gone: remove it too")
    config = ["--config", CONFIG]
    if workdir != ROOT / "demo":
        config += ["--set", f"dataset_path.libritts={corpus}", "--set", f"preprocess.processed_dir={workdir / 'data'}"]
    parts.run("corpus", lambda: write_demo_corpus(corpus))
    parts.run("features", lambda: run_sh("--stage", "1", *config))
    train_ar, train_nar = (
        ["--model_train_stage", "1", *config, *AR_STEPS],
        ["--model_train_stage", "2", *config, *NAR_STEPS],
    )
    parts.run(f"AR {ar.name}", lambda: train(ar.name, *train_ar), ROOT / ar)
    parts.run(f"NAR {nar.name}", lambda: train(nar.name, "--ar_model_ckpt_dir", ar, *train_nar), ROOT / nar)
    lines = held_out_lines(corpus)
    swapped, results = swap_texts(lines), [nar / "result", nar / "result_swapped"]
    for result, spoken in zip(results, (lines, swapped), strict=True):
        test_list = workdir / f"test_list{result.name.removeprefix('result')}.txt"
        write_list(test_list, spoken)
        flags = ["--infer_mode", "batch", "--infer_expt_dir", str(nar), "--infer_output_dir", str(result)]
        speak = partial(run_sh, "--stage", "3", *flags, "--test_list_file", os.path.relpath(test_list, ROOT))
        parts.run(f"speech {nar.name}/{result.name}", speak, ROOT / result / "results.jsonl")
    is_read = check([ROOT / result for result in results], lines, swapped)
    print("== time")
    parts.report()
    print(f"== the speech is in {nar / 'result' / 'batch'}; the texts are in {workdir / 'test_list.txt'}")
    return is_read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="demo", help="experiments are NAME_ar and NAME_nar (default %(default)s)")
    parser.add_argument("--workdir", type=Path, default=ROOT / "demo", help="holds the corpus (default demo)")
    arguments = parser.parse_args()
    try:
        is_read = demo(arguments.name, arguments.workdir.resolve())
    except UserError as error:
        sys.exit(f"demo: {error}")
    if not is_read:
        sys.exit("demo: the speech does not say the texts often enough; see the check above")


if __name__ == "__main__":
    main()
