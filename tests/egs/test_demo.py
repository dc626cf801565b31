"""The demo: its voice and texts are new to the pretrained pair, and its steps run once."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import json5
import pytest
import soundfile
import torch

import bins.evaluate
import bins.inference
import bins.preprocess
import bins.train
from config.schema import Settings
from egs.tts.VALLE import demo
from egs.tts.VALLE.demo import Options, Steps
from egs.tts.VALLE.demo_corpus import (
    evaluation_lines,
    evaluation_sentences,
    new_voice,
    write_corpus,
    write_test_list,
)
from egs.tts.VALLE.demo_report import ROWS
from egs.tts.VALLE.pretrained.recipe.corpus import excluded, is_excluded, may_train_on
from evaluation.ge2e import Ge2eEncoder
from processors.codecs.speech_rvq import save_net
from processors.frontends import build_phonemizer
from processors.symbols import SymbolTable
from tests.conftest import ROOT
from tests.support import tiny_runs
from tests.support.tiny_codec import tiny_speech_net
from tests.support.tiny_runs import Program, call
from utils.audio import read_audio
from utils.config import load_settings
from utils.errors import UserError
from utils.paths import PRETRAINED

NUM_SENTENCES = 2
PROGRAMS: dict[str, Program] = {
    "1": bins.preprocess,
    "2": bins.train,
    "3": bins.inference,
    "4": bins.evaluate,
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "corpus"
    write_corpus(folder, minutes=0.6, num_sentences=NUM_SENTENCES)
    return folder


@pytest.fixture(scope="module")
def pair(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny stand-in for the pretrained pair, whose speech ends by itself."""
    folder = tmp_path_factory.mktemp("pair")
    rows = map(json.loads, (corpus / "metadata.jsonl").read_text().splitlines())
    first_prompt = (ROOT / f"{demo.FIRST_PROMPT}.txt").read_text()
    texts = [*(row["text"] for row in rows), *evaluation_sentences(NUM_SENTENCES), demo.FIRST_TEXT, first_prompt]
    phones = build_phonemizer("espeak", "en-us").phonemize(texts)
    SymbolTable.from_phones(phone for of_text in phones for phone in of_text).save(folder / "symbols.dict")
    clips = [read_audio(path, 16000) for path in sorted((corpus / "audio").glob("*.flac"))[:4]]
    net, codec = tiny_speech_net(clips, 16000)
    save_net(net, codec, folder / "codec.safetensors")
    config = tiny_runs.write_config(folder / "exp_config.json", corpus, folder)
    changes = {
        **tiny_runs.ROOMY,
        "preprocess.symbol_table": str(folder / "symbols.dict"),
        "preprocess.acoustic_token_extractor": "SpeechRVQ",
        "preprocess.codec_checkpoint": str(folder / "codec.safetensors"),
        "preprocess.speech_rvq.num_codebooks": 4,
        "preprocess.sample_rate": 16000,
        "model.num_quantizers": 4,
        "model.audio_token_num": codec.codebook_size,
        "model.group_size": 2,
    }
    tiny_runs.prepare(config, changes)
    tiny_runs.train(config, "pair", 0, changes)
    tiny_runs.let_speech_end(folder / "ckpts" / "pair")
    return folder / "ckpts" / "pair"


@pytest.fixture
def options(pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Options]:
    """The demo at tiny size, with the programs of run.sh in this process."""
    config = {
        "base_config": "config/valle.json",
        "dataset": ["custom"],
        "log_dir": str(tmp_path / "ckpts"),
        "preprocess": {"num_workers": 0},
        "train": {
            "max_sentences": 4,
            "max_steps": 3,
            "precision": "fp32",
            "valid_interval": 2,
            "log_interval": 1,
            "dataloader": {"num_worker": 0},
        },
    }
    (tmp_path / "config.json").write_text(json5.dumps(config, quote_keys=True))
    monkeypatch.setattr(demo, "CONFIG", str(tmp_path / "config.json"))
    monkeypatch.setattr(demo, "EXPERIMENTS", tmp_path / "ckpts")
    monkeypatch.setattr(demo, "MINUTES", 0.6)
    monkeypatch.setattr(demo, "NUM_SENTENCES", NUM_SENTENCES)
    monkeypatch.setattr(demo, "launch", lambda flags: call(PROGRAMS[flags[1]], *flags[2:]))
    torch.save({"model_state": Ge2eEncoder().state_dict()}, tmp_path / "encoder.pt")
    yield Options("new", tmp_path / "work", pair, speaker_model=str(tmp_path / "encoder.pt"))


