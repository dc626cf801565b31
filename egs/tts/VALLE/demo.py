"""The demo: writes a corpus, runs stages 1 to 4 with `run.sh`, and checks the speech. It needs no download and no GPU.

`<workdir>/done.json` notes which steps are complete; a second call runs only the others.
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
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import soundfile
from matplotlib import pyplot
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from evaluation.cepstra import align, mel_cepstra, trim
from evaluation.pictures import draw_spectrogram
from processors.demo_corpus import VOICES, write_demo_corpus
from processors.espeak_speech import SAMPLE_RATE_HZ, Voice, render
from utils.checkpoint import find_checkpoints
from utils.errors import UserError
from utils.files import atomic_write

ROOT = Path(__file__).resolve().parents[3]
CONFIG = "egs/tts/VALLE/demo_config.json"
EXPERIMENTS = Path("ckpts/tts")
# The NAR predicts only one codebook, so it needs fewer steps than the AR.
NAR_STEPS = [
    part
    for key, value in (("max_steps", 1500), ("total_training_steps", 1550), ("base_lr", 3e-3))
    for part in ("--set", f"train.{key}={value}")
]
# Enough that the AR cannot memorize the sentences.
CORPUS_MINUTES = 240
NUM_REFERENCES = 10
# A clip is compared with every seventh text of the list: none of these is its prompt's text.
STRIDE = 7
# The shares of right sentences and voices that the demo requires; chance is 0.1.
SENTENCES_RIGHT, VOICES_RIGHT = 0.95, 0.9
# The largest distance that the demo accepts, relative to the recordings' resynthesis by the codec.
TIMES_CODEC_DISTANCE = 1.5
SILENT_RMS = 0.003


@dataclass(frozen=True)
class Line:
    """A line of the test list: a text, its prompt, the voice, and the voice's recording of the text."""

    text: str
    text_prompt: str
    audio_prompt: Path
    recording: Path
    voice: Voice


def run_step(done: Path, step: str, work: Callable[[], None], product: Path | None = None) -> None:
    """Run a step unless its product is complete. `done` is the file that notes each step's settings and time.

    A step without a product always runs: it skips work that is complete by itself.
    Raises UserError if the product exists, but was made with other settings.
    """
    notes = json.loads(done.read_text()) if done.is_file() else {}
    settings = hashlib.sha256((ROOT / CONFIG).read_bytes() + repr(NAR_STEPS).encode()).hexdigest()
    note = notes.get(step, {})
    has_same_settings = note.get("settings") == settings
    if product is not None and product.exists():
        if not has_same_settings:
            raise UserError(f"{product} is of another version of the demo or of {CONFIG}: remove it or give --name")
        if "seconds" in note:
            print(f"== {step}: complete, in {product}", flush=True)
            return
    print(f"== {step}", flush=True)
    # The settings are noted first, so that the product of an interrupted step is known to be the demo's.
    # A step that finds its output present returns at once; the time of its first run is kept.
    known = note if product is None and has_same_settings else {"settings": settings}
    write_notes(done, {**notes, step: known})
    start = time.monotonic()
    work()
    write_notes(done, {**notes, step: {"seconds": round(time.monotonic() - start, 1), **known}})


def write_notes(path: Path, notes: dict[str, dict[str, str | float]]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(notes, indent=2))


