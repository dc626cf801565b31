"""Each mistake is one line that names what is wrong, and no traceback."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import bins.inference
import bins.preprocess
import bins.train
import bins.webui
from tests.support.recipe import Program, Recipe, listing, prompt
from utils.files import file_lock

ErrorOf = Callable[..., str]

TRAIN = ("--config", "{config}", "--name", "new", "--model_train_stage")
SPEAK = ("--infer_expt_dir", "{nar}", "--infer_mode", "single")
SINGLE = (*SPEAK, "--infer_text", "Wait.", "--infer_text_prompt", "{text}", "--infer_audio_prompt")
BATCH = ("--infer_expt_dir", "{nar}", "--infer_mode", "batch")

FLAGS: dict[str, tuple[Program, tuple[str, ...], str]] = {
    "unknown flag": (
        bins.train,
        ("--nmae", "x", *TRAIN, "1"),
        "unknown flag --nmae in this stage .did you mean --n",
    ),
    "another stage's flag": (bins.train, (*TRAIN, "1", "--top_k", "5"), "unknown flag --top_k in this stage"),
    "no value": (bins.train, (*TRAIN,), "--model_train_stage: expected one argument"),
    "no train stage": (bins.train, TRAIN[:-1], "required: --model_train_stage"),
    "no name": (bins.train, ("--model_train_stage", "1"), "required: --name"),
    "a path as name": (bins.train, (*TRAIN, "1", "--name", "a/b"), "--name: takes a folder's name"),
    "wrong choice": (bins.train, (*TRAIN, "3"), "--model_train_stage: invalid choice: 3"),
    "not true or false": (bins.train, (*TRAIN, "1", "--resume", "yes"), "--resume: takes true or false, not 'yes'"),
    "resume type alone": (bins.train, (*TRAIN, "1", "--resume_type", "finetune"), "--resume_type needs --resume"),
    "not a number": (bins.preprocess, ("--num_workers", "many"), "--num_workers: invalid int value: 'many'"),
    "no text": (bins.inference, SPEAK, "--infer_text: needed with --infer_mode single"),
    "no mode": (bins.inference, SPEAK[:2], "required: --infer_mode"),
    "text in batch mode": (bins.inference, (*BATCH, "--infer_text", "x"), "--infer_text is for --infer_mode single"),
    "list in single mode": (bins.inference, (*SINGLE, "x", "--test_list_file", "x"), "--test_list_file is for"),
    "no list": (bins.inference, BATCH, "--test_list_file: needed with --infer_mode batch"),
    "no such port": (bins.webui, ("--port", "70000"), "--port: takes 1 to 65535, not 70000"),
    "a file in batch mode": (
        bins.inference,
        (*BATCH, "--infer_text_file", "x"),
        "--infer_text_file is for --infer_mode s",
    ),
    "two texts": (
        bins.inference,
        (*SINGLE, "x", "--infer_text_file", "x"),
        "--infer_text: --infer_text_file has the text",
    ),
    "file to go on with": (
        bins.inference,
        (*SPEAK, "--infer_text_file", "x", "--continual"),
        "--infer_text_file: --continual reads the prompt",
    ),
    "other subtitles": (bins.inference, (*SINGLE, "x", "--subtitles", "ass"), "--subtitles: invalid choice: 'ass'"),
    "text to go on with": (bins.inference, (*SINGLE, "x", "--continual"), "--infer_text: --continual reads the prompt"),
}

CONTENT: dict[str, tuple[Program, tuple[str, ...], str]] = {
    "no config": (bins.preprocess, ("--config", "missing.json"), "--config: no such file or folder: missing.json"),
    "no setting": (
        bins.preprocess,
        ("--config", "{config}", "--set", "train.batchsize=8"),
        "--set: train.batchsize is not a setting; did you mean train.batch_size",
    ),
    "not KEY=VALUE": (bins.preprocess, ("--config", "{config}", "--set", "train.batch_size"), "must be KEY=VALUE"),
    "wrong type": (
        bins.train,
        (*TRAIN, "1", "--set", "train.base_lr=fast"),
        'train.base_lr must be a number, above 0; got "fast"',
    ),
    "out of range": (bins.train, (*TRAIN, "1", "--set", "model.nhead=0"), "model.nhead must be an integer, at least 1"),
    "no candidates": (
        bins.train,
        (*TRAIN, "1", "--set", "infer.num_candidates=0"),
        "infer.num_candidates must be an int",
    ),
    "no such ranking": (
        bins.train,
        (*TRAIN, "1", "--set", "infer.rank_by=luck"),
        'infer.rank_by must be one of likelihood, coverage, asr; got "luck"',
    ),
    "placeholder": (bins.preprocess, (), r"dataset_path.libritts still holds the placeholder \"\[path of"),
    "no corpus": (
        bins.preprocess,
        ("--config", "{config}", "--set", "dataset_path.libritts=/no/such"),
        "dataset_path.libritts: /no/such does not exist; expected LibriTTS",
    ),
    "no language": (
        bins.preprocess,
        ("--config", "{config}", "--set", "preprocess.language=en-xx", "--num_workers", "1"),
        "preprocess.language: espeak-ng has no language en-xx; the nearest are en",
    ),
    "no features": (
        bins.train,
        (*TRAIN, "1", "--set", "preprocess.processed_dir={tmp}"),
        r"libritts/stats.json: missing; run stage 1",
    ),
    "other features": (
        bins.train,
        (*TRAIN, "1", "--set", "preprocess.language=de"),
        "made with preprocess.language 'en-us', now 'de'; run stage 1 again",
    ),
    "no table": (
        bins.preprocess,
        ("--config", "{config}", "--set", "preprocess.symbol_table={tmp}/symbols.dict"),
        "symbols.dict: the symbol table cannot be read: No such file",
    ),
    "no folder for features": (
        bins.preprocess,
        ("--config", "{config}", "--set", "preprocess.processed_dir={config}/data"),
        "exp_config.json/data: Not a directory",
    ),
    "no folder for logs": (bins.train, (*TRAIN, "1", "--set", "log_dir={config}"), "exp_config.json/new: Not a dir"),
    "width and heads": (
        bins.train,
        (*TRAIN, "1", "--set", "model.nhead=5"),
        "model: decoder_dim must be a multiple of nhead",
    ),
    "the NAR's width and heads": (
        bins.train,
        (*TRAIN, "1", "--set", "model.nar_scale_factor=0.3"),
        "model: nar_scale_factor gives the NAR a width of 9, 0 heads and 0 layers",
    ),
    "too few symbols": (
        bins.train,
        (*TRAIN, "1", "--set", "model.text_token_num=10"),
        r"model.text_token_num 10 is too small for \d+ symbols",
    ),
    "another codec's codes": (
        bins.train,
        (*TRAIN, "1", "--set", "model.num_quantizers=4"),
        "model.num_quantizers and model.audio_token_num must be the codec's, 8 and 1024",
    ),
    "no AR": (bins.train, (*TRAIN, "2"), "--ar_model_ckpt_dir: needed with --model_train_stage 2"),
    "AR for the AR": (bins.train, (*TRAIN, "1", "--ar_model_ckpt_dir", "{ar}"), "is for --model_train_stage 2"),
    "no AR there": (bins.train, (*TRAIN, "2", "--ar_model_ckpt_dir", "{tmp}"), "--ar_model_ckpt_dir: no whole check"),
    "another AR": (
        bins.train,
        (*TRAIN, "2", "--resume_from_ckpt_path", "{nar}", "--ar_model_ckpt_dir", "{older}"),
        "--ar_model_ckpt_dir: .* is not the AR model in",
    ),
    "nothing to resume": (bins.train, (*TRAIN, "1", "--resume", "true"), "--resume: .* holds no checkpoint"),
    "a name in use": (bins.train, (*TRAIN, "1", "--name", "ar"), "checkpoints already; continue with --resume true"),
    "no such checkpoint": (
        bins.train,
        (*TRAIN, "1", "--resume_from_ckpt_path", "{tmp}/x"),
        "--resume_from_ckpt_path: no such file or folder",
    ),
    "another stage's checkpoint": (
        bins.train,
        (*TRAIN, "1", "--resume_from_ckpt_path", "{nar}"),
        "--model_train_stage: .* was trained with 2, not 1",
    ),
    "AR for the NAR": (
        bins.train,
        (*TRAIN, "2", "--resume_from_ckpt_path", "{ar}", "--resume_type", "finetune"),
        "--resume_from_ckpt_path: .* holds no NAR",
    ),
    "another model": (
        bins.train,
        (*TRAIN, "1", "--resume_from_ckpt_path", "{ar}", "--set", "model.num_decoder_layers=3"),
        "model.num_decoder_layers is 3, but 2 in .*args.json; make them equal",
    ),
    "another group size": (
        bins.train,
        (*TRAIN, "1", "--resume_from_ckpt_path", "{ar}", "--set", "model.group_size=2"),
        "model.group_size is 2, but 1 in .*args.json; make them equal",
    ),
    "an AR of another group size": (
        bins.train,
        (*TRAIN, "2", "--ar_model_ckpt_dir", "{ar}", "--set", "model.group_size=2"),
        "model.group_size is 2, but 1 in .*args.json; make them equal",
    ),
    "a group size that was not trained": (
        bins.inference,
        (*SINGLE, "{audio}", "--set", "model.group_size=2"),
        "2 weights are missing, such as ar_group_embedding.weight; the model settings differ",
    ),
    "AR alone speaks": (bins.inference, (*SINGLE, "{audio}", "--infer_expt_dir", "{ar}"), "holds no NAR"),
    "no experiment": (bins.inference, (*SINGLE, "{audio}", "--infer_expt_dir", "x"), "--infer_expt_dir: no such file"),
    "an empty experiment": (bins.inference, (*SINGLE, "{audio}", "--infer_expt_dir", "{tmp}"), "no whole checkpoint"),
    "no prompt": (bins.inference, (*SINGLE, "gone.wav"), "--infer_audio_prompt: no such file or folder: gone.wav"),
    "no folder for speech": (
        bins.inference,
        (*SINGLE, "{audio}", "--infer_output_dir", "{config}"),
        "config.json: File exists",
    ),
    "no text file": (
        bins.inference,
        (*SPEAK, "--infer_text_prompt", "{text}", "--infer_audio_prompt", "{audio}", "--infer_text_file", "gone.txt"),
        "--infer_text_file: no such file or folder: gone.txt",
    ),
    "an empty text file": (
        bins.inference,
        (*SPEAK, "--infer_text_prompt", "{text}", "--infer_audio_prompt", "{audio}", "--infer_text_file", "/dev/null"),
        "the text '' has nothing that can be spoken",
    ),
    "no test list": (bins.inference, (*BATCH, "--test_list_file", "gone.txt"), "--test_list_file: no such file"),
    "an empty list": (bins.inference, (*BATCH, "--test_list_file", "/dev/null"), "/dev/null: no lines; each is text"),
    "no pair to show": (bins.webui, ("--log_dir", "{tmp}"), "--log_dir: no experiment with an AR and a NAR model in"),
    "no pair below the config's": (
        bins.webui,
        ("--set", "log_dir={tmp}", "--set", "infer.top_k=1"),
        "--log_dir: no experiment with an AR and a NAR model in",
    ),
    "an AR alone to show": (bins.webui, ("--infer_expt_dir", "{ar}"), "holds no NAR"),
    "no folder of experiments": (bins.webui, ("--log_dir", "gone"), "--log_dir: no such file or folder: gone"),
    "top_p above 1": (bins.inference, (*SINGLE, "{audio}", "--top_p", "1.5"), "infer.top_p must be a number, above 0"),
}

# Found during synthesis: reported with the number of texts and the folder of the results.
UNSPOKEN: dict[str, tuple[tuple[str, ...], str]] = {
    "prompt is no audio": ((*SINGLE, "{config}"), "exp_config.json: cannot be read as audio"),
    "empty text": ((*SINGLE, "{audio}", "--infer_text", ""), "the text '' has nothing that can be spoken"),
    "only marks": ((*SINGLE, "{audio}", "--infer_text", "...!"), "the text '...!' has nothing that can be spoken"),
    "empty prompt text": ((*SINGLE, "{audio}", "--infer_text_prompt", " "), "the prompt's text ' ' has nothing"),
    "a short prompt": (
        (*SPEAK, "--infer_text_prompt", "{text}", "--infer_audio_prompt", "{audio}", "--continual"),
        "--continual keeps 60 s of the prompt",
    ),
}


@pytest.fixture
def error_of(
    trained: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> ErrorOf:
    # The pretrained pair would be served where there is no other.
    monkeypatch.setattr("bins.serve.PRETRAINED", tmp_path / "pretrained")
    audio, text = prompt(trained.corpus, "101")
    names = {
        "config": trained.config,
        "ar": trained.experiment("ar"),
        "nar": trained.experiment("nar"),
        "older": trained.checkpoints("ar")[0],
        "audio": audio,
        "text": text,
        "tmp": tmp_path,
    }

    def tell(program: Program, flags: tuple[str, ...], status: int) -> str:
        before = listing(trained.folder)
        capsys.readouterr()
        assert trained.call(program, *(flag.format(**names) for flag in flags)) == status
        assert listing(trained.folder) == before, "something was written all the same"
        return capsys.readouterr().err

    return tell


def assert_one_line(stderr: str, beginning: str, words: str) -> None:
    [line] = stderr.splitlines()
    assert line.startswith(beginning)
    assert re.search(words, line), line


@pytest.mark.parametrize("mistake", FLAGS)
def test_a_wrong_flag_is_one_line(error_of: ErrorOf, mistake: str) -> None:
    program, flags, words = FLAGS[mistake]
    assert_one_line(error_of(program, flags, 2), "run.sh: ", words)


@pytest.mark.parametrize("mistake", CONTENT)
def test_a_wrong_value_of_a_flag_is_one_line(error_of: ErrorOf, mistake: str) -> None:
    program, flags, words = CONTENT[mistake]
    assert_one_line(error_of(program, flags, 1), "error: ", words)


@pytest.mark.parametrize("mistake", UNSPOKEN)
def test_a_request_that_cannot_be_synthesized_is_one_line(error_of: ErrorOf, mistake: str, tmp_path: Path) -> None:
    flags, words = UNSPOKEN[mistake]
    output = ("--infer_output_dir", str(tmp_path), "--set", "infer.continual_prompt_seconds=60")
    stderr = error_of(bins.inference, (*flags, *output), 1)
    assert "Traceback" not in stderr
    assert "0 of 1 texts synthesized" in stderr
    [line] = [line for line in stderr.splitlines() if re.search(words, line)]
    [row] = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert line == f"{row['name']}: {row['error']}"
    assert not list(tmp_path.glob("*/*.wav"))


def test_a_wrong_key_in_the_config_is_reported_with_the_file(
    error_of: ErrorOf, trained: Recipe, tmp_path: Path
) -> None:
    config = json.loads(trained.config.read_text())
    config["train"]["warmup"] = 1
    (tmp_path / "wrong.json").write_text(json.dumps(config))
    stderr = error_of(bins.preprocess, ("--config", "{tmp}/wrong.json"), 1)
    assert_one_line(
        stderr, f"error: {tmp_path}/wrong.json: ", "train.warmup is not a setting; did you mean train.warmup_"
    )


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "--stage is needed"),
        (("--stage", "9"), "--stage takes 0 to 5, not 9"),
        (("--name", "x", "--stage"), "--stage needs a value"),
        (("--stage=2", "--gpu"), "--gpu needs a value"),
        (("--stage", "2", "--nmae", "x", "--name", "y", "--model_train_stage", "1"), "did you mean --name"),
    ],
)
def test_run_sh_reports_a_wrong_flag_in_one_line(trained: Recipe, flags: tuple[str, ...], words: str) -> None:
    assert_one_line(trained.run(*flags, status=2).stderr, "run.sh: ", words)


def test_a_folder_in_use_is_one_line(trained: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    copy = trained.copied("ar", "ar_in_use")
    before = listing(copy)
    with file_lock(copy / ".lock"):
        capsys.readouterr()
        flags = ("--config", str(trained.config), "--name", "ar_in_use", "--model_train_stage", "1", "--resume", "true")
        assert trained.call(bins.train, *flags) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert re.search(r"error: --name: .*ar_in_use is in use by process \d+ on .*; wait for it, or choose", line)
    assert {name: time for name, time in listing(copy).items() if name != ".lock"} == {
        name: time for name, time in before.items() if name != ".lock"
    }


def test_run_sh_reports_a_missing_file_in_one_line(trained: Recipe) -> None:
    stderr = trained.run("--stage", "1", "--config", "gone.json", status=1).stderr
    assert_one_line(stderr, "error: ", "--config: no such file or folder: gone.json")
