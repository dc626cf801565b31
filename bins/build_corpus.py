"""Stage 0: turns recordings into a corpus that stage 1 reads."""

import argparse
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from utils.cli import Parser, find_config, find_path, run
from utils.paths import ROOT

DESCRIPTION = "Stage 0: cut recordings into segments, find their texts and speakers, and write a corpus for stage 1."


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The flags, checked for combinations that do not fit."""
    parser = Parser(DESCRIPTION)
    parser.add_argument("--config", "-c", metavar="FILE", help="config with the recordings section to use")
    parser.add_argument("--audio_dir", required=True, metavar="DIR", help="folder with the recordings")
    parser.add_argument("--output_dir", required=True, metavar="DIR", help="folder of the corpus")
    parser.add_argument("--num_workers", type=int, metavar="N", help="worker processes that cut recordings")
    parser.add_argument("--asr", choices=("whisper", "hubert", "none"), default="whisper", help="what finds the texts")
    parser.add_argument("--asr_model", metavar="DIR", help="folder or hub name of the recognizer")
    parser.add_argument("--language", metavar="CODE", help="language of all recordings (default: whisper detects it)")
    parser.add_argument("--speaker_model", metavar="PATH", help="ge2e (default), a GE2E file, or folder or hub name")
    parser.add_argument("--dnsmos_dir", metavar="DIR", help="folder with DNSMOS's two networks")
    flags = parser.parse(arguments)
    if flags.asr_model is not None and flags.asr == "none":
        parser.error("--asr_model is for --asr whisper or hubert")
    return flags


def main(arguments: Sequence[str] | None) -> int:
    flags = parse(arguments)

    # Import heavy libraries only after the flags are checked.
    from accelerate import PartialState

    from config.schema import CorpusSettings
    from processors.languages import language_name
    from utils.config import load_settings
    from utils.device import pick_device
    from utils.errors import UserError
    from utils.log import log, set_up_logging

    # The corpora of the config need not exist, nor be named.
    overrides = [*flags.set, 'dataset=["custom"]', "dataset_path.custom="]
    if flags.num_workers is not None:
        overrides.append(f"recordings.num_workers={flags.num_workers}")
    settings = load_settings(find_config(flags.config), CorpusSettings, overrides, root=ROOT).recordings
    audio_dir = find_path(flags.audio_dir, "--audio_dir").resolve()
    output: Path = Path(flags.output_dir).expanduser().resolve()
    dnsmos_dir = find_path(flags.dnsmos_dir, "--dnsmos_dir") if flags.dnsmos_dir is not None else None
    if not audio_dir.is_dir():
        raise UserError(f"--audio_dir: {flags.audio_dir} is a file; give the folder with the recordings")
    if audio_dir.is_relative_to(output):
        raise UserError(f"--output_dir: {flags.output_dir} has the recordings in it; give another folder")
    is_cpu = pick_device().type == "cpu"
    # Ranks wait for the slowest one, which may take days.
    state = PartialState(cpu=is_cpu, timeout=timedelta(days=7))
    set_up_logging(state.is_main_process)
    try:
        from evaluation.dnsmos import build_dnsmos
        from evaluation.recognizers import build_recognizer
        from evaluation.speakers import GE2E, build_embedder
        from recordings.builder import CorpusBuilder, check_usable
        from recordings.segments import Models
        from recordings.sources import find_recordings
        from recordings.tables import clusters_voices
        from recordings.voice import SileroVad
    except ImportError as error:
        raise UserError(f"stage 0 needs {error.name}: pip install 'vallet[recordings]'") from error

    recordings = find_recordings(audio_dir, output, with_texts=flags.asr == "none")
    output.mkdir(parents=True, exist_ok=True)
    speaker_model = None
    if clusters_voices(recordings, settings):
        speaker_model = flags.speaker_model or GE2E
    elif flags.speaker_model is not None:
        raise UserError("--speaker_model: speakers are named by folders or a table; set recordings.speakers=cluster")
    # What is missing is reported here, and not from a worker. The first rank downloads; the others then find the files.
    with state.main_process_first():
        SileroVad()
        if dnsmos_dir is not None:
            build_dnsmos(dnsmos_dir)
        if speaker_model is not None:
            try:
                build_embedder(speaker_model)
            except UserError as error:
                hint = "or name speakers by folders, with --set recordings.speakers=folder"
                raise UserError(f"{error}; {hint}") from error
        language = "" if flags.language is None else language_name(flags.language)
        recognizer = None
        if flags.asr != "none":
            recognizer = build_recognizer(flags.asr, flags.asr_model, state.device, language or None)
    models = Models(speaker_model, dnsmos_dir)
    ranks = (state.process_index, state.num_processes)
    builder = CorpusBuilder(recordings, audio_dir, output, settings, models, recognizer, language, *ranks)
    # Only the first rank gets statistics.
    if stats := builder.run(state.wait_for_everyone):
        log.info(
            "%.2f h in %d segments of %d speakers, from %.2f h in %d recordings",
            *(stats["hours"], stats["segments"], len(stats["speakers"]), stats["recorded_hours"], stats["recordings"]),
        )
        for category, found in stats["left_out_why"].items():
            log.info("left out: %s: %d, %.0f s", category, found["rows"], found["seconds"])
        log.info("metadata.jsonl, left_out.jsonl and report.html are in %s", output)
        check_usable(stats, output)
    return 0


if __name__ == "__main__":
    run(main)
