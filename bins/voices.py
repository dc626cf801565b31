"""Makes, lists, shows and removes voices: prompts that are used by name."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from utils.cli import Parser, find_experiment, find_path, run

DESCRIPTION = (
    "Voices are prompts that are used by name, with --infer_voice NAME in stages 3 to 5: make one from a recording "
    "(add NAME), list them (list), show one (show NAME), or remove one (remove NAME)."
)
FLAGS_OF_ADD = ("voices_dir", "audio", "text", "transcribe", "asr", "asr_model", "language", "consent", "licence")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The flags, checked for combinations that do not fit."""
    parser = Parser(DESCRIPTION, prog="voices.py")
    parser.add_argument("action", choices=("add", "list", "show", "remove"))
    parser.add_argument("name", nargs="?", metavar="NAME")
    parser.add_argument("--infer_expt_dir", metavar="DIR", help="experiment to use (default: the pretrained pair)")
    parser.add_argument(
        "--voices_dir", metavar="DIR", help="add: write to this folder, such as <infer_expt_dir>/voices"
    )
    parser.add_argument("--audio", metavar="FILE", help="add: the recording, about 3 s of the voice")
    parser.add_argument("--text", metavar="TEXT", help="add: what is said in it (default: the .txt file beside it)")
    parser.add_argument("--transcribe", action="store_true", help="add: have the text recognized")
    parser.add_argument("--asr", choices=("pocketsphinx", "whisper", "hubert"), help="recognizer (default whisper)")
    parser.add_argument("--asr_model", metavar="DIR", help="folder or hub name of the recognizer")
    parser.add_argument("--language", metavar="CODE", help="add: of the text, with an experiment of several languages")
    parser.add_argument("--consent", default="", metavar="TEXT", help="add: how the speaker agreed to this use")
    parser.add_argument("--licence", default="", metavar="TEXT", help="add: the licence of the recording")
    flags = parser.parse(arguments)
    if flags.action != "list" and flags.name is None:
        parser.error(f"{flags.action}: needs the name of a voice")
    if flags.action == "list" and flags.name is not None:
        parser.error(f"list: takes no name; show {flags.name} shows a voice")
    if flags.action != "add":
        for name in (*FLAGS_OF_ADD, "set"):
            if getattr(flags, name) != parser.get_default(name):
                parser.error(f"--{name} is for add")
    elif flags.audio is None:
        parser.error("--audio: needed with add")
    if flags.transcribe and flags.text is not None:
        parser.error("--text: --transcribe finds the text; leave one of them out")
    for name in ("asr", "asr_model"):
        if getattr(flags, name) is not None and not flags.transcribe:
            parser.error(f"--{name}: needs --transcribe")
    if flags.asr_model is not None and flags.asr == "pocketsphinx":
        parser.error("--asr_model is for --asr whisper or hubert")
    return flags


