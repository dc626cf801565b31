"""Stage 2: trains the AR model, the NAR model, or both."""

from collections.abc import Sequence

from utils.cli import Parser, find_config, find_path, run, true_or_false
from utils.paths import ROOT

DESCRIPTION = "Stage 2: train the AR model (--model_train_stage 1), then the NAR model (2), or both at once (0)."


def main(arguments: Sequence[str] | None) -> int:
    parser = Parser(DESCRIPTION)
    parser.add_argument(
        "--config", "-c", metavar="FILE", help="settings (default: egs/tts/VALLE/exp_config.json, if it exists)"
    )
    parser.add_argument("--name", "-n", required=True, help="experiment: its folder is <log_dir>/NAME")
    parser.add_argument("--model_train_stage", type=int, choices=(0, 1, 2), required=True)
    parser.add_argument("--ar_model_ckpt_dir", metavar="DIR", help="the trained AR model, for stage 2")
    parser.add_argument("--resume", type=true_or_false, default=False, metavar="true|false")
    parser.add_argument("--resume_from_ckpt_path", metavar="DIR", help="resume from here instead of from the latest")
    parser.add_argument("--resume_type", choices=("resume", "finetune"))
    flags = parser.parse(arguments)
    if flags.resume_type and not (flags.resume or flags.resume_from_ckpt_path):
        parser.error("--resume_type needs --resume true or --resume_from_ckpt_path")
    if "/" in flags.name or flags.name in ("", ".", ".."):
        parser.error("--name: takes a folder's name, not a path")

    # Import heavy libraries only after the flags are checked.
    import torch

    from config.schema import Settings
    from models.experiment import Experiment, check_guidance
    from processors.codecs import build_codec
    from processors.text import TextTokenizer
    from training.prepared import read_preprocessed, with_measured_limits, with_recorded_text
    from training.run import TrainingRun
    from training.start import resolve_start, with_kept_dropout, with_kept_max_tokens, with_kept_schedule
    from training.trackers import check_trackers
    from utils.config import load_settings, resolve_path
    from utils.device import require_asked_gpus

    require_asked_gpus()
    settings = load_settings(find_config(flags.config), Settings, flags.set, root=ROOT)
    check_trackers(settings.train.tracker)
    experiment = Experiment(resolve_path(settings.log_dir, ROOT) / flags.name)
    data = read_preprocessed(settings)
    # Limits that the config leaves null are measured on the corpus, and saved with the experiment.
    settings = with_measured_limits(with_recorded_text(settings, data), data)
    start = resolve_start(
        settings,
        experiment,
        data,
        train_stage=flags.model_train_stage,
        ar_model=flags.ar_model_ckpt_dir and find_path(flags.ar_model_ckpt_dir, "--ar_model_ckpt_dir"),
        resume=flags.resume,
        resume_from=flags.resume_from_ckpt_path and find_path(flags.resume_from_ckpt_path, "--resume_from_ckpt_path"),
        resume_type=flags.resume_type or "resume",
    )
    for with_kept in (with_kept_schedule, with_kept_max_tokens, with_kept_dropout):
        settings = with_kept(settings, start)
    check_guidance(settings)
    codec = build_codec(settings.preprocess, data.codec, ROOT, torch.device("cpu"))
    tokenizer = TextTokenizer.from_settings(settings.preprocess, start.table)
    return TrainingRun(settings, experiment, data, start, flags.model_train_stage, codec, tokenizer).run()


if __name__ == "__main__":
    run(main)
