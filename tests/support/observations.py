"""What can be seen of the recipe under changed settings: each function runs a stage and returns what it left."""

import hashlib
import json
import multiprocessing
import resource
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import bins.build_corpus
import evaluation.candidates
import vallet
from config.schema import Settings
from evaluation.candidates import add_error_rate
from models.experiment import Experiment, load_model
from models.valle.valle import VALLE
from processors.codecs import build_codec, with_vocoder
from processors.codecs.encodec import Encodec
from processors.codecs.mel_rvq import MelRVQ
from processors.codecs.speech_rvq import save_net
from processors.frontends import build_phonemizer
from processors.frontends.graphemes import GraphemePhonemizer
from processors.manifest import SPLITS, list_shards, read_shards
from processors.pipeline import CorpusPreprocessor
from processors.symbols import SymbolTable
from processors.text import TextTokenizer
from synthesis.load import load_experiment, load_synthesizer
from synthesis.synthesizer import Request, Synthesizer
from tests.conftest import ROOT
from tests.support.recordings import use_stand_ins, write_talks
from tests.support.standin_encodec import make_standin
from tests.support.tiny_codec import tiny_speech_net
from tests.support.tiny_pretrained import write_dac, write_vocos
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
    write_ljspeech,
)
from utils.audio import read_audio
from utils.checkpoint import find_checkpoints, load_weights, resolve_checkpoint
from utils.config import load_settings
from utils.errors import UserError

CPU = torch.device("cpu")
Changes = dict[str, Any]


@dataclass(frozen=True)
class World:
    """Corpora, their features and a trained pair, below one folder; `folder` is where one observation may write."""

    root: Path
    folder: Path

    @property
    def config(self) -> Path:
        return self.root / "exp_config.json"

    @property
    def pair(self) -> Path:
        return self.root / "ckpts" / "pair"

    def settings(self, changes: Changes) -> Settings:
        return load_settings(self.config, Settings, sets(changes)[1::2], root=ROOT)


def make_world(root: Path) -> None:
    """Write a world: what `World` names, a second corpus, codebooks and symbol table, and a pair that ends at once."""
    write_custom(root / "other_corpus", 4, seed=3)
    write_ljspeech(root / "LJSpeech-1.1", 3)
    listed = write_custom(root / "written_corpus", 4, seed=3) / "metadata.csv"
    listed.write_text(listed.read_text().replace(".", " for $5."))
    (root / "lexicon.tsv").write_text("birds\tfish\nrivers\t/ˈlɛɪks/\n", encoding="utf-8")
    config = write_config(root / "exp_config.json", write_custom(root / "corpus", 14), root)
    prepare(config, {})
    train(config, "pair", 0, {})
    settings = load_settings(config, Settings, root=ROOT)
    waveforms = [read_audio(path, 24000) for path in sorted((root / "other_corpus" / "wavs").iterdir())]
    MelRVQ.fit(waveforms, settings.preprocess.mel_rvq, 24000).save(root / "other.safetensors")
    save_net(*tiny_speech_net(waveforms, 24000), root / "learned.safetensors")
    write_dac(root / "dac", waveforms)
    make_standin(sorted((root / "other_corpus" / "wavs").iterdir())[:1], root / "encodec.th")
    for name, seed in (("vocos", 3), ("other_vocos", 4)):
        write_vocos(root / name, Encodec.load(root / "encodec.th"), seed)
    write_talks(root / "talks")
    # Enough for some of the utterances.
    texts = [line.split("|")[2] for line in (root / "corpus" / "metadata.csv").read_text().splitlines()[:3]]
    phones = build_phonemizer("espeak", "en-us").phonemize(texts)
    SymbolTable.from_phones(phone for row in phones for phone in row).save(root / "few.dict")
    prompts = sorted((root / "corpus" / "wavs").iterdir())
    lines = (f"find green apples|early birds|{prompts[0]}", f"near small trees|tall rivers|{prompts[1]}")
    (root / "list.txt").write_text("\n".join(lines))
    make_ending(root / "ckpts" / "pair", root / "ckpts" / "ending")
    let_speech_end(Path(shutil.copytree(root / "ckpts" / "pair", root / "ckpts" / "speaking")))


