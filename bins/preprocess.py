"""Stage 1: turns corpora into phones and codes."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from utils.cli import Parser, find_config, find_experiment, find_path, run
from utils.paths import ROOT

DESCRIPTION = "Stage 1: read the corpora of a config and write their phones and codes."


def main(arguments: Sequence[str] | None) -> int:
    parser = Parser(DESCRIPTION)
    parser.add_argument(
        "--config", "-c", metavar="FILE", help="settings (default: egs/tts/VALLE/exp_config.json, if it exists)"
    )
    parser.add_argument("--num_workers", type=int, metavar="N", help="worker processes that read audio and phonemize")
    parser.add_argument("--show_text", metavar="TEXT", help="only print how a text is read; needs no corpus")
    parser.add_argument("--infer_expt_dir", metavar="DIR", help="with --show_text: as this experiment reads it")
    parser.add_argument(
        "--check_codec", metavar="CLIP", help="only encode and decode this speech, and say whether the result is sane"
    )
    flags = parser.parse(arguments)
    if flags.check_codec is not None:
        if flags.show_text is not None or flags.infer_expt_dir is not None:
            parser.error("--check_codec takes neither --show_text nor --infer_expt_dir")
        return check_codec(find_path(flags.check_codec, "--check_codec"), flags.config, flags.set)
    if flags.show_text is not None:
        return show_text(flags.show_text, flags.config, flags.infer_expt_dir, flags.set)
    if flags.infer_expt_dir is not None:
        parser.error("--infer_expt_dir is for --show_text")

    # Import heavy libraries only after the flags are checked.
    from accelerate import PartialState

    from config.schema import Settings
    from processors.codecs import check_model, prepare_codec
    from processors.pipeline import CorpusPreprocessor
    from processors.training_audio import training_audio
    from utils.config import load_settings, resolve_path
    from utils.device import pick_device
    from utils.errors import UserError
    from utils.log import log, set_up_logging
    from utils.remote import is_url

    overrides = list(flags.set)
    if flags.num_workers is not None:
        overrides.append(f"preprocess.num_workers={flags.num_workers}")
    settings = load_settings(find_config(flags.config), Settings, overrides, root=ROOT)
    device = pick_device()
    # Ranks wait for the slowest one, which may take days.
    state = PartialState(cpu=device.type == "cpu", timeout=timedelta(days=7))
    set_up_logging(state.is_main_process)
    if is_url(settings.preprocess.processed_dir):
        raise UserError("preprocess.processed_dir: stage 1 writes to a folder; copy it to the store for stage 2")
    processed_dir: Path = resolve_path(settings.preprocess.processed_dir, ROOT)
    shared = (processed_dir, ROOT, settings.preprocess, state.process_index, state.num_processes)
    paths = {name: resolve_path(settings.dataset_path[name], ROOT) for name in settings.dataset}
    preparations = [CorpusPreprocessor(name, path, *shared) for name, path in paths.items()]
    rows = [row for preparation in preparations for row in preparation.rows]
    # Fail before the codec is fitted if the folder cannot be made.
    processed_dir.mkdir(parents=True, exist_ok=True)
    # The first rank fits the codec; the others then open its file.
    with state.main_process_first():
        audio = partial(training_audio, settings.preprocess, rows)
        codec = prepare_codec(settings.preprocess, processed_dir, ROOT, audio, device)
    try:
        check_model(codec, settings.model)
    except UserError as error:
        # The features do not depend on the model, which may be changed before stage 2.
        log.warning("%s before stage 2", error)
    problems = []
    for preparation in preparations:
        # Only the first rank gets statistics.
        if stats := preparation.run(codec, device, state.wait_for_everyone):
            problems += report(stats, preparation.folder / "failures.jsonl")
    if problems:
        raise UserError("; ".join(problems))
    return 0


def check_codec(clip: Path, config: str | None, overrides: Sequence[str]) -> int:
    """Print what the codec of a config does to a clip; returns 1 if the result is not sane."""
    from config.schema import CodecSettings
    from processors.codecs import build_codec, codec_class, with_vocoder
    from processors.codecs.check import MIN_SECONDS, round_trip
    from utils.audio import read_audio
    from utils.config import load_settings, resolve_path
    from utils.device import pick_device
    from utils.errors import UserError
    from utils.log import set_up_logging

    set_up_logging()
    # The corpora of the config need not exist, nor be named.
    no_corpus = ('dataset=["custom"]', "dataset_path.custom=")
    settings = load_settings(find_config(config), CodecSettings, [*overrides, *no_corpus], root=ROOT)
    preprocess = settings.preprocess
    kind = codec_class(preprocess.acoustic_token_extractor)
    own_file = resolve_path(preprocess.processed_dir, ROOT) / kind.file_name if kind.is_fitted else None
    codec = with_vocoder(build_codec(preprocess, own_file, ROOT, pick_device()), settings.infer, ROOT)
    audio = read_audio(clip, codec.sample_rate_hz)
    if len(audio) < MIN_SECONDS * codec.sample_rate_hz or not audio.any():
        raise UserError(f"--check_codec: {clip} must have at least {MIN_SECONDS:g} s of speech")
    found = round_trip(codec, audio)
    num_bits = math.log2(codec.codebook_size) * codec.num_codebooks * codec.frame_rate_hz
    print(
        f"codec:     {preprocess.acoustic_token_extractor}, {codec.sample_rate_hz} Hz, "
        f"{codec.frame_rate_hz:g} frames/s, "
        f"{codec.num_codebooks} codebooks of {codec.codebook_size}, {num_bits / 1000:.2f} kbit/s\n"
        f"clip:      {found.seconds:.2f} s, {found.num_frames} frames\n"
        f"codes:     {', '.join(map(str, found.codes_used))} different ones in each codebook\n"
        f"spectrum:  off by {found.error_db:.1f} dB, {found.error_share:.2f} of the clip's own variation\n"
        f"level:     {found.level_db:+.1f} dB\n"
        f"shift:     {1000 * found.delay_seconds:+.0f} ms\n"
        f"sane:      {'no: ' + '; '.join(found.problems) if found.problems else 'yes'}"
    )
    return 1 if found.problems else 0


def show_text(text: str, config: str | None, experiment: str | None, overrides: Sequence[str]) -> int:
    """Print a text, its normalized form and its phones, with the settings of a config or of an experiment."""
    from config.schema import TextSettings
    from models.experiment import Experiment
    from processors.languages import AUTO, language_name
    from processors.symbols import SymbolTable
    from processors.text import TextTokenizer
    from processors.text_to_phones import TextToPhones
    from synthesis.spoken_languages import split_language_tag
    from utils.checkpoint import resolve_checkpoint
    from utils.config import load_settings
    from utils.errors import UserError

    table = None
    if experiment is None:
        # The corpora of the config need not exist, nor be named.
        no_corpus = ('dataset=["custom"]', "dataset_path.custom=")
        settings = load_settings(find_config(config), TextSettings, [*overrides, *no_corpus], root=ROOT)
        preprocess = settings.preprocess
    else:
        found = find_experiment(experiment, "--infer_expt_dir")
        folder = Experiment.of(resolve_checkpoint(found, "--infer_expt_dir"))
        preprocess, table = folder.settings(overrides).preprocess, SymbolTable.load(folder.symbols)
    language, text = split_language_tag(text)
    if not text.strip():
        raise UserError("--show_text: the text is empty; give it one")
    if preprocess.language == AUTO:
        if not language:
            raise UserError("--show_text: begin the text with its language, as in [language zh]")
        reader = TextToPhones.from_settings(preprocess, table, language_name(language))
    else:
        reader = TextToPhones.from_settings(preprocess, table)
    if refusal := reader.refusal("the text", text):
        raise UserError(f"--show_text: {refusal} See preprocess.language")
    [phones] = reader.phonemize([text])
    print(f"text:       {text}\nnormalized: {reader.rewrite(text)}\nphones:     {' '.join(phones)}")
    if table is not None:
        # Logs the phones that the table does not have, and what replaces them.
        TextTokenizer.from_settings(preprocess, table).ids(phones)
    return 0


def report(stats: dict[str, Any], failures: Path) -> list[str]:
    """Log the statistics of a corpus; returns an error line if nothing of it could be used."""
    from utils.log import log

    name, splits = stats["dataset"], stats["splits"]
    for split, counts in splits.items():
        log.info("%s/%s: %d utterances, %.2f hours", name, split, counts["utterances"], counts["hours"])
    if stats["dropped"]:
        log.info("%s: %d left out, see %s", name, stats["dropped"], failures)
    # A corpus may have test utterances only; stage 2 reports it if none are left to train on.
    return [] if any(counts["utterances"] for counts in splits.values()) else [describe_empty(stats, failures)]


def describe_empty(stats: dict[str, Any], failures: Path) -> str:
    """Why nothing of a corpus could be used: the most common reason, with an example."""
    from processors.reports import failure_category

    name, reasons = stats["dataset"], Counter(stats["dropped_why"])
    kind, count = reasons.most_common(1)[0]
    lines = failures.read_text(encoding="utf-8").splitlines()
    example = next(row for row in map(json.loads, lines) if failure_category(row) == kind)
    reason = example["reason"] if example["audio"] in example["reason"] else f"{example['audio']}: {example['reason']}"
    return (
        f"dataset_path.{name}: nothing could be used; {stats['dropped']} utterances were left out, {count} of them as "
        f"{kind}, such as {reason}"
    )


if __name__ == "__main__":
    run(main)