def test_the_voice_is_the_one_that_the_recipe_excludes() -> None:
    voice = new_voice()
    held_out = excluded()["espeak_voice"]
    assert {key: getattr(voice, key) for key in held_out} == held_out and voice.pitch_range == 40
    assert is_excluded(voice)


def test_no_text_of_the_corpus_overlaps_with_an_evaluation_sentence(corpus: Path) -> None:
    rows = [json.loads(line) for line in (corpus / "metadata.jsonl").read_text().splitlines()]
    assert len(rows) > 5 and all(may_train_on(row["text"]) for row in rows)
    assert not any(map(may_train_on, evaluation_sentences(20)))
    splits = Counter(row["split"] for row in rows)
    assert splits["test"] == NUM_SENTENCES and splits["valid"] == 1 and splits["train"] > 3
    seconds = [soundfile.info(corpus / row["audio"]).duration for row in rows]
    assert 36 <= sum(seconds) <= 36 + max(seconds)


def test_each_sentence_has_a_prompt_of_its_own_and_a_recording(corpus: Path, tmp_path: Path) -> None:
    lines = evaluation_lines(corpus, NUM_SENTENCES)
    assert [line.text for line in lines] == evaluation_sentences(NUM_SENTENCES)
    assert len({line.audio_prompt for line in lines}) == len({line.recording for line in lines}) == NUM_SENTENCES
    for line in lines:
        assert line.text_prompt != line.text and 2.5 <= soundfile.info(line.audio_prompt).duration <= 4
    write_test_list(tmp_path / "list.txt", lines)
    row = (tmp_path / "list.txt").read_text().splitlines()[1].split("|")
    assert row[:2] == [lines[1].text, lines[1].text_prompt]
    assert [(ROOT / path).resolve() for path in row[2:]] == [lines[1].audio_prompt, lines[1].recording]


def test_all_steps_run_once(options: Options, capsys: pytest.CaptureFixture[str]) -> None:
    demo.demo(options)
    printed = capsys.readouterr().out
    first = re.search(r"(\S+\.wav), (\d+) s after the command began", printed)
    assert first is not None and Path(first[1]).is_file()
    rows = re.findall(r"^ +(recordings|codec alone|before|after) +[\d-]", printed, re.MULTILINE)
    assert rows == list(ROWS)
    assert "is missing" not in printed and "SIM-o" in printed and "MCD dB" in printed and "WER %" not in printed
    assert re.search(r"MCD dB: after is (better|worse) than before, by [+-]", printed)
    assert "make demo ASR=whisper" in printed and "total" in printed
    experiment = demo.EXPERIMENTS / "new"
    before = {path: path.stat().st_mtime_ns for path in options.workdir.rglob("*.wav")}
    checkpoints = list((experiment / "checkpoint").iterdir())
    assert before and (experiment / "evaluation" / "demo.png").is_file()

    demo.demo(options)
    again = capsys.readouterr().out
    assert again.count(": complete, in ") == 5
    assert before == {path: path.stat().st_mtime_ns for path in options.workdir.rglob("*.wav")}
    assert checkpoints == list((experiment / "checkpoint").iterdir())
    assert [line for line in again.splitlines() if "dB" in line] == [x for x in printed.splitlines() if "dB" in x]


def test_the_config_has_what_must_be_equal_to_the_pair(options: Options, tmp_path: Path) -> None:
    demo.write_config(tmp_path / "written.json", options.pretrained, options.workdir)
    settings = load_settings(tmp_path / "written.json", Settings, root=ROOT)
    of_pair = json.loads((options.pretrained / "args.json").read_text())
    assert settings.model.model_dump() == of_pair["model"] and settings.infer.model_dump() == of_pair["infer"]
    assert settings.preprocess.speech_rvq.model_dump() == of_pair["preprocess"]["speech_rvq"]
    assert settings.preprocess.codec_checkpoint == str(options.pretrained / "speech_rvq.safetensors")
    assert settings.preprocess.symbol_table == str(options.pretrained / "symbols.dict")


def test_the_demos_config_is_that_of_the_pretrained_pair() -> None:
    settings = load_settings(ROOT / "egs" / "tts" / "VALLE" / "demo_config.json", Settings, root=ROOT)
    recipe = load_settings(PRETRAINED / "recipe" / "exp_config.json", Settings, root=ROOT)
    assert settings.model == recipe.model and settings.preprocess.speech_rvq == recipe.preprocess.speech_rvq
    assert settings.preprocess.codec_checkpoint == "egs/tts/VALLE/pretrained/speech_rvq.safetensors"
    args = PRETRAINED / "args.json"
    if args.is_file():
        assert settings.model.model_dump() == json.loads(args.read_text())["model"]


