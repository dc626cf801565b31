"""Stage 3: synthesizes texts in the voices of prompts."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from utils.cli import Parser, find_experiment, find_path, run

# Settings of the infer section that have a flag.
_SETTINGS = {"top_k": int, "top_p": float, "temperature": float, "seed": int, "speed": float, "loudness_lufs": float}
DESCRIPTION = "Stage 3: synthesize texts in the voices of prompts, with a trained experiment."


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The flags, checked for combinations that do not fit."""
    parser = Parser(DESCRIPTION)
    parser.add_argument("--config", "-c", metavar="FILE", help="config with the infer section to use")
    parser.add_argument("--infer_expt_dir", required=True, metavar="DIR", help="experiment of the NAR model")
    parser.add_argument("--infer_output_dir", metavar="DIR", help="default: <infer_expt_dir>/result")
    parser.add_argument("--infer_mode", choices=("single", "batch"), required=True)
    parser.add_argument("--infer_text", metavar="TEXT", help="single: the text")
    parser.add_argument("--infer_text_file", metavar="FILE", help="single: a file with a text of any length instead")
    parser.add_argument("--infer_text_prompt", metavar="TEXT", help="single: the prompt's text")
    parser.add_argument("--infer_audio_prompt", metavar="FILE", help="single: the prompt's audio")
    parser.add_argument("--infer_language", metavar="CODE", help="language of the texts (default: by script)")
    parser.add_argument("--infer_prompt_language", metavar="CODE", help="language of the prompts' texts (the same)")
    parser.add_argument("--infer_voice", metavar="NAME", help="a saved voice in place of the prompt and its text")
    parser.add_argument("--test_list_file", "--infer_test_list_file", metavar="FILE", help="batch: the test list")
    parser.add_argument(
        "--continual", action="store_true", help="keep the prompt's start and read the rest of its text"
    )
    parser.add_argument("--copysyn", action="store_true", help="also write the codec's reconstruction of each prompt")
    parser.add_argument("--subtitles", choices=("srt", "vtt"), help="also write subtitles beside each output")
    for name, kind in _SETTINGS.items():
        parser.add_argument(f"--{name}", type=kind)
    flags = parser.parse(arguments)
    # Each mode refuses the other's flags, which would otherwise be ignored in silence.
    single = {name: getattr(flags, name) for name in ("infer_text", "infer_text_prompt", "infer_audio_prompt")}
    if flags.infer_mode == "batch":
        for name, value in {"infer_text_file": flags.infer_text_file, **single}.items():
            if value is not None:
                parser.error(f"--{name} is for --infer_mode single")
        if flags.test_list_file is None:
            parser.error("--test_list_file: needed with --infer_mode batch")
    else:
        if flags.test_list_file is not None:
            parser.error("--test_list_file is for --infer_mode batch")
        # The text is that of one flag, of a file, or with --continual the prompt's own.
        for name in ("infer_text", "infer_text_file"):
            if flags.continual and getattr(flags, name) is not None:
                parser.error(f"--{name}: --continual reads the prompt's own text; leave one of them out")
        if flags.infer_text is not None and flags.infer_text_file is not None:
            parser.error("--infer_text: --infer_text_file has the text; leave one of them out")
        if flags.continual or flags.infer_text_file is not None:
            del single["infer_text"]
        if flags.infer_voice is not None:
            for name in ("infer_text_prompt", "infer_audio_prompt"):
                if single.pop(name) is not None:
                    parser.error(f"--{name}: --infer_voice has a prompt; leave one of them out")
        for name, value in single.items():
            if value is None:
                parser.error(f"--{name}: needed with --infer_mode single")
    return flags


def main(arguments: Sequence[str] | None) -> int:
    flags = parse(arguments)

    # Import heavy libraries only after the flags are checked.
    from evaluation.candidates import add_error_rate
    from synthesis.books import synthesize_book
    from synthesis.load import load_experiment
    from synthesis.results import free_name, synthesize_list
    from synthesis.test_lists import ListItem, output_name, read_test_list, with_languages
    from synthesis.voices import find_voice, read_voice
    from utils.checkpoint import experiment_of, resolve_checkpoint
    from utils.device import require_asked_gpus
    from utils.errors import UserError
    from utils.hub import output_folder
    from utils.log import set_up_logging
    from utils.text_files import read_text_file

    require_asked_gpus()
    set_up_logging()
    overrides = [f"infer.{name}={getattr(flags, name)}" for name in _SETTINGS if getattr(flags, name) is not None]
    folder = find_experiment(flags.infer_expt_dir, "--infer_expt_dir")
    config = find_path(flags.config, "--config") if flags.config is not None else None
    own = experiment_of(resolve_checkpoint(folder, "--infer_expt_dir"))
    voice = None if flags.infer_voice is None else find_voice(flags.infer_voice, own, "--infer_voice")
    if flags.infer_mode == "batch":
        test_list = find_path(str(flags.test_list_file), "--test_list_file")
        items = read_test_list(test_list, lambda path: find_path(path, "audio_prompt", test_list.parent), own, voice)
        single = None
    else:
        prompt = voice or find_path(flags.infer_audio_prompt, "--infer_audio_prompt")
        prompt_text = flags.infer_text_prompt if voice is None else read_voice(voice).text
        named, text = prompt, flags.infer_text or ""
        if flags.infer_text_file is not None:
            named = find_path(flags.infer_text_file, "--infer_text_file")
            text = read_text_file(named)
        place = f"{named}: " if flags.infer_text_file is not None else ""
        single = ListItem(f"single/{output_name(named)}", text, prompt_text, prompt, place=place)

    synthesizer, experiment = load_experiment(folder, "--infer_expt_dir", [*flags.set, *overrides], config)
    if flags.subtitles is not None and synthesizer.aligner is None:
        raise UserError(
            "--subtitles: needs the times of words; set infer.word_times to true, with a model that has them"
        )
    add_error_rate(synthesizer)
    given = flags.infer_output_dir
    output_dir = Path(given).absolute() if given else output_folder(experiment.folder) / "result"
    language, prompt_language = flags.infer_language or "", flags.infer_prompt_language or ""
    if single is not None:
        single = replace(single, language=language, prompt_language=prompt_language)
    if single is not None and flags.infer_text_file is not None:
        checkpoint = resolve_checkpoint(folder, "--infer_expt_dir")
        model_id = f"{checkpoint.path.name} {checkpoint.weights.stat().st_mtime_ns}"
        return synthesize_book(synthesizer, single, output_dir, flags.copysyn, model_id, flags.subtitles)
    if single is not None:
        # Do not overwrite the result of another text with the same prompt.
        items = [replace(single, name=free_name(output_dir, single.name))]
    else:
        items = [with_languages(item, language, prompt_language) for item in items]
    num_failed = synthesize_list(
        synthesizer, items, output_dir, flags.continual, flags.copysyn, subtitles=flags.subtitles
    )
    return 1 if num_failed else 0


if __name__ == "__main__":
    run(main)