def run_sh(*flags: str | Path) -> None:
    """Run `run.sh` in this program's Python environment. Raises UserError if it fails."""
    command = ["sh", "egs/tts/VALLE/run.sh", *map(str, flags)]
    print(f"$ {shlex.join(command)}", flush=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    active = {"VIRTUAL_ENV": sys.prefix} if sys.prefix != sys.base_prefix else {}
    environment = {**os.environ, "PATH": path, **active}
    status = subprocess.run(command, cwd=ROOT, env=environment).returncode
    if status != 0:
        raise UserError(f"run.sh ended with status {status}: see its message above")


def train(name: str, *flags: str | Path) -> None:
    """Run stage 2; resume if there is a checkpoint."""
    is_begun = bool(find_checkpoints(ROOT / EXPERIMENTS / name / "checkpoint"))
    run_sh("--stage", "2", *flags, "--name", name, *(["--resume", "true"] if is_begun else []))


def held_out_lines(corpus: Path) -> list[Line]:
    """All held-out utterances of all voices, each prompted with the next one of its voice."""
    lines = []
    for voice in VOICES:
        paths = sorted((corpus / "test-clean" / voice.speaker).rglob("*.wav"))
        texts = [path.with_suffix(".normalized.txt").read_text() for path in paths]
        for i, path in enumerate(paths):
            j = (i + 1) % len(paths)
            lines.append(Line(texts[i], texts[j], paths[j], path, voice))
    return lines


def write_list(path: Path, lines: list[Line]) -> None:
    """Write a test list for stages 3 and 4, with the recording of each text as its reference."""
    rows = []
    for line in lines:
        prompt, reference = (os.path.relpath(audio, ROOT) for audio in (line.audio_prompt, line.recording))
        rows.append(f"{line.text}|{line.text_prompt}|{prompt}|{reference}\n")
    path.write_text("".join(rows))


@cache
def reference(text: str, voice: Voice) -> np.ndarray:
    """Cepstra of the voice's own rendering of a text."""
    return mel_cepstra(trim(render(text, voice)), SAMPLE_RATE_HZ)


@dataclass(frozen=True)
class Match:
    """A clip's distance to the true rendering, and the text and voice it is closest to."""

    distance_db: float
    text: str
    voice: Voice


def match(audio: np.ndarray, line: Line, texts: list[str]) -> Match:
    """Compare a clip with `texts` in its voice, which include its own, and with its own text in all voices."""
    clip = mel_cepstra(trim(audio), SAMPLE_RATE_HZ)

    def distance(text: str, voice: Voice) -> float:
        return align(clip, reference(text, voice))[0]

    by_text = {text: distance(text, line.voice) for text in texts}
    by_voice = {voice: distance(line.text, voice) for voice in VOICES}
    return Match(by_text[line.text], min(by_text, key=by_text.__getitem__), min(by_voice, key=by_voice.__getitem__))


def match_clips(folder: Path, lines: list[Line]) -> list[Match]:
    """Match the clip that stage 3 or 4 wrote for each line. Raises UserError if one is missing or silent."""
    matches = []
    for i, line in enumerate(lines):
        path = folder / "batch" / f"{i + 1}_{line.audio_prompt.stem}.wav"
        if not path.is_file():
            raise UserError(f"{path} is missing: no speech was written for this line")
        audio, _ = soundfile.read(path, dtype="float32")
        level = float(np.sqrt((audio**2).sum() / max(1, len(audio))))
        if level < SILENT_RMS:
            raise UserError(f"{path} is silent: root mean square {level:.4f} of full scale")
        texts = [lines[(i + STRIDE * k) % len(lines)].text for k in range(NUM_REFERENCES)]
        matches.append(match(audio, line, texts))
    return matches


def check(model: list[Match], codec: list[Match], lines: list[Line]) -> bool:
    """Print how well the clips match the lines, beside chance and the codec alone; True if the model is good enough."""
    print(f"   {'':12s} {'sentence right':>15s} {'voice right':>12s} {'median distance':>16s}")
    shares = {}
    for name, matches in (("model", model), ("codec alone", codec)):
        sentence = sum(found.text == line.text for found, line in zip(matches, lines, strict=True)) / len(lines)
        voice = sum(found.voice == line.voice for found, line in zip(matches, lines, strict=True)) / len(lines)
        distance = float(np.median([found.distance_db for found in matches]))
        shares[name] = sentence, voice, distance
        print(f"   {name:12s} {100 * sentence:13.0f} % {100 * voice:10.0f} % {distance:13.2f} dB")
    print(f"   {'chance':12s} {100 / NUM_REFERENCES:13.0f} % {100 / len(VOICES):10.0f} %")
    sentence, voice, distance = shares["model"]
    ratio = distance / shares["codec alone"][2]
    print(f"   {len(lines)} held-out sentences; the model's distance is {ratio:.2f} times the codec's")
    print(
        f"   needed: {100 * SENTENCES_RIGHT:.0f} % of sentences, {100 * VOICES_RIGHT:.0f} % of voices, at most "
        f"{TIMES_CODEC_DISTANCE} times",
        flush=True,
    )
    return sentence >= SENTENCES_RIGHT and voice >= VOICES_RIGHT and ratio <= TIMES_CODEC_DISTANCE


def draw(path: Path, experiments: list[Path], clip: Path, line: Line) -> None:
    """Draw the losses of both trainings, and the spectrograms of a clip and of its recording."""
    figure, grid = pyplot.subplots(2, 2, figsize=(11, 6), dpi=110)
    for axes, experiment in zip(grid[0], experiments, strict=True):
        for name, points in losses(experiment).items():
            axes.plot(*zip(*points, strict=True), label=name, marker="o" if len(points) < 20 else None)
        axes.set(title=f"{experiment.name}: loss", xlabel="step")
        axes.legend()
    for axes, title, audio_path in zip(grid[1], ("model", "recording"), (clip, line.recording), strict=True):
        audio, rate_hz = soundfile.read(audio_path, dtype="float32")
        draw_spectrogram(axes, audio, rate_hz)
        axes.set(xlabel="seconds", ylabel="mel band")
        axes.set_title(f"{title}: {line.text}", fontsize=9)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def losses(experiment: Path) -> dict[str, list[tuple[int, float]]]:
    """Read (step, loss) pairs of training and validation from the experiment's TensorBoard files."""
    events = EventAccumulator(str(experiment / "log"), size_guidance={"scalars": 0}).Reload()
    known = set(events.Tags()["scalars"])
    names = {"training": "train/loss", "validation": "valid/loss"}
    return {
        name: [(event.step, event.value) for event in events.Scalars(tag)]
        for name, tag in names.items()
        if tag in known
    }


def demo(name: str, workdir: Path) -> bool:
    """Run all steps; True if the speech matches its texts and voices well enough."""
    workdir.mkdir(parents=True, exist_ok=True)
    corpus, test_list, done = workdir / "LibriTTS", workdir / "test_list.txt", workdir / "done.json"
    ar, nar = EXPERIMENTS / f"{name}_ar", EXPERIMENTS / f"{name}_nar"
    if (ROOT / nar).exists() and not (ROOT / ar).exists():
        raise UserError(f"{nar} was trained with {ar}, which is missing: remove {nar} too")
    config = ["--config", CONFIG]
    if workdir != ROOT / "demo":
        config += ["--set", f"dataset_path.libritts={corpus}", "--set", f"preprocess.processed_dir={workdir / 'data'}"]
    train_ar = ["--model_train_stage", "1", *config]
    train_nar = ["--model_train_stage", "2", *config, *NAR_STEPS, "--ar_model_ckpt_dir", str(ar)]
    # Not `result`, the default folder of stage 3: a user's own outputs there could have the same names.
    held_out, evaluation = nar / "held_out", nar / "evaluation"
    items = ["--infer_expt_dir", str(nar), "--test_list_file", os.path.relpath(test_list, ROOT)]
    batch = ["--infer_mode", "batch", "--infer_output_dir", str(held_out)]
    run_step(done, "corpus", lambda: write_demo_corpus(corpus, CORPUS_MINUTES))
    lines = held_out_lines(corpus)
    write_list(test_list, lines)
    steps: dict[str, tuple[Callable[[], None], Path | None]] = {
        "features": (partial(run_sh, "--stage", "1", *config), None),
        f"AR {ar.name}": (partial(train, ar.name, *train_ar), ROOT / ar),
        f"NAR {nar.name}": (partial(train, nar.name, *train_nar), ROOT / nar),
        "speech": (partial(run_sh, "--stage", "3", *items, *batch), ROOT / held_out / "results.jsonl"),
        # No recognizer knows these voices, so words are not recognized.
        "evaluation": (partial(run_sh, "--stage", "4", *items, "--asr", "none"), ROOT / evaluation / "report.html"),
    }
    for step, (work, product) in steps.items():
        run_step(done, step, work, product)
    print("== check: each clip against ten sentences in its voice, and against its sentence in ten voices", flush=True)
    resynthesis = ROOT / evaluation / f"{nar.name}_codec"
    is_good = check(match_clips(ROOT / held_out, lines), match_clips(resynthesis, lines), lines)
    first_clip = next((ROOT / held_out / "batch").glob("1_*.wav"))
    draw(ROOT / held_out / "demo.png", [ROOT / ar, ROOT / nar], first_clip, lines[0])
    print("== time")
    notes = json.loads(done.read_text())
    seconds = {step: float(notes[step]["seconds"]) for step in ("corpus", *steps)}
    for step, step_seconds in {**seconds, "total": sum(seconds.values())}.items():
        print(f"   {step:28s} {step_seconds / 60:5.1f} min")
    print(f"== the speech is in {held_out / 'batch'}, its texts in {test_list}")
    print(f"   losses and spectrograms: {held_out / 'demo.png'}")
    print(f"   report with audio: {evaluation / 'report.html'}")
    return is_good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="demo", help="experiments are NAME_ar and NAME_nar (default %(default)s)")
    parser.add_argument("--workdir", type=Path, default=ROOT / "demo", help="of the corpus and features (default demo)")
    arguments = parser.parse_args()
    try:
        is_good = demo(arguments.name, arguments.workdir.resolve())
    except UserError as error:
        sys.exit(f"demo: {error}")
    if not is_good:
        sys.exit("demo: the speech does not match its texts and voices well enough; see the check above")


if __name__ == "__main__":
    main()
