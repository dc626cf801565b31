"""The demo: speaks with the pretrained pair, then fine-tunes it to a new voice with `run.sh`, and compares.

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
from functools import partial
from pathlib import Path
from typing import Any

from egs.tts.VALLE.demo_corpus import Line, evaluation_lines, write_corpus, write_test_list
from egs.tts.VALLE.demo_report import check_speech, draw, print_comparison, print_table, read_systems
from evaluation.normalizers import build_normalizer
from processors.codecs import codec_class
from utils.checkpoint import find_checkpoints, resolve_checkpoint
from utils.config import read_values
from utils.errors import UserError
from utils.files import write_json
from utils.paths import PRETRAINED, ROOT

CONFIG = "egs/tts/VALLE/demo_config.json"
EXPERIMENTS = Path("ckpts/tts")
MINUTES = 25.0
NUM_SENTENCES = 20
FIRST_TEXT = "The train to the coast leaves at nine, and we should not be late."
FIRST_PROMPT = "egs/tts/VALLE/prompt_examples/101_3101_000002_000000"
# The settings under `preprocess` with which the pair's codes and phones were made.
PAIR_SETTINGS = (
    *("acoustic_token_extractor", "mel_rvq", "speech_rvq", "sample_rate"),
    *("phone_extractor", "language", "add_blank", "normalize_text"),
)


@dataclass(frozen=True)
class Options:
    """The flags. `asr_model` and `speaker_model` are those of stage 4."""

    name: str = "demo"
    workdir: Path = ROOT / "demo"
    pretrained: Path = PRETRAINED
    asr: str = "none"
    asr_model: str | None = None
    speaker_model: str = "ge2e"


class Steps:
    """Runs each step once. The file `path` notes the settings and the seconds of the steps that ran."""

    def __init__(self, path: Path, settings: str) -> None:
        self._path = path
        self._settings = hashlib.sha256(settings.encode()).hexdigest()
        self.seconds: dict[str, float] = {}

    def run(self, step: str, work: Callable[[], None], product: Path | None = None) -> None:
        """Run a step unless its product is complete; without a product always, as it skips complete work by itself.

        Raises UserError if the product exists, but was made with other settings.
        """
        notes: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8")) if self._path.is_file() else {}
        note = notes.get(step, {})
        has_same_settings = note.get("settings") == self._settings
        if product is not None and product.exists():
            if not has_same_settings:
                raise UserError(
                    f"{product} is of another pair or version of the demo: remove it, or give --name and --workdir"
                )
            if "seconds" in note:
                print(f"== {step}: complete, in {shown(product)}", flush=True)
                self.seconds[step] = note["seconds"]
                return
        print(f"== {step}", flush=True)
        # The settings are noted first, so that the product of an interrupted step is known to be the demo's.
        # A step that finds its output present returns at once; the time of its first run is kept.
        known = note if product is None and has_same_settings else {"settings": self._settings}
        self._write({**notes, step: known})
        start = time.monotonic()
        work()
        note = {"seconds": round(time.monotonic() - start, 1), **known}
        self._write({**notes, step: note})
        self.seconds[step] = note["seconds"]

    def _write(self, notes: dict[str, Any]) -> None:
        write_json(self._path, notes, indent=2)


def shown(path: Path) -> str:
    """A path below the repository root, relative to it: as short as a user would type it."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def run_sh(*flags: str | Path, product: Path | None = None) -> None:
    """Run `run.sh` and raise UserError if it fails. Stages 3 and 4 have a `product`, which they write at the end.

    They also end with status 1 if a single text has failed, and their product says which.
    """
    if product is not None:
        product.unlink(missing_ok=True)
    arguments = [shown(flag) if isinstance(flag, Path) else flag for flag in flags]
    print(f"$ {shlex.join(['sh', 'egs/tts/VALLE/run.sh', *arguments])}", flush=True)
    status = launch(arguments)
    has_product = status == 1 and product is not None and product.is_file()
    if status != 0 and not has_product:
        raise UserError(f"run.sh ended with status {status}: see its message above")


