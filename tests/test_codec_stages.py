"""Every codec goes through stages 1 to 5, with tiny seeded models in the formats of the real ones."""

import json
import math
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import bins.evaluate
import bins.webui
from processors.codecs.encodec import Encodec
from processors.manifest import list_shards, read_shards
from synthesis.load import load_experiment
from synthesis.queue import QueuedRequest
from synthesis.voices import load_prompt
from tests.conftest import ROOT
from tests.support.standin_encodec import make_standin
from tests.support.tiny_pretrained import HAS_XCODEC2, write_dac, write_mimi, write_vocos, write_xcodec2
from tests.support.tiny_runs import (
    ROOMY,
    call,
    infer,
    let_speech_end,
    prepare,
    sets,
    train,
    write_config,
    write_custom,
)
from utils.audio import read_audio
from web.api import SpeechApi


@dataclass(frozen=True)
class World:
    folder: Path
    corpus: Path
    config: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    corpus = write_custom(folder / "corpus", 10)
    return World(folder, corpus, write_config(folder / "exp_config.json", corpus, folder))


def weights_of(name: str, world: World, rate_hz: int) -> Path:
    waves = [read_audio(path, rate_hz) for path in sorted((world.corpus / "wavs").iterdir())[:4]]
    target = world.folder / f"{name}_weights"
    if name == "Encodec":
        make_standin(sorted((world.corpus / "wavs").iterdir())[:2], target)
        return target
    if name == "Dac":
        return write_dac(target, waves, num_codebooks=12)
    return {"Mimi": write_mimi, "XCodec2": write_xcodec2}[name](target, waves)


# Sample rate, codebooks, their size, and frames a second.
SIZES = {
    "Dac": (24000, 12, 64, 75.0),
    "Mimi": (24000, 8, 64, 12.5),
    **({"XCodec2": (16000, 2, 64, 50.0)} if HAS_XCODEC2 else {}),
}


