"""No setting and no flag exists that no code reads: reads are recorded while the three stages run."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

import bins.build_corpus
import vallet
from config.schema import Section, Settings, TrainSettings, ValleExperiment
from processors.codecs import build_codec, with_vocoder
from processors.codecs.encodec import Encodec, build_encodec
from processors.codecs.speech_rvq import save_net
from tests.conftest import ROOT, tiny_train
from tests.support.recordings import use_stand_ins, write_talks
from tests.support.tiny_codec import tiny_speech_net
from tests.support.tiny_pretrained import write_dac, write_vocos
from tests.support.tiny_runs import call, has_a_choice, infer, keys, prepare, train, write_config, write_custom
from utils.audio import read_audio
from utils.cli import Parser
from utils.config import load_settings

Reads = set[tuple[str, str]]
PROGRAMS = [
    ROOT / room
    for room in (
        "bins",
        "evaluation",
        "models",
        "modules",
        "processors",
        "recordings",
        "synthesis",
        "training",
        "utils",
    )
]


def record_settings(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """Records (class, field) for every read by code that names the field.

    Loops over all fields and the checks of the schema do not count as reads.
    """
    reads: Reads = set()

    def noted(self: Section, name: str) -> object:
        code = sys._getframe(1).f_code
        is_named = name in code.co_names and name in type(self).model_fields
        if is_named and any(Path(code.co_filename).is_relative_to(room) for room in PROGRAMS):
            reads.add((type(self).__name__, name))
        return object.__getattribute__(self, name)

    monkeypatch.setattr(Section, "__getattribute__", noted, raising=False)
    return reads


def record_flags(monkeypatch: pytest.MonkeyPatch) -> tuple[Reads, Reads]:
    """Records (program's description, flag) for every flag of a parser, and for every flag that is read."""
    known: Reads = set()
    reads: Reads = set()
    parse = Parser.parse

    class Noted(argparse.Namespace):
        def __getattribute__(self, name: str) -> object:
            if not name.startswith("_"):
                reads.add((object.__getattribute__(self, "_program"), name))
            return object.__getattribute__(self, name)

    def noted_parse(self: Parser, arguments: Sequence[str] | None) -> argparse.Namespace:
        assert self.description is not None
        known.update((self.description, action.dest) for action in self._actions if action.dest != "help")
        return Noted(_program=self.description, **vars(parse(self, arguments)))

    monkeypatch.setattr(Parser, "parse", noted_parse)
    return known, reads


def run_all_stages(folder: Path) -> None:
    """Each stage in the modes that read different settings: fixed and dynamic batches, samples, continual."""
    build_a_corpus(folder)
    corpus = write_custom(folder / "corpus", 14)
    config = write_config(folder / "exp_config.json", corpus, folder)
    prepare(config, {})
    weights, wave = folder / "weights.safetensors", read_audio(corpus / "wavs" / "u00.wav", 24000)
    save_net(*tiny_speech_net([wave], 24000), weights)
    learned = {"acoustic_token_extractor": "SpeechRVQ", "codec_checkpoint": str(weights)}
    other = {f"preprocess.{key}": value for key, value in learned.items()}
    prepare(config, {**other, "preprocess.processed_dir": str(folder / "learned")})
    named = {"preprocess.language": "auto", "preprocess.dataset_languages": {"custom": "en"}}
    prepare(config, {**named, "preprocess.processed_dir": str(folder / "named")})
    open_pretrained_codecs(config, folder, wave)
    train(config, "ar", 1, {})
    fixed = {"train.use_dynamic_batchsize": False, "train.tracker": ["tensorboard"], "train.valid_interval": 2}
    train(config, "nar", 2, fixed, "--ar_model_ckpt_dir", str(folder / "ckpts" / "ar"))
    base = ("--resume_from_ckpt_path", str(folder / "ckpts" / "nar"), "--resume_type", "finetune")
    train(config, "adapter", 0, {"train.lora.rank": 1, "train.max_steps": 1}, *base)
    prompt = str(corpus / "wavs" / "u00.wav")
    (folder / "list.txt").write_text(f"early birds|quiet rivers|{prompt}\n")
    nar = folder / "ckpts" / "nar"
    heard = {"infer.num_candidates": 2, "infer.rank_by": "asr"}
    infer(nar, folder / "batch", heard, "--infer_mode", "batch", "--test_list_file", str(folder / "list.txt"))
    single = ("--infer_mode", "single", "--continual", "--copysyn", "--infer_audio_prompt", prompt)
    infer(nar, folder / "single", {}, *single, "--infer_text_prompt", "early birds")
    with vallet.load(nar) as tts:
        list(tts.stream("quiet rivers", prompt=prompt, prompt_text="early birds"))


def build_a_corpus(folder: Path) -> None:
    """Stage 0, with stand-ins for its models."""
    write_talks(folder / "talks")
    models = ("--speaker_model", "stand-in", "--dnsmos_dir", str(folder))
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_stand_ins(monkeypatch)
        folders = ("--audio_dir", str(folder / "talks"), "--output_dir", str(folder / "talks_corpus"))
        assert call(bins.build_corpus, *folders, *models, "--num_workers", "0") == 0


def open_pretrained_codecs(config: Path, folder: Path, wave: torch.Tensor) -> None:
    """Codecs and a decoder that have settings of their own."""
    write_dac(folder / "dac", [wave])
    torch.save(build_encodec("transformers").state_dict(), folder / "encodec.th")
    write_vocos(folder / "vocos", Encodec.load(folder / "encodec.th"))
    for name, path in (("Dac", folder / "dac"), ("Encodec", folder / "encodec.th")):
        overrides = [f"preprocess.acoustic_token_extractor={name}", f"preprocess.codec_checkpoint={path}"]
        overrides += ["infer.vocoder=vocos", f"infer.vocoder_checkpoint={folder / 'vocos'}"]
        settings = load_settings(config, ValleExperiment, overrides, root=ROOT)
        codec = build_codec(settings.preprocess, None, ROOT, torch.device("cpu"))
        if name == "Encodec":
            with_vocoder(codec, settings.infer, ROOT)


def test_every_setting_and_every_flag_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        reads = record_settings(patched)
        flags, flag_reads = record_flags(patched)
        run_all_stages(tmp_path)
    # The settings class is called `Settings` for any model.
    names = {ValleExperiment: Settings.__name__}
    wanted = {
        key: (names.get(section, section.__name__), key.split(".")[-1])
        for key, section in keys()
        if has_a_choice(key, section)
    }
    assert len(set(wanted.values())) == len(wanted) > 70
    assert [key for key, read in wanted.items() if read not in reads] == []
    assert len(flags) > 20
    assert flags - flag_reads == set()


def test_the_record_passes_over_loops_and_the_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tiny_train()
    with monkeypatch.context() as patched:
        reads = record_settings(patched)
        for name in TrainSettings.model_fields:
            getattr(settings, name)
        settings.model_dump()
        TrainSettings(**settings.model_dump())
        assert reads == set()
        # Code that is compiled under a program's path counts as the program's.
        source = compile("settings.base_lr", str(ROOT / "config" / "schema.py"), "exec")
        exec(source, {"settings": settings})
        assert reads == set()
        exec(source.replace(co_filename=str(ROOT / "utils" / "x.py")), {"settings": settings})
        assert reads == {("TrainSettings", "base_lr")}
    assert "__getattribute__" not in vars(Section)