def main(arguments: Sequence[str] | None) -> int:
    flags = parse(arguments)

    # Import heavy libraries only after the flags are checked.
    from synthesis.load import find_pretrained
    from synthesis.voices import codec_of, describe, find_removable_voice, find_voice, list_voices, read_voice
    from utils.checkpoint import experiment_of, resolve_checkpoint
    from utils.errors import UserError
    from utils.hub import is_on_hub
    from utils.log import log, set_up_logging
    from utils.paths import PRETRAINED

    set_up_logging()
    if flags.action == "add":
        folder = flags.infer_expt_dir or find_pretrained("give --infer_expt_dir with an experiment's folder")
        return add(flags, find_experiment(str(folder), "--infer_expt_dir"))
    experiment: Path = PRETRAINED
    codec: str | None = None
    if flags.infer_expt_dir is not None or (PRETRAINED / "args.json").is_file():
        given = flags.infer_expt_dir
        folder = PRETRAINED if given is None else find_experiment(given, "--infer_expt_dir")
        checkpoint = resolve_checkpoint(folder, "--infer_expt_dir")
        experiment, codec = experiment_of(checkpoint), codec_of(checkpoint)
    if flags.action == "list":
        for name, path in list_voices(experiment).items():
            try:
                voice = read_voice(path)
                note = "" if codec in (None, voice.codec) else f"\tnot for {experiment.name}: made with another codec"
                shown = f"{voice.seconds:.1f} s\t{voice.language}\t{voice.licence or 'no licence'}\t{path}{note}"
                print(f"{name}\t{shown}")
            except UserError as error:
                print(f"{name}\t{error}")
        return 0
    if flags.action == "show":
        print(describe(find_voice(flags.name, experiment, "show")))
        return 0
    if flags.infer_expt_dir is not None and is_on_hub(flags.infer_expt_dir):
        raise UserError(f"--infer_expt_dir: voices of {flags.infer_expt_dir} lie on the hub, and are not removed here")
    # Without the flag, only the user's own folder counts.
    path = find_removable_voice(flags.name, experiment if flags.infer_expt_dir is not None else None)
    path.unlink()
    log.info("%s is removed", path)
    return 0


def add(flags: argparse.Namespace, folder: Path) -> int:
    """Make a voice with the codec and the text frontend of an experiment."""
    from synthesis.load import load_experiment
    from synthesis.voices import Voice, check_name, new_voice_path, write_voice
    from utils.errors import UserError
    from utils.log import log
    from utils.prompts import prepare_prompt
    from utils.text_files import read_text_file

    check_name(flags.name)
    audio = find_path(flags.audio, "--audio")
    text = flags.text
    if flags.transcribe:
        text = transcribe(flags, audio, folder)
        log.info("recognized: %s", text)
    elif text is None:
        beside = audio.with_suffix(".txt")
        if not beside.is_file():
            raise UserError(f"--text: needed, or --transcribe, or a file {beside.name} beside the audio with its text")
        text = " ".join(read_text_file(beside).split())
    synthesizer, experiment = load_experiment(folder, "--infer_expt_dir", flags.set)
    given = Path(flags.voices_dir).absolute() if flags.voices_dir is not None else None
    path = new_voice_path(flags.name, experiment.folder, given)
    prompt = prepare_prompt(audio, text, synthesizer.codec.sample_rate_hz)
    for warning in prompt.warnings:
        log.warning("%s", warning)
    voice = Voice.from_prompt(prompt, synthesizer, flags.language or "", consent=flags.consent, licence=flags.licence)
    write_voice(voice, path)
    if not voice.consent:
        log.warning("the voice has no consent note; use it only if its speaker agreed, and say how with --consent")
    log.info("voice %s, %.1f s: %s", flags.name, voice.seconds, path)
    return 0


def transcribe(flags: argparse.Namespace, audio: Path, folder: Path) -> str:
    """The text of a recording by a recognizer of stage 4. Raises UserError if it finds no words."""
    from evaluation.recognizers import RATE_HZ, build_recognizer
    from models.experiment import Experiment
    from utils.audio import read_audio
    from utils.checkpoint import resolve_checkpoint
    from utils.device import pick_device
    from utils.errors import UserError
    from utils.prompts import MAX_READ_SECONDS, check_prompt_length

    check_prompt_length(audio)
    experiment = Experiment.of(resolve_checkpoint(folder, "--infer_expt_dir"))
    language = flags.language or experiment.settings(flags.set).preprocess.language
    recognizer = build_recognizer(flags.asr or "whisper", flags.asr_model, pick_device(), language)
    samples = read_audio(audio, RATE_HZ, duration_seconds=MAX_READ_SECONDS)
    text = " ".join(recognizer.transcribe(samples.numpy()).split())
    if not text:
        raise UserError(f"{audio}: {recognizer.name} recognized no words; give the text with --text")
    return text


if __name__ == "__main__":
    run(main)
