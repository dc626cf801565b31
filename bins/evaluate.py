"""Stage 4: evaluates experiments on a test list and writes a report."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from utils.cli import Parser, find_config, find_experiment, find_path, run
from utils.paths import ROOT

if TYPE_CHECKING:
    from evaluation.evaluate import Evaluation

DEFAULT_LANGUAGE = "en-us"
"""Language of the texts if there is only audio, and no experiment."""
NORMALIZERS = ("whisper", "seed-tts-eval")
PUBLISHED_SETS = ("seed-tts-eval", "librispeech-pc")
TEST_SETS = ("librispeech", "libritts", "vctk", *PUBLISHED_SETS)
DESCRIPTION = "Stage 4: evaluate experiments on a test list, beside the recordings and the codec, and write a report."


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The flags, checked for combinations that do not fit."""
    parser = Parser(DESCRIPTION)
    parser.add_argument("--config", "-c", metavar="FILE", help="config with the infer section, or the corpus, to use")
    parser.add_argument("--infer_expt_dir", action="append", default=[], metavar="DIR", help="experiment to evaluate")
    parser.add_argument("--audio_dir", action="append", default=[], metavar="DIR", help="output of stage 3 to evaluate")
    parser.add_argument("--test_list_file", "--infer_test_list_file", metavar="FILE", help="the test list")
    parser.add_argument("--infer_voice", metavar="NAME", help="a saved voice in place of the prompts of the list")
    parser.add_argument("--eval_output_dir", metavar="DIR", help="default: <infer_expt_dir>/evaluation")
    parser.add_argument("--continual", action="store_true", help="evaluate continuations of the prompts")
    parser.add_argument("--language", metavar="CODE", help="language of the texts (default: the first experiment's)")
    parser.add_argument("--asr", choices=("pocketsphinx", "whisper", "hubert", "none"), default="pocketsphinx")
    parser.add_argument("--asr_model", metavar="DIR", help="folder or hub name of the recognizer")
    parser.add_argument("--speaker_model", metavar="PATH", help="ge2e, a file, or folder or hub name")
    parser.add_argument("--dnsmos_dir", metavar="DIR", help="folder with DNSMOS's two networks")
    parser.add_argument("--utmos", metavar="FILE", help="file of UTMOS's strong learner, as SpeechMOS has it")
    parser.add_argument("--normalizer", choices=NORMALIZERS, help="what is compared (default: that of the list)")
    parser.add_argument("--num_report_texts", type=int, default=50, metavar="N", help="texts with audio in the report")
    parser.add_argument("--build_test_lists", choices=TEST_SETS, help="write test lists, and exit")
    parser.add_argument("--test_set", metavar="PATH", help="published files of seed-tts-eval or librispeech-pc")
    flags = parser.parse(arguments)
    if (flags.build_test_lists in PUBLISHED_SETS) != (flags.test_set is not None):
        parser.error(f"--test_set: needed with --build_test_lists {' and '.join(PUBLISHED_SETS)}, and only there")
    # Writing test lists needs no experiment.
    if flags.build_test_lists is not None:
        if flags.eval_output_dir is None:
            parser.error("--eval_output_dir: needed with --build_test_lists")
        return flags
    if flags.test_list_file is None:
        parser.error("--test_list_file: needed, or --build_test_lists to write one")
    if not flags.infer_expt_dir and not flags.audio_dir:
        parser.error("--infer_expt_dir: needed, or --audio_dir")
    # Audio alone has no experiment folder for the report, and no settings to change.
    if not flags.infer_expt_dir:
        if flags.eval_output_dir is None:
            parser.error("--eval_output_dir: needed with --audio_dir alone")
        for flag in ("config", "set", "continual"):
            if getattr(flags, flag):
                parser.error(f"--{flag}: needs --infer_expt_dir, whose settings it changes")
    if flags.asr_model is not None and flags.asr in ("pocketsphinx", "none"):
        parser.error("--asr_model is for --asr whisper or hubert")
    return flags


def main(arguments: Sequence[str] | None) -> int:
    flags = parse(arguments)

    # Import heavy libraries only after the flags are checked.
    from utils.device import require_asked_gpus
    from utils.errors import UserError
    from utils.log import log, set_up_logging

    set_up_logging()
    require_asked_gpus()
    try:
        from evaluation.evaluate import log_table, write_metrics
        from evaluation.report import write_report
    except ImportError as error:
        raise UserError(f"evaluation needs {error.name}: pip install 'vallet[eval]'") from error
    if flags.build_test_lists is not None:
        build_test_lists(flags)
        return 0
    evaluation, output = evaluate_systems(flags)
    write_metrics(output / "metrics.json", evaluation)
    write_report(output / "report.html", evaluation, flags.num_report_texts)
    log_table(evaluation)
    log.info("report.html and metrics.json are in %s", output)
    return 1 if any(system.failures for system in evaluation.systems) else 0