def make_ending(source: Path, target: Path) -> None:
    """A copy of an experiment in which the end of speech is always the likeliest."""
    shutil.copytree(source, target)
    path = resolve_checkpoint(target, "").weights
    weights = load_file(path)
    weights["ar_decoder.norm.bias"] = torch.ones_like(weights["ar_decoder.norm.bias"])
    weights["ar_predict_layer.weight"][-1] = 5.0
    save_file(weights, path)


def features(world: World, changes: Changes) -> Any:
    """What stage 1 writes: utterances with split, phones and codes, and what was left out."""
    data = world.folder / "data"
    prepare(world.config, {"preprocess.processed_dir": str(data), **changes})
    seen: list[Any] = []
    for split in SPLITS:
        for corpus in sorted(path for path in data.iterdir() if path.is_dir()):
            rows = read_shards(list_shards(corpus / split))
            seen += [(corpus.name, split, row.id, row.phones, row.codes.shape, row.codes.tobytes()) for row in rows]
    return seen + [path.read_text() for path in sorted(data.glob("*/failures.jsonl"))]


def segments(world: World, changes: Changes) -> Any:
    """What stage 0 makes of some talks: its rows and its audio, how much sound is in the report, and if it refused all.

    All models are stand-ins.
    """
    corpus = world.folder / "corpus"
    flags = ("--audio_dir", str(world.root / "talks"), "--output_dir", str(corpus), "--dnsmos_dir", str(world.root))
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_stand_ins(monkeypatch)
        with suppress(UserError):
            call(bins.build_corpus, *flags, *sets({"recordings.num_workers": 0, **changes}))
    audio = {path.name: path.read_bytes() for path in sorted(corpus.glob("audio/*/*"))}
    sound = (corpus / "report.html").read_text(encoding="utf-8").count("<audio")
    return [(corpus / name).read_text() for name in ("metadata.jsonl", "left_out.jsonl")], audio, sound


def cuts_beside(world: World, changes: Changes) -> bool:
    """Whether stage 0 had processes started, where no model is needed in them."""
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    flags = ("--audio_dir", str(world.root / "talks"), "--output_dir", str(world.folder / "corpus"), "--asr", "none")
    own = {"recordings.num_workers": 0, "recordings.speakers": "folder", **changes}
    with pytest.raises(UserError, match="no transcript"):
        call(bins.build_corpus, *flags, *sets(own))
    return forkserver._forkserver._forkserver_pid is not None  # type: ignore[attr-defined]


def codec_in_use(world: World, changes: Changes) -> Any:
    """The library that runs the codec, its codebooks, and what it makes of fixed codes."""
    settings = world.settings(changes)
    codec = with_vocoder(build_codec(settings.preprocess, None, ROOT, CPU), settings.infer, ROOT)
    codes = torch.arange(5 * codec.num_codebooks).view(1, 5, -1)
    decoded, _ = codec.decode(codes, torch.tensor([5]))
    return type(vars(codec)["model"]).__module__, codec.num_codebooks, decoded.tolist()


def splits(world: World, changes: Changes) -> dict[str, str]:
    """The split of each utterance."""
    features(world, changes)
    rows = (world.folder / "data" / "custom" / "splits.tsv").read_text().splitlines()
    return dict(row.split("\t") for row in rows)


def num_shards(world: World, changes: Changes) -> int:
    features(world, changes)
    return len(list(world.folder.glob("data/custom/*/cuts.*")))


def folders(world: World, changes: Changes) -> list[str]:
    """Where stages 1 and 2 write, with the path that is changed taken from this observation's folder."""
    own = {"preprocess.processed_dir": "data", "log_dir": "ckpts", **changes}
    placed = {key: str(world.folder / value) for key, value in own.items()}
    prepare(world.config, placed)
    train(world.config, "any", 1, {"train.max_steps": 1, **placed})
    return sorted(str(path.relative_to(world.folder)) for path in world.folder.rglob("*.json"))