def test_run_sh_is_started_in_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert demo.launch(["--help"]) == 0 and demo.launch(["--stage", "9"]) == 2


def test_an_interrupted_fine_tuning_goes_on(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(demo, "launch", lambda flags: started.append(flags) or 0)
    demo.fine_tune("new", options.workdir / "config.json", options.pretrained)
    shutil.copytree(options.pretrained, demo.EXPERIMENTS / "new")
    demo.fine_tune("new", options.workdir / "config.json", options.pretrained)
    assert [flags[-4:] for flags in started] == [
        ["--resume_from_ckpt_path", str(options.pretrained), "--resume_type", "finetune"],
        ["--model_train_stage", "0", "--resume", "true"],
    ]


def test_a_folder_without_a_pair_is_one_line(options: Options, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"--pretrained: no whole checkpoint .* in .*empty"):
        demo.demo(replace(options, pretrained=tmp_path / "empty"))


def test_a_failed_stage_is_an_error_unless_only_a_text_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    product = tmp_path / "results.jsonl"
    product.write_text("of an earlier run")
    monkeypatch.setattr(demo, "launch", lambda _: 1)
    with pytest.raises(UserError, match="ended with status 1"):
        demo.run_sh("--stage", "3", product=product)
    monkeypatch.setattr(demo, "launch", lambda _: product.write_text("{}") and 1)
    demo.run_sh("--stage", "3", product=product)
    with pytest.raises(UserError, match="ended with status 1"):
        demo.run_sh("--stage", "2")


def test_what_is_missing_is_said(options: Options, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "metrics.json"
    systems = {name: {"metrics": {}, "utterances": {}} for name in ("truth", "codec", "x", "y")}
    missing = {"WER and CER": "give --asr", "speaker similarity": "no network"}
    path.write_text(json.dumps({"systems": systems, "missing": missing}))
    demo.print_results(path, [], options)
    printed = capsys.readouterr().out
    assert "make demo ASR=whisper" in printed and "give --asr" not in printed
    assert f"speaker similarity is missing: no network; then remove {path} and repeat" in printed
    demo.print_results(path, [], replace(options, asr="whisper"))
    assert "WER and CER is missing: give --asr" in capsys.readouterr().out


def test_a_step_runs_once_and_is_not_mixed_with_other_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done, product, calls = tmp_path / "done.json", tmp_path / "product", []

    def work() -> None:
        product.mkdir(exist_ok=True)
        calls.append(1)
        if len(calls) == 1:
            raise UserError("interrupted")

    with pytest.raises(UserError, match="interrupted"):
        Steps(done, "settings").run("step", work, product)
    for _ in range(2):
        Steps(done, "settings").run("step", work, product)
    assert len(calls) == 2
    product.rmdir()
    Steps(done, "settings").run("step", work, product)
    assert len(calls) == 3
    assert "step: complete, in" in capsys.readouterr().out
    with pytest.raises(UserError, match="product is of another pair or version of the demo"):
        Steps(done, "others").run("step", work, product)


def test_a_step_without_a_product_always_runs_and_keeps_the_time_of_its_first_run(tmp_path: Path) -> None:
    calls: list[int] = []
    path = tmp_path / "done.json"
    Steps(path, "settings").run("step", lambda: calls.append(1))
    notes = json.loads(path.read_text())
    notes["step"]["seconds"] = 99.0
    path.write_text(json.dumps(notes))
    steps = Steps(path, "settings")
    steps.run("step", lambda: calls.append(2))
    assert calls == [1, 2] and json.loads(path.read_text()) == notes and steps.seconds == {"step": 99.0}


def test_the_flags_of_make_reach_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "whisper").mkdir()
    monkeypatch.setattr("sys.argv", ["demo", "--asr", "whisper", "--asr_model", "whisper", "--workdir", "here"])
    options = demo.parse()
    assert (options.asr, options.asr_model) == ("whisper", str(tmp_path / "whisper"))
    assert options.workdir == tmp_path / "here" and options.speaker_model == "ge2e"
    assert demo.evaluation_name(options) == "evaluation_whisper_whisper"
    assert demo.evaluation_name(replace(options, asr="none", asr_model=None)) == "evaluation"
