"""From nothing to speech on a bare machine: a corpus, stages 1 to 4 through `run.sh`, and a check of what was said.

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
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import soundfile
from matplotlib import pyplot
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from evaluation.cepstra import align, mel_cepstra, trim
from evaluation.pictures import draw_spectrogram
from processors.demo_corpus import SAMPLE_RATE_HZ, VOICES, Voice, render, write_demo_corpus
from utils.checkpoint import find_checkpoints
from utils.errors import UserError
from utils.files import written_aside

ROOT = Path(__file__).resolve().parents[3]
CONFIG = "egs/tts/VALLE/demo_config.json"
EXPERIMENTS = Path("ckpts/tts")
# The NAR has less to learn, one codebook alone: what a sentence is comes from the AR.
NAR_STEPS = [
    part
    for key, value in (("max_steps", 1500), ("total_training_steps", 1550), ("base_lr", 3e-3))
    for part in ("--set", f"train.{key}={value}")
]
# So much that the AR cannot learn the sentences by heart.
CORPUS_MINUTES = 240
NUM_REFERENCES = 10
# Texts that a clip is compared with lie this many lines apart.
STRIDE = 7
# What a model must reach that reads its text and keeps the voice; chance is a tenth.
SENTENCES_RIGHT, VOICES_RIGHT = 0.95, 0.9
# Of what the codec alone, with the codebooks that the model has, makes of the recordings.
TIMES_CODEC_DISTANCE = 1.5
SILENT_RMS = 0.003


@dataclass(frozen=True)
class Line:
    """A line of a test list: what to say, in whose voice, and the voice's own recording of it."""

    text: str
    text_prompt: str
    audio_prompt: Path
    recording: Path
    voice: Voice


class Parts:
    """The parts of the demo that have ended, with the seconds they took and the settings they had."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._notes: dict[str, dict[str, str | float]] = json.loads(path.read_text()) if path.is_file() else {}
        self._seen: list[str] = []
        self._settings = hashlib.sha256((ROOT / CONFIG).read_bytes() + repr(NAR_STEPS).encode()).hexdigest()

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
    """Every held-out utterance of every voice, each with the voice's next one as its prompt."""
    lines = []
    for voice in VOICES:
        paths = sorted((corpus / "test-clean" / voice.speaker).rglob("*.wav"))
        texts = [path.with_suffix(".normalized.txt").read_text() for path in paths]
        for i, path in enumerate(paths):
            j = (i + 1) % len(paths)
            lines.append(Line(texts[i], texts[j], paths[j], path, voice))
    return lines


def write_list(path: Path, lines: list[Line]) -> None:
    """A test list as stages 3 and 4 read it, with the recording of each text as its reference."""
    rows = []
    for line in lines:
        prompt, reference = (os.path.relpath(audio, ROOT) for audio in (line.audio_prompt, line.recording))
        rows.append(f"{line.text}|{line.text_prompt}|{prompt}|{reference}\n")
    path.write_text("".join(rows))


@cache
def reference(text: str, voice: Voice) -> np.ndarray:
    """The cepstra of what the voice itself makes of the text."""
    return mel_cepstra(trim(render(text, voice)), SAMPLE_RATE_HZ)


@dataclass(frozen=True)
class Heard:
    """A clip's distance to the true rendering, and which of ten texts and of ten voices it is nearest to."""

    distance_db: float
    text: str
    voice: Voice


def hear(audio: np.ndarray, line: Line, texts: list[str]) -> Heard:
    """Compare a clip with ten texts in its voice, its own among them, and with its text in all voices."""
    spoken = mel_cepstra(trim(audio), SAMPLE_RATE_HZ)

    def distance(text: str, voice: Voice) -> float:
        return align(spoken, reference(text, voice))[0]

    by_text = {text: distance(text, line.voice) for text in texts}
    by_voice = {voice: distance(line.text, voice) for voice in VOICES}
    return Heard(by_text[line.text], min(by_text, key=by_text.__getitem__), min(by_voice, key=by_voice.__getitem__))


def listen(folder: Path, lines: list[Line]) -> list[Heard]:
    """Hear what stage 3 or 4 wrote for each line. Raises UserError for a file that is missing or silent."""
    heard = []
    for i, line in enumerate(lines):
        path = folder / "batch" / f"{i + 1}_{line.audio_prompt.stem}.wav"
        if not path.is_file():
            raise UserError(f"{path} is missing: this line was not spoken")
        audio, _ = soundfile.read(path, dtype="float32")
        level = float(np.sqrt((audio**2).sum() / max(1, len(audio))))
        if level < SILENT_RMS:
            raise UserError(f"{path} is silent: root mean square {level:.4f} of full scale")
        # At this distance none of them is the prompt's.
        texts = [lines[(i + STRIDE * k) % len(lines)].text for k in range(NUM_REFERENCES)]
        heard.append(hear(audio, line, texts))
    return heard