def trained(world: World, changes: Changes) -> Path:
    train(world.config, "any", 0, {"log_dir": str(world.folder), **changes})
    return world.folder / "any"


def weights(world: World, changes: Changes) -> dict[str, str]:
    """The weights after a few steps of AR and NAR."""
    last = resolve_checkpoint(trained(world, changes), "")
    return {name: hashlib.sha256(value.numpy().tobytes()).hexdigest() for name, value in load_weights(last).items()}


def adapter(world: World, changes: Changes) -> dict[str, str]:
    """The weights of an adapter of the pair after a few steps."""
    flags = ("--resume_from_ckpt_path", str(world.pair), "--resume_type", "finetune")
    train(world.config, "any", 0, {"log_dir": str(world.folder), **changes}, *flags)
    last = resolve_checkpoint(world.folder / "any", "")
    return {name: hashlib.sha256(value.numpy().tobytes()).hexdigest() for name, value in load_weights(last).items()}


def checkpoints(world: World, changes: Changes) -> list[tuple[int, int]]:
    """Epoch and step of the checkpoints that stay."""
    found = find_checkpoints(trained(world, changes) / "checkpoint")
    return [(checkpoint.epoch, checkpoint.step) for checkpoint in found]


def events(world: World, changes: Changes) -> dict[str, Any]:
    """What TensorBoard holds, but for the one number that is a time."""
    seen: dict[str, Any] = {}
    for file in trained(world, {"train.tracker": ["tensorboard"], **changes}).glob("log/**/events.*"):
        log = EventAccumulator(str(file)).Reload()
        for tag in log.Tags()["scalars"]:
            if not tag.endswith("tokens_per_second"):
                seen[tag] = [(event.step, event.value) for event in log.Scalars(tag)]
        seen["spoken"] = [event.step for tag in log.Tags()["audio"] for event in log.Audio(tag)]
    return seen


def architecture(world: World, changes: Changes) -> Any:
    """Names and shapes of all weights, and how many there are where shared ones count once."""
    model = VALLE(world.settings(changes).model)
    shapes = {name: tuple(value.shape) for name, value in model.named_weights().items()}
    return shapes, sum(parameter.numel() for parameter in model.parameters())