@pytest.mark.parametrize("name", SIZES)
def test_a_codec_goes_through_all_stages(
    name: str, world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rate_hz, num_codebooks, codebook_size, frame_rate_hz = SIZES[name]
    changes: dict[str, Any] = {
        "preprocess.acoustic_token_extractor": name,
        "preprocess.codec_checkpoint": str(weights_of(name, world, rate_hz)),
        "preprocess.sample_rate": rate_hz,
        "preprocess.processed_dir": str(world.folder / f"{name}_data"),
        "model.num_quantizers": num_codebooks,
        "model.audio_token_num": codebook_size,
        "train.max_steps": 2,
        # An untrained model may need many frames until it ends.
        **ROOMY,
    }
    prepare(world.config, changes)
    assert "must be the codec's" not in capsys.readouterr().err
    data = world.folder / f"{name}_data" / "custom"
    for utterance in read_shards(list_shards(data / "train")):
        assert utterance.codes.shape[1] == num_codebooks and 0 <= utterance.codes.max() < codebook_size
        wave = read_audio(world.corpus / "wavs" / f"{utterance.id}.wav", rate_hz)
        assert len(utterance.codes) == math.ceil(len(wave) * frame_rate_hz / rate_hz)

    pair = world.folder / "ckpts" / name
    train(world.config, name, 0, changes)
    let_speech_end(pair)
    assert sorted(path.name for path in pair.glob("*/*.safetensors")) == ["model.safetensors"]
    # The experiment has its own copy of the codec.
    Path(changes["preprocess.codec_checkpoint"]).rename(world.folder / f"{name}_moved")

    prompt = world.corpus / "wavs" / "u00.wav"
    (world.folder / "list.txt").write_text(f"early birds|quiet rivers|{prompt}|{world.corpus / 'wavs' / 'u01.wav'}\n")
    batch = ("--infer_mode", "batch", "--test_list_file", str(world.folder / "list.txt"))
    infer(pair, world.folder / f"{name}_speech", {}, *batch, "--copysyn")
    for path in (world.folder / f"{name}_speech").glob("batch/*.wav"):
        assert read_audio(path, rate_hz).isfinite().all()

    output = world.folder / f"{name}_evaluation"
    evaluate = ("--infer_expt_dir", str(pair), "--eval_output_dir", str(output), "--asr", "none")
    call(bins.evaluate, *evaluate, "--num_report_texts", "0", *batch[2:])
    assert json.loads((output / "metrics.json").read_text())["systems"]

    def speak(api: SpeechApi, *_: object) -> int:
        checkpoint = api.experiments.first_checkpoint()
        load = partial(load_prompt, source=prompt, text="quiet rivers")
        request = QueuedRequest(checkpoint, api.settings(checkpoint).speech_settings(), "early birds", load)
        api.queue.start()
        api.queue.submit(request)
        assert request.done.result(120).sample_rate_hz == rate_hz
        api.queue.close()
        return 0

    monkeypatch.setattr("web.server.serve", speak)
    assert call(bins.webui, "--infer_expt_dir", str(pair), "--log_dir", str(world.folder / "ckpts")) == 0


STAGES = """
import sys
from pathlib import Path
sys.modules.update(dict.fromkeys(["encodec", "phonemizer", "espeakng_loader"]))
import torch
torch.set_num_threads(1)
import bins.evaluate, bins.inference, bins.preprocess, bins.train
from tests.support.tiny_runs import call
from synthesis.load import load_experiment
for line in Path(sys.argv[1]).read_text().splitlines():
    program, *flags = line.split("\\t")
    status = call(getattr(bins, program), *flags)
    # Speech of an untrained model seldom ends by itself.
    assert status == 0 or program in ("inference", "evaluate"), (program, status)
codec = load_experiment(Path(sys.argv[2]), "")[0].codec
print("package" if codec.is_package else "library", codec.fingerprint())
"""


@dataclass(frozen=True)
class EncodecRun:
    """Stages 1 to 4 with EnCodec in a process that cannot import its package, nor those under the GPL.

    `told` is what the process printed.
    """

    changes: dict[str, Any]
    data: Path
    pair: Path
    texts: Path
    told: str


@pytest.fixture(scope="module")
def without_package(world: World) -> EncodecRun:
    weights, pair = weights_of("Encodec", world, 24000), world.folder / "ckpts" / "encodec"
    texts = world.folder / "texts.txt"
    texts.write_text(f"early birds|quiet rivers|{world.corpus / 'wavs' / 'u00.wav'}\n")
    changes = {
        "preprocess.acoustic_token_extractor": "Encodec",
        "preprocess.codec_checkpoint": str(weights),
        "preprocess.phone_extractor": "graphemes",
        "preprocess.processed_dir": str(world.folder / "encodec_data"),
        "train.max_steps": 1,
    }
    config = ("--config", str(world.config), *sets(changes))
    speech = ("--infer_expt_dir", str(pair), "--test_list_file", str(texts))
    report = ("--eval_output_dir", str(world.folder / "out"), "--asr", "none", "--num_report_texts", "0")
    lines = (
        ("preprocess", *config),
        ("train", *config, "--name", "encodec", "--model_train_stage", "0"),
        ("inference", "--infer_mode", "batch", *speech),
        ("evaluate", *speech, *report),
    )
    script = world.folder / "script.txt"
    script.write_text("\n".join("\t".join(line) for line in lines))
    command = [sys.executable, "-c", STAGES, str(script), str(pair)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (world.folder / "out" / "metrics.json").is_file()
    return EncodecRun(changes, world.folder / "encodec_data" / "custom", pair, texts, done.stdout.splitlines()[-1])


def test_what_was_made_without_encodecs_package_goes_on_with_it_and_back(
    without_package: EncodecRun, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = without_package
    kind, fingerprint = run.told.split()
    assert kind == "library"
    shards = {path: path.stat().st_mtime_ns for path in run.data.glob("*/codes.*.tar")}
    assert shards
    prepare(world.config, run.changes)
    assert {path: path.stat().st_mtime_ns for path in run.data.glob("*/codes.*.tar")} == shards
    train(world.config, "encodec", 0, {**run.changes, "train.max_steps": 2}, "--resume", "true")
    codec = load_experiment(run.pair, "")[0].codec
    assert isinstance(codec, Encodec) and codec.is_package and codec.fingerprint() == fingerprint
    batch = ("--infer_mode", "batch", "--test_list_file", str(run.texts))
    infer(run.pair, world.folder / "with_package", {}, *batch)
    monkeypatch.setitem(sys.modules, "encodec", None)
    infer(run.pair, world.folder / "without_package", {}, *batch)
    one, other = (
        read_audio(next((world.folder / name / "batch").glob("*.wav")), 24000)
        for name in ("with_package", "without_package")
    )
    torch.testing.assert_close(one, other, rtol=0, atol=2e-4)


def test_vocos_speaks_for_an_experiment_with_encodec(without_package: EncodecRun, world: World) -> None:
    pair = without_package.pair
    vocos = write_vocos(world.folder / "vocos", Encodec.load(pair / Encodec.file_name))
    changes = ["infer.vocoder=vocos", f"infer.vocoder_checkpoint={vocos}"]
    codecs = [load_experiment(pair, "", overrides)[0].codec for overrides in ([], changes)]
    codes = torch.randint(1024, (1, 12, 8)), torch.tensor([12])
    plain, other = (codec.decode(*codes)[0] for codec in codecs)
    assert plain.shape == other.shape and not torch.allclose(plain, other, atol=1e-3)
    assert codecs[0].fingerprint() == codecs[1].fingerprint()