def check(spoken: Path, resynthesized: Path, lines: list[Line]) -> bool:
    """Print how well the model says held-out sentences, beside chance and its codec; True where it reads them well."""
    print("== check: each clip against the true rendering of ten sentences, and of its own in ten voices", flush=True)
    rows = {"model": listen(spoken, lines), "codec alone": listen(resynthesized, lines)}
    print(f"   {'':12s} {'sentence right':>15s} {'voice right':>12s} {'median distance':>16s}")
    shares = {}
    for name, heard in rows.items():
        sentence = sum(one.text == line.text for one, line in zip(heard, lines, strict=True)) / len(lines)
        voice = sum(one.voice == line.voice for one, line in zip(heard, lines, strict=True)) / len(lines)
        distance = float(np.median([one.distance_db for one in heard]))
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


def draw(path: Path, experiments: list[Path], spoken: Path, line: Line) -> None:
    """One picture: the loss curves of both trainings, and a clip's spectrogram beside the true one."""
    figure, grid = pyplot.subplots(2, 2, figsize=(11, 6), dpi=110)
    for axes, experiment in zip(grid[0], experiments, strict=True):
        for name, points in losses(experiment).items():
            axes.plot(*zip(*points, strict=True), label=name, marker="o" if len(points) < 20 else None)
        axes.set(title=f"{experiment.name}: loss", xlabel="step")
        axes.legend()
    for axes, title, audio_path in zip(grid[1], ("spoken", "true"), (spoken, line.recording), strict=True):
        audio, rate_hz = soundfile.read(audio_path, dtype="float32")
        draw_spectrogram(axes, audio, rate_hz)
        axes.set(xlabel="seconds", ylabel="mel band")
        axes.set_title(f"{title}: {line.text}", fontsize=9)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def losses(experiment: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, loss) by phase, from the experiment's TensorBoard files."""
    events = EventAccumulator(str(experiment / "log"), size_guidance={"scalars": 0}).Reload()
    known = set(events.Tags()["scalars"])
    names = {"training": "train/loss", "validation": "valid/loss"}
    return {
        name: [(event.step, event.value) for event in events.Scalars(tag)]
        for name, tag in names.items()
        if tag in known
    }


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
    parts.run("corpus", lambda: write_demo_corpus(corpus, CORPUS_MINUTES))
    parts.run("features", lambda: run_sh("--stage", "1", *config))
    train_ar = ["--model_train_stage", "1", *config]
    train_nar = ["--model_train_stage", "2", *config, *NAR_STEPS]
    parts.run(f"AR {ar.name}", lambda: train(ar.name, *train_ar), ROOT / ar)
    parts.run(f"NAR {nar.name}", lambda: train(nar.name, "--ar_model_ckpt_dir", ar, *train_nar), ROOT / nar)
    lines, test_list = held_out_lines(corpus), workdir / "test_list.txt"
    write_list(test_list, lines)
    listed = ["--infer_expt_dir", str(nar), "--test_list_file", os.path.relpath(test_list, ROOT)]
    # Not in `result`, where stage 3 puts what a user says: names there could be the same.
    held_out = nar / "held_out"
    speech = ["--infer_mode", "batch", "--infer_output_dir", str(held_out)]
    parts.run("speech", partial(run_sh, "--stage", "3", *listed, *speech), ROOT / held_out / "results.jsonl")
    # No recognizer was trained on voices like these.
    report = ROOT / nar / "evaluation" / "report.html"
    parts.run("evaluation", partial(run_sh, "--stage", "4", *listed, "--asr", "none"), report)
    is_read = check(ROOT / held_out, report.parent / f"{nar.name}_codec", lines)
    picture = ROOT / held_out / "demo.png"
    draw(picture, [ROOT / ar, ROOT / nar], next((picture.parent / "batch").glob("1_*.wav")), lines[0])
    print("== time")
    parts.report()
    print(f"== the speech is in {held_out / 'batch'}; the texts are in {test_list}")
    print(f"   a picture of both trainings and of a sentence: {held_out / 'demo.png'}")
    print(f"   to listen and compare: {nar / 'evaluation' / 'report.html'}")
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
        sys.exit("demo: the speech is not as near to the texts and voices as it should be; see the check above")


if __name__ == "__main__":
    main()