def speech(world: World, changes: Changes, *flags: str, pair: str = "pair") -> dict[str, Any]:
    """What stage 3 writes, but for times."""
    flags = ("--infer_mode", "batch", "--test_list_file", str(world.root / "list.txt"), *flags)
    infer(world.pair.with_name(pair), world.folder, changes, *flags)
    rows = [json.loads(line) for line in (world.folder / "results.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    return {row["name"]: (row["ended"], row["tries"], (world.folder / row["audio"]).read_bytes()) for row in rows}


def continued(world: World, changes: Changes) -> dict[str, Any]:
    return speech(world, changes, "--continual")


def ended(world: World, changes: Changes) -> dict[str, Any]:
    """Speech of a model that would end at once."""
    return speech(world, changes, pair="ending")


def spoken_in_parts(world: World, changes: Changes) -> dict[str, Any]:
    """Speech of a model whose parts end by themselves, and are long enough to be continued."""
    return speech(world, {**ROOMY, "infer.min_seconds": 0.6, **changes}, pair="speaking")


def streamed(world: World, changes: Changes) -> list[int]:
    """The samples of each block of a stream."""
    overrides = [f"{key}={json.dumps(value)}" for key, value in {**ROOMY, "infer.min_seconds": 0.6, **changes}.items()]
    audio = min((world.root / "corpus" / "wavs").iterdir())
    with vallet.load(world.pair.with_name("speaking"), overrides=overrides) as tts:
        return [len(block) for block in tts.stream("find green apples", prompt=audio, prompt_text="early birds")]


class Noting(MelRVQ):
    """Keeps the shape of each batch that it codes."""

    def encode(self, audio: torch.Tensor, audio_lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.__dict__.setdefault("shapes", []).append(tuple(audio.shape))
        return super().encode(audio, audio_lens)


def coded_together(world: World, changes: Changes) -> Any:
    """The batches that stage 1 gives to the codec."""
    codec = Noting.load(world.root / "data" / "mel_rvq.safetensors")
    settings = world.settings(changes).preprocess
    CorpusPreprocessor("custom", world.root / "corpus", world.folder, ROOT, settings).run(codec, CPU, lambda: None)
    return codec.__dict__["shapes"]


def spoken_together(world: World, changes: Changes) -> Any:
    """The batches of prompts that stage 3 gives to the codec."""
    experiment, settings = Experiment(world.pair), world.settings(changes)
    codec = Noting.load(experiment.codec(MelRVQ.file_name))
    tokenizer = TextTokenizer(GraphemePhonemizer, SymbolTable.load(experiment.symbols), False)
    model = load_model(resolve_checkpoint(world.pair, ""), settings)
    Synthesizer(model, codec, tokenizer, settings.infer, CPU).synthesize([Request("a", "a", torch.ones(9600))] * 3)
    return codec.__dict__["shapes"]


def loaded(world: World, changes: Changes) -> Synthesizer:
    synthesizer, _ = load_experiment(world.pair, "", sets(changes)[1::2])
    return synthesizer


def tried_together(world: World, changes: Changes) -> Any:
    """The scores of the candidates of a text, or why they have none."""
    [result] = loaded(world, changes).synthesize([Request("green apples", "early birds", torch.ones(24000).sin())])
    return str(result) if isinstance(result, UserError) else result.scores


def recognizers(world: World, changes: Changes) -> list[Any]:
    """The recognizer that candidates are ranked by."""
    asked: list[Any] = []
    original = evaluation.candidates.build_recognizer
    evaluation.candidates.build_recognizer = lambda *given, **_: asked.append(given[:2])  # type: ignore
    try:
        add_error_rate(loaded(world, changes))
    finally:
        evaluation.candidates.build_recognizer = original  # type: ignore
    return asked


def aligns(world: World, changes: Changes) -> bool:
    """Whether words are looked for."""
    return loaded(world, changes).aligner is not None


def speaking_layers(world: World, changes: Changes) -> set[tuple[str, str]]:
    """The kinds of linear layers that the AR and the NAR speak with in stage 3."""
    codec = MelRVQ.load(Experiment(world.pair).codec(MelRVQ.file_name))
    source, tokenizer = resolve_checkpoint(world.pair, ""), TextTokenizer(GraphemePhonemizer, SymbolTable(), False)
    model = load_synthesizer(source, world.settings(changes), codec, tokenizer, CPU).model
    kinds = ((name.split(".")[0], type(module).__name__) for name, module in model.named_modules())
    return {kind for kind in kinds if kind[1].endswith("Linear")}


def training_layers(world: World, changes: Changes) -> tuple[bool, int]:
    """Whether the layers are to be compiled, and how many tensors a layer keeps for its way back."""
    settings = world.settings(changes)
    model = VALLE(settings.model, 1)
    model.configure_training(settings.train)
    [layer] = model.ar.decoder.layers
    is_compiled = layer._compiled_call_impl is not None
    kept: list[torch.Tensor] = []
    layer._compiled_call_impl = None
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        model.ar.decoder(torch.zeros(1, 2, settings.model.decoder_dim, requires_grad=True), None)
    return is_compiled, len(kept)


def reads_beside(world: World, changes: Changes) -> bool:
    """Whether stage 1 had processes started, from the server that shares no memory with this one."""
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    features(world, changes)
    return forkserver._forkserver._forkserver_pid is not None  # type: ignore[attr-defined]


def has_helpers(run: Callable[[World, Changes], Any]) -> Callable[[World, Changes], bool]:
    """Whether other processes work for this one in `run`."""

    def observe(world: World, changes: Changes) -> bool:
        before = _seconds_of_children()
        run(world, changes)
        assert not multiprocessing.active_children()
        return _seconds_of_children() > before

    return observe


def _seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