def launch(arguments: list[str]) -> int:
    """Run `run.sh` in this program's Python environment; returns its exit status."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    active = {"VIRTUAL_ENV": sys.prefix} if sys.prefix != sys.base_prefix else {}
    environment = {**os.environ, "PATH": path, **active}
    return subprocess.run(["sh", "egs/tts/VALLE/run.sh", *arguments], cwd=ROOT, env=environment).returncode


def write_config(path: Path, pretrained: Path, workdir: Path) -> None:
    """Write the config of the fine-tuning: the demo's, with the codec, phones, model and sampling of the pair."""
    args = read_values(pretrained / "args.json")
    codec = pretrained / codec_class(args["preprocess"]["acoustic_token_extractor"]).file_name
    content = {
        "base_config": CONFIG,
        "dataset_path": {"custom": shown(workdir / "corpus")},
        "preprocess": {
            **{key: args["preprocess"][key] for key in PAIR_SETTINGS if key in args["preprocess"]},
            "processed_dir": shown(workdir / "data"),
            "codec_checkpoint": shown(codec) if codec.is_file() else None,
            "symbol_table": shown(pretrained / "symbols.dict"),
        },
        "model": args["model"],
        "infer": args["infer"],
    }
    write_json(path, content, indent=2)


def speak_at_once(pretrained: Path, output: Path) -> None:
    """Synthesize one text in the voice of a prompt that lies in the repository."""
    prompt = ROOT / f"{FIRST_PROMPT}.wav"
    text_prompt = prompt.with_suffix(".txt").read_text(encoding="utf-8").strip()
    # With the file of an interrupted run, this one's would get another name.
    (output / "single" / prompt.name).unlink(missing_ok=True)
    texts = ["--infer_text", FIRST_TEXT, "--infer_text_prompt", text_prompt]
    speak = partial(run_sh, "--stage", "3", "--infer_mode", "single", *texts, "--infer_audio_prompt", prompt)
    speak("--infer_expt_dir", pretrained, "--infer_output_dir", output, product=output / "results.jsonl")


def fine_tune(name: str, config: Path, pretrained: Path) -> None:
    """Run stage 2 for the AR and the NAR together; resume if there is a checkpoint."""
    is_begun = bool(find_checkpoints(ROOT / EXPERIMENTS / name / "checkpoint"))
    start: list[str | Path] = ["--resume_from_ckpt_path", pretrained, "--resume_type", "finetune"]
    own: list[str | Path] = ["--config", config, "--name", name, "--model_train_stage", "0"]
    run_sh("--stage", "2", *own, *(["--resume", "true"] if is_begun else start))


def speak_list(pretrained: Path, output: Path, test_list: Path) -> None:
    batch = ["--infer_mode", "batch", "--test_list_file", shown(test_list), "--infer_output_dir", shown(output)]
    run_sh("--stage", "3", "--infer_expt_dir", pretrained, *batch, product=output / "results.jsonl")


def evaluate(options: Options, experiment: Path, before: Path, test_list: Path, output: Path) -> None:
    """Run stage 4, which speaks with the fine-tuned pair and measures both it and the speech before."""
    models = ["--asr", options.asr, *(["--asr_model", options.asr_model] if options.asr_model else [])]
    models += ["--speaker_model", options.speaker_model]
    files = ["--audio_dir", shown(before), "--test_list_file", shown(test_list), "--eval_output_dir", shown(output)]
    run_sh("--stage", "4", "--infer_expt_dir", experiment, *files, *models, product=output / "metrics.json")


def evaluation_name(options: Options) -> str:
    """The folder of the results: another recognizer writes to another one."""
    if options.asr == "none":
        return "evaluation"
    return "_".join(["evaluation", options.asr, *([Path(options.asr_model).name] if options.asr_model else [])])