def build_test_lists(flags: argparse.Namespace) -> None:
    from config.schema import Dataset, Settings
    from evaluation.protocol import write_test_lists, write_vctk_lists
    from evaluation.published_sets import write_librispeech_pc_lists, write_seed_lists
    from processors.corpora import read_corpus
    from utils.config import load_settings, read_values, resolve_path

    name, output = flags.build_test_lists, Path(flags.eval_output_dir).absolute()
    source = find_path(flags.test_set, "--test_set") if flags.test_set is not None else None
    if source is not None and name == "seed-tts-eval":
        write_seed_lists(source, output)
        return
    # LibriSpeech-PC has texts alone.
    corpus: Dataset = "librispeech" if source is not None else name
    config = find_config(flags.config)
    settings = load_settings(config, Settings, [*flags.set, f'dataset=["{corpus}"]'], root=ROOT)
    folder = resolve_path(settings.dataset_path[corpus], ROOT)
    if source is not None:
        write_librispeech_pc_lists(source, folder, output)
        return
    rows = read_corpus(name, folder, settings.preprocess)
    if name == "vctk":
        # A model that is trained on VCTK must not be tested on what it has seen.
        has_seen = name in (read_values(config).get("dataset") or ())
        write_vctk_lists([row for row in rows if not has_seen or row.split == "test"], output, name)
        return
    tested = [row for row in rows if row.split == "test"]
    clean = [row for row in tested if "test-clean" in Path(row.audio_path).parts]
    # The papers take test-clean alone.
    write_test_lists(clean or tested, output, f"{name} test-clean" if clean else f"{name} test")


def evaluate_systems(flags: argparse.Namespace) -> tuple["Evaluation", Path]:
    """The evaluation, and the output folder."""
    from evaluation.build import build_measures
    from evaluation.candidates import add_error_rate
    from evaluation.evaluate import evaluate, gather
    from evaluation.published import named_list, published_results
    from models.experiment import Experiment
    from synthesis.load import load_experiment
    from synthesis.synthesizer import Synthesizer
    from synthesis.test_lists import read_test_list
    from synthesis.voices import find_voice
    from utils.checkpoint import Checkpoint, experiment_of, resolve_checkpoint
    from utils.device import pick_device
    from utils.hub import output_folder

    test_list = find_path(flags.test_list_file, "--test_list_file")
    config = find_path(flags.config, "--config") if flags.config is not None else None
    folders = [find_experiment(folder, "--infer_expt_dir") for folder in flags.infer_expt_dir]
    # The voices of the first experiment: all that are compared have the same prompts.
    first = resolve_checkpoint(folders[0], "--infer_expt_dir") if folders else None
    own = experiment_of(first) if first is not None else None
    voice = None if flags.infer_voice is None else find_voice(flags.infer_voice, own, "--infer_voice")
    lines = read_test_list(test_list, lambda path: find_path(path, "audio_prompt", test_list.parent), own, voice)
    audio_folders = [find_path(folder, "--audio_dir") for folder in flags.audio_dir]
    dnsmos_dir = find_path(flags.dnsmos_dir, "--dnsmos_dir") if flags.dnsmos_dir is not None else None
    utmos = find_path(flags.utmos, "--utmos") if flags.utmos is not None else None
    models = (flags.asr, flags.asr_model, flags.speaker_model)
    named = named_list(test_list)
    language = flags.language or (named.language if named is not None else None) or DEFAULT_LANGUAGE
    if flags.language is None and first is not None and (named is None or named.language is None):
        language = Experiment.of(first).settings(flags.set).preprocess.language
    normalizer = flags.normalizer or (named.normalizer if named is not None else "whisper")
    measures, missing = build_measures(language, *models, dnsmos_dir, pick_device(), utmos=utmos, normalizer=normalizer)
    kind = measures.embedder.kind if measures.embedder is not None else None
    published = published_results(named, len(lines), flags.continual, voice is not None, kind, normalizer)
    output = (
        Path(flags.eval_output_dir).absolute() if flags.eval_output_dir else output_folder(folders[0]) / "evaluation"
    )

    # One at a time: each is released before the next is loaded.
    def load(folder: Path) -> tuple[Synthesizer, Checkpoint]:
        checkpoint = resolve_checkpoint(folder, "--infer_expt_dir")
        synthesizer, _ = load_experiment(checkpoint.path, "--infer_expt_dir", flags.set, config)
        add_error_rate(synthesizer)
        return synthesizer, checkpoint

    systems, prompt_seconds = gather(lines, map(load, folders), audio_folders, output, flags.continual)
    return evaluate(lines, systems, measures, missing, prompt_seconds, published), output


if __name__ == "__main__":
    run(main)