def demo(options: Options) -> None:
    """Run all steps, and print the results. Raises UserError if a step fails, or a text has no speech."""
    pretrained, workdir = options.pretrained, options.workdir
    pair = resolve_checkpoint(pretrained, "--pretrained")
    workdir.mkdir(parents=True, exist_ok=True)
    config, test_list, corpus = workdir / "config.json", workdir / "test_list.txt", workdir / "corpus"
    first, before = workdir / "first", workdir / "before_fine_tuning"
    experiment = ROOT / EXPERIMENTS / options.name
    evaluation = experiment / evaluation_name(options)
    write_config(config, pretrained, workdir)
    # Products of another pair, config or corpus must not be mixed with new ones.
    content = [(ROOT / CONFIG).read_text(), config.read_text(), pair.path.name, MINUTES, NUM_SENTENCES]
    steps = Steps(workdir / "done.json", repr(content))

    steps.run("first speech", partial(speak_at_once, pretrained, first), first / "results.jsonl")
    name = f"single/{Path(FIRST_PROMPT).name}"
    check_speech(first, [name])
    seconds = steps.seconds["first speech"]
    print(f"   {shown(first / name)}.wav, {seconds:.0f} s after the command began: {FIRST_TEXT!r}")

    steps.run("corpus", partial(write_corpus, corpus, MINUTES, NUM_SENTENCES), corpus)
    lines = evaluation_lines(corpus, NUM_SENTENCES)
    write_test_list(test_list, lines)
    names = [line.name for line in lines]
    steps.run("features", partial(run_sh, "--stage", "1", "--config", config))
    # The pair speaks before stage 2, although stage 4 reads this speech only after it.
    steps.run("speech before", partial(speak_list, pretrained, before, test_list), before / "results.jsonl")
    check_speech(before, names)
    # The experiment may have another --name in another call, so that these steps have it in theirs.
    step = f"fine-tuning, {shown(experiment)}"
    steps.run(step, partial(fine_tune, options.name, config, pretrained), experiment)
    metrics, after = evaluation / "metrics.json", evaluation / experiment.name
    step = f"speech after, {shown(evaluation)}"
    steps.run(step, partial(evaluate, options, experiment, before, test_list, evaluation), metrics)
    check_speech(after, names)

    print_results(metrics, lines, options)
    picture = evaluation / "demo.png"
    clips = {"before": before / f"{names[0]}.wav", "after": after / f"{names[0]}.wav", "recording": lines[0].recording}
    draw(picture, experiment, clips, lines[0].text)
    print_times(steps.seconds)
    print(f"== speech before fine-tuning: {shown(before)}; after: {shown(after)}")
    print(f"   losses and spectrograms: {shown(picture)}")
    print(f"   report with audio: {shown(evaluation / 'report.html')}")


def print_times(seconds: dict[str, float]) -> None:
    """Print the minutes of each step; those of a step that was complete are of its first run."""
    print("== time")
    for step, step_seconds in {**seconds, "total": sum(seconds.values())}.items():
        print(f"   {step:48s} {step_seconds / 60:5.1f} min")


def print_results(metrics: Path, lines: list[Line], options: Options) -> None:
    """Print the table, the comparison, and how to get what is missing."""
    systems, missing = read_systems(metrics)
    print("== the new voice before and after fine-tuning")
    print_table(systems, len(lines))
    has_words = any("wer" in system["metrics"] for system in systems.values())
    print_comparison(systems, lines, build_normalizer("en-us") if has_words else str)
    if options.asr == "none":
        print("   WER and CER: make demo ASR=whisper, with ASR_MODEL=FOLDER for a model on this machine")
    for metric in ("WER and CER", "speaker similarity"):
        if metric in missing and not (metric == "WER and CER" and options.asr == "none"):
            print(f"   {metric} is missing: {missing[metric]}; then remove {shown(metrics)} and repeat")


def parse() -> Options:
    parser = argparse.ArgumentParser(prog="demo", description=__doc__.splitlines()[0])
    parser.add_argument("--name", default="demo", help="experiment of the fine-tuned pair (default %(default)s)")
    parser.add_argument("--workdir", type=Path, default=ROOT / "demo", help="for corpus and features (default demo)")
    parser.add_argument(
        "--pretrained", type=Path, default=PRETRAINED, help=f"experiment to start from (default {shown(PRETRAINED)})"
    )
    parser.add_argument("--asr", choices=("whisper", "hubert", "pocketsphinx", "none"), default="none")
    parser.add_argument("--asr_model", metavar="DIR", help="folder or hub name of the recognizer, as in stage 4")
    parser.add_argument("--speaker_model", default="ge2e", metavar="PATH", help="as in stage 4 (default %(default)s)")
    flags = parser.parse_args()
    if flags.asr_model and flags.asr in ("none", "pocketsphinx"):
        parser.error("--asr_model is for --asr whisper or hubert")
    # run.sh runs in the repository root, and paths are the caller's.
    asr_model, speaker_model = (
        str(Path(path).absolute()) if path and Path(path).exists() else path
        for path in (flags.asr_model, flags.speaker_model)
    )
    folders = flags.workdir.resolve(), flags.pretrained.resolve()
    return Options(flags.name, *folders, flags.asr, asr_model, speaker_model)


def main() -> None:
    try:
        demo(parse())
    except (UserError, OSError) as error:
        sys.exit(f"demo: {error}")
    except KeyboardInterrupt:
        sys.exit("demo: interrupted; the same command goes on from the last complete step")


if __name__ == "__main__":
    main()
