"""Codecs of transformers, EnCodec without its package, and Vocos: real formats, equal codes, clear errors."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import EncodecConfig, EncodecModel

from config.schema import Settings
from processors.codecs import build_codec, codec_class, with_vocoder
from processors.codecs.base import Codec
from processors.codecs.check import round_trip
from processors.codecs.dac import Dac
from processors.codecs.encodec import Encodec, read_weights
from processors.codecs.pretrained import PretrainedCodec
from processors.codecs.vocos import EncodecVocos
from processors.codecs.weights import find_weights
from tests.conftest import ROOT, tiny_infer
from tests.processors.test_codecs import assert_same_codes, batch_of, made_up_speech, settings_with
from tests.support.standin_encodec import make_standin
from tests.support.tiny_pretrained import HAS_XCODEC2, write_dac, write_mimi, write_vocos, write_xcodec2
from utils.audio import write_audio
from utils.config import load_settings
from utils.errors import UserError

CPU = torch.device("cpu")
KINDS = ("Dac", "Mimi", "XCodec2") if HAS_XCODEC2 else ("Dac", "Mimi")
RATES = {"Dac": 24000, "Mimi": 24000, "XCodec2": 16000}


@pytest.fixture(scope="module")
def speech() -> list[torch.Tensor]:
    return [made_up_speech(40000 + 3001 * seed, seed) for seed in range(3)]


@pytest.fixture(scope="module")
def folders(speech: list[torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pretrained")
    writers: dict[str, Callable[..., Path]] = {"Dac": write_dac, "Mimi": write_mimi, "XCodec2": write_xcodec2}
    return {name: writers[name](folder / name, speech) for name in KINDS}


@pytest.fixture(scope="module")
def standin(speech: list[torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seeded weights of EnCodec, in the format of the original file."""
    folder = tmp_path_factory.mktemp("standin")
    write_audio(folder / "speech.wav", speech[0], 24000)
    make_standin([folder / "speech.wav"], folder / "encodec.th")
    return folder / "encodec.th"


@pytest.fixture(scope="module")
def library_folder(standin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights as transformers saves them."""
    folder = tmp_path_factory.mktemp("library")
    model = EncodecModel(EncodecConfig())
    model.load_state_dict(read_weights(standin))
    model.save_pretrained(folder)
    return folder


def opened(name: str, folder: Path, **changes: Any) -> PretrainedCodec:
    settings = settings_with(
        acoustic_token_extractor=name, codec_checkpoint=str(folder), sample_rate=RATES[name], **changes
    )
    codec = build_codec(settings, None, ROOT, CPU)
    assert isinstance(codec, PretrainedCodec)
    return codec


def test_both_implementations_of_encodec_are_one_codec(standin: Path, speech: list[torch.Tensor]) -> None:
    package, library = (Encodec.load(standin, backend) for backend in ("encodec", "transformers"))
    assert package.is_package and not library.is_package
    assert package.fingerprint() == library.fingerprint()
    torch.testing.assert_close(package.vectors, library.vectors, rtol=0, atol=0)
    rows = [*speech, speech[0][: 3 * 320 + 7], speech[1][:5]]
    codes, lens = package.encode(*batch_of(rows))
    others, other_lens = library.encode(*batch_of(rows))
    assert torch.equal(lens, other_lens)
    for row, one, other, length in zip(rows, codes, others, lens.tolist(), strict=True):
        assert_same_codes(package, row, one[:length], other[:length])
    audio, _ = package.decode(codes, lens)
    torch.testing.assert_close(library.decode(codes, lens)[0], audio, rtol=0, atol=1e-4)
    assert audio.abs().max() > 1e-3


def test_encodec_reads_every_format_with_both_implementations(
    standin: Path, library_folder: Path, tmp_path: Path
) -> None:
    """The original file, a folder of transformers, and one of its older releases, whose weight norm had other names."""
    weights = load_file(library_folder / "model.safetensors")
    assert any("parametrizations" in name for name in weights)
    old = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor
        for name, tensor in weights.items()
    }
    save_file(old, tmp_path / "model.safetensors")
    expected = Encodec.load(standin).fingerprint()
    for source in (standin, library_folder, tmp_path, tmp_path / "model.safetensors"):
        for backend in ("encodec", "transformers"):
            assert Encodec.load(source, backend).fingerprint() == expected


def test_an_experiment_gets_one_file_of_encodec(library_folder: Path, standin: Path, tmp_path: Path) -> None:
    settings = settings_with(codec_checkpoint=str(library_folder))
    source = Encodec.weights_file(settings, ROOT)
    assert source == library_folder
    Encodec.copy_weights(source, tmp_path / Encodec.file_name)
    own = build_codec(settings_with(codec_checkpoint="moved/away"), tmp_path / Encodec.file_name, ROOT, CPU)
    assert own.fingerprint() == Encodec.load(standin).fingerprint()


def test_without_its_package_encodec_runs_through_transformers(standin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Encodec.load(standin, "encodec").fingerprint()
    monkeypatch.setitem(sys.modules, "encodec", None)
    codec = build_codec(settings_with(codec_checkpoint=str(standin)), None, ROOT, CPU)
    assert isinstance(codec, Encodec) and not codec.is_package
    assert codec.fingerprint() == expected
    with pytest.raises(UserError, match=r"^preprocess\.encodec_backend: .*transformers") as caught:
        build_codec(settings_with(codec_checkpoint=str(standin), encodec_backend="encodec"), None, ROOT, CPU)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", KINDS)
def test_a_codec_gives_the_librarys_own_codes_and_audio(
    name: str, folders: dict[str, Path], speech: list[torch.Tensor]
) -> None:
    codec = opened(name, folders[name])
    row = speech[0][: 20 * codec.hop_samples - 100]
    codes, lens = codec.encode(*batch_of([row]))
    padded = torch.nn.functional.pad(row, (0, 100))[None, None]
    model = codec.model
    with torch.no_grad():
        if name == "XCodec2":
            inputs = codec.features(row, sampling_rate=16000, return_tensors="pt")
            expected = model.encode(inputs["input_values"], inputs["input_features"]).audio_codes.transpose(1, 2)
            joined = codes[..., :1] + codec.codebook_size * codes[..., 1:]
            assert torch.equal(joined.int(), expected)
            audio = model.decode(expected.transpose(1, 2)).audio_values[:, 0]
        else:
            expected = model.encode(padded).audio_codes
            assert_same_codes(codec, row, codes[0], expected[0].T)
            audio = model.decode(audio_codes=codes.transpose(1, 2)).audio_values.reshape(1, -1)
    decoded, _ = codec.decode(codes, lens)
    assert decoded.shape[1] - audio.shape[1] in (0, 8)
    torch.testing.assert_close(decoded[:, : audio.shape[1]], audio, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_what_is_decoded_is_the_sum_of_the_vectors(name: str, folders: dict[str, Path]) -> None:
    codec = opened(name, folders[name])
    num, size = codec.num_codebooks, codec.codebook_size
    assert codec.vectors is not None and codec.vectors.shape[:2] == (num, size)
    codes = torch.randint(size, (5, num))
    summed = codec.vectors[torch.arange(num), codes].sum(1)
    quantizer = codec.model.quantizer
    if name == "Dac":
        expected = quantizer.from_codes(codes.T[None])[0][0].T
    elif name == "Mimi":
        expected = quantizer.decode(codes.T[None])[0].T
    else:
        expected = quantizer.from_codes((codes[:, :1] + size * codes[:, 1:])[None])[0]
    torch.testing.assert_close(summed, expected)


def test_only_the_first_codebooks_are_used(folders: dict[str, Path], speech: list[torch.Tensor]) -> None:
    for name in ("Dac", "Mimi"):
        every, first = opened(name, folders[name]), opened(name, folders[name], num_codebooks=3)
        assert (every.num_codebooks, first.num_codebooks) == (8, 3)
        codes, lens = every.encode(*batch_of(speech))
        assert torch.equal(first.encode(*batch_of(speech))[0], codes[..., :3])
        assert torch.equal(first.decode(codes[..., :3], lens)[0], every.decode(codes[..., :3], lens)[0])
        with pytest.raises(UserError, match=rf"^preprocess\.num_codebooks: 9 is more than the 8 codebooks of {name}"):
            opened(name, folders[name], num_codebooks=9)


@pytest.mark.parametrize("name", KINDS)
def test_fingerprints_follow_the_encoder_and_the_used_codebooks(name: str, folders: dict[str, Path]) -> None:
    changes: dict[str, Any] = {} if name == "XCodec2" else {"num_codebooks": 3}
    codec = opened(name, folders[name], **changes)
    before = codec.fingerprint()
    assert before == opened(name, folders[name], **changes).fingerprint()
    model = codec.model
    parts = {
        "Dac": lambda: (
            model.decoder.conv1.bias,
            model.quantizer.quantizers[3].codebook.weight,
            model.encoder.conv1.bias,
        ),
        "Mimi": lambda: (
            next(model.decoder.parameters()),
            model.quantizer.acoustic_residual_vector_quantizer.layers[2].codebook.embed_sum,
            next(model.encoder.parameters()),
        ),
        "XCodec2": lambda: (
            model.acoustic_decoder.fc.bias,
            model.acoustic_decoder.embed.bias,
            model.quantizer.project_in.bias,
        ),
    }
    decoder, unused, used = parts[name]()
    decoder.data += 1
    unused.data += 1
    assert codec.fingerprint() == before
    used.data += 1
    assert codec.fingerprint() != before


def test_an_experiments_own_folder_comes_first(folders: dict[str, Path], tmp_path: Path) -> None:
    source = Path(shutil.copytree(folders["Dac"], tmp_path / "source"))
    (source / "pytorch_model.bin").write_bytes(b"not needed")
    settings = settings_with(acoustic_token_extractor="Dac", codec_checkpoint=str(source))
    weights = Dac.weights_file(settings, ROOT)
    assert weights == source
    own = tmp_path / "expt" / Dac.file_name
    for _ in range(2):
        Dac.copy_weights(weights, own)
        assert sorted(path.name for path in own.parent.rglob("*")) == ["config.json", "dac", "model.safetensors"]
    expected = Dac.open(settings, None, ROOT).fingerprint()
    shutil.rmtree(source)
    assert Dac.open(settings, own, ROOT).fingerprint() == expected


def damaged(folder: Path, target: Path) -> list[tuple[str, Path]]:
    """Folders that hold no usable codec, and a part of the message that tells why."""
    found = []

    def made(reason: str, change: Callable[[Path], object]) -> None:
        copy = Path(shutil.copytree(folder, target / str(len(found))))
        change(copy)
        found.append((reason, copy))

    def edit(copy: Path, **entries: Any) -> None:
        content = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps({**content, **entries}))

    def reweigh(copy: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
        weights = load_file(copy / "model.safetensors")
        change(weights)
        save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})

    weights = "model.safetensors"
    made("config.json", lambda copy: (copy / "config.json").unlink())
    made("Expecting", lambda copy: (copy / "config.json").write_text("{"))
    made("model_type 'bert'", lambda copy: edit(copy, model_type="bert"))
    made("codebook_size", lambda copy: edit(copy, codebook_size=10**9))
    made("n_codebooks", lambda copy: edit(copy, n_codebooks=10**9))
    made("sampling_rate", lambda copy: edit(copy, sampling_rate="fast"))
    made("does not hold", lambda copy: edit(copy, encoder_hidden_size=8))
    made("does not hold the weights of Dac", lambda copy: (copy / weights).write_bytes(b"\x00" * 99))
    made("does not hold", lambda copy: (copy / weights).write_bytes((copy / weights).read_bytes()[:5000]))
    made("missing", lambda copy: reweigh(copy, lambda of: of.pop("encoder.conv1.weight")))
    made("not finite", lambda copy: reweigh(copy, lambda of: of["encoder.conv1.bias"].fill_(torch.nan)))
    made("model.safetensors", lambda copy: (copy / weights).rename(copy / "pytorch_model.bin"))
    return [*found, ("is not a file or folder", target / "absent")]


def test_a_damaged_folder_is_one_clear_line(folders: dict[str, Path], tmp_path: Path) -> None:
    for reason, folder in damaged(folders["Dac"], tmp_path):
        with pytest.raises(UserError, match=r"^preprocess\.codec_checkpoint: ") as caught:
            opened("Dac", folder)
        assert reason in str(caught.value) and "\n" not in str(caught.value), str(caught.value)
    with pytest.raises(UserError, match=r"^preprocess\.codec_checkpoint: .*model_type 'dac'"):
        opened("Mimi", folders["Dac"])
    with pytest.raises(UserError, match=r"^preprocess\.codec_checkpoint: .*EnCodec"):
        Encodec.load(folders["Dac"])
    with pytest.raises(UserError, match=r"^preprocess\.sample_rate: .*44100"):
        build_codec(settings_with(acoustic_token_extractor="Dac", sample_rate=22050), None, ROOT, CPU)


def test_names_on_the_hub_go_through_its_cache(
    folders: dict[str, Path], standin: Path, library_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a network: names whose files are in the hub's cache are read from there, others are one clear line."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name, folder in (("someone/tiny-dac", folders["Dac"]), ("someone/encodec", library_folder)):
        repository = tmp_path / f"models--{name.replace('/', '--')}"
        shutil.copytree(folder, repository / "snapshots" / ("0" * 40))
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("0" * 40)
    settings = settings_with(acoustic_token_extractor="Dac", codec_checkpoint="someone/tiny-dac")
    codec = build_codec(settings, None, ROOT, CPU)
    assert codec.fingerprint() == opened("Dac", folders["Dac"]).fingerprint()
    assert Dac.weights_file(settings, ROOT) is None
    assert Encodec.load("someone/encodec").fingerprint() == Encodec.load(standin).fingerprint()
    for missing in (
        lambda: build_codec(settings.model_copy(update={"codec_checkpoint": None}), None, ROOT, CPU),
        lambda: Encodec.load("someone/else"),
        lambda: with_vocoder(Encodec.load(standin), tiny_infer(vocoder="vocos"), ROOT),
    ):
        with pytest.raises(UserError, match=r"(codec_checkpoint|vocoder_checkpoint): \S+/\S+ is neither") as caught:
            missing()
        assert "\n" not in str(caught.value)


def test_a_local_path_comes_before_a_name_on_the_hub(tmp_path: Path) -> None:
    assert find_weights("someone/model", tmp_path) == "someone/model"
    (tmp_path / "someone" / "model").mkdir(parents=True)
    assert find_weights("someone/model", tmp_path) == tmp_path / "someone" / "model"
    for path in ("weights/encodec.th", "../some/model", "/some/model", "model"):
        assert find_weights(path, tmp_path) == tmp_path / path


def test_the_configs_of_codecs_name_their_usual_weights() -> None:
    configs = sorted((ROOT / "egs" / "tts" / "VALLE" / "codecs").glob("*.json"))
    assert len(configs) == 5
    for path in configs:
        settings = load_settings(path, Settings, ["dataset_path.libritts=."], root=ROOT)
        preprocess = settings.preprocess
        kind = codec_class(preprocess.acoustic_token_extractor)
        assert issubclass(kind, PretrainedCodec)
        assert preprocess.codec_checkpoint == kind.default_weights(preprocess)
        assert preprocess.num_codebooks in (None, settings.model.num_quantizers)


@pytest.fixture(scope="module")
def vocos(standin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vocos(tmp_path_factory.mktemp("vocos"), Encodec.load(standin))


def test_vocos_decodes_the_codes_of_both_implementations(
    standin: Path, vocos: Path, speech: list[torch.Tensor]
) -> None:
    infer = tiny_infer(vocoder="vocos", vocoder_checkpoint=str(vocos))
    plain = Encodec.load(standin, "encodec")
    package, library = (with_vocoder(Encodec.load(standin, of), infer, ROOT) for of in ("encodec", "transformers"))
    assert isinstance(package, EncodecVocos) and package.fingerprint() == plain.fingerprint()
    codes, lens = plain.encode(*batch_of([speech[0][:9600], speech[1][:6400], speech[2][:320]]))
    assert torch.equal(package.encode(*batch_of([speech[0][:9600]]))[0][0], codes[0])
    for num_codebooks in (1, 2, 3, 8):
        audio, audio_lens = package.decode(codes[..., :num_codebooks], lens)
        assert audio_lens.tolist() == [9600, 6400, 320]
        torch.testing.assert_close(library.decode(codes[..., :num_codebooks], lens)[0], audio)
        for row, length in enumerate(lens.tolist()):
            alone, _ = package.decode(codes[row : row + 1, :length, :num_codebooks], lens[row : row + 1])
            torch.testing.assert_close(audio[row, : length * 320], alone[0], rtol=0, atol=1e-5)
    assert not torch.allclose(audio, plain.decode(codes, lens)[0], atol=1e-2)
    torch.testing.assert_close(package.decode_vectors(package.sum_vectors(codes), lens)[0], audio)
    # The number of codebooks selects other norms, not only another sum of vectors.
    latents = package.tables[0][codes[..., 0]]
    assert not torch.allclose(*(package.net(latents, lens, condition) for condition in (0, 2)), atol=1e-3)


def test_other_codecs_and_damaged_files_of_vocos_are_one_clear_line(
    folders: dict[str, Path], standin: Path, vocos: Path, tmp_path: Path
) -> None:
    infer = tiny_infer(vocoder="vocos", vocoder_checkpoint=str(vocos))
    with pytest.raises(UserError, match=r"^infer\.vocoder: vocos decodes EnCodec's codes, not those of Dac"):
        with_vocoder(opened("Dac", folders["Dac"]), infer, ROOT)
    weights = torch.load(vocos / "pytorch_model.bin", weights_only=True)
    less = {name: tensor for name, tensor in weights.items() if name != "head.out.bias"}
    wrong = {**weights, "head.out.weight": weights["head.out.weight"][:100]}
    bad = {**weights, "backbone.embed.bias": torch.full_like(weights["backbone.embed.bias"], torch.inf)}
    contents: dict[str, Any] = {"less": less, "wrong": wrong, "bad": bad, "other": {"a": torch.ones(1)}, "odd": [1]}
    for name, content in contents.items():
        torch.save(content, tmp_path / f"{name}.bin")
    (tmp_path / "noise.bin").write_bytes(b"noise")
    for name in (*contents, "noise", "absent"):
        changed = infer.model_copy(update={"vocoder_checkpoint": str(tmp_path / f"{name}.bin")})
        with pytest.raises(UserError, match=rf"^infer\.vocoder_checkpoint: \S+{name}\.bin ") as caught:
            with_vocoder(Encodec.load(standin), changed, ROOT)
        assert "\n" not in str(caught.value)


class Filtered(Codec):
    """Not a codec: the round trip of given audio, for checks of its measure."""

    def __init__(self, effect: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.sample_rate_hz, self.hop_samples, self.num_codebooks, self.codebook_size = 24000, 240, 2, 240
        self.effect, self.device = effect, CPU

    @classmethod
    def open(cls, *_: Any) -> "Filtered":
        raise NotImplementedError

    def _encode(self, audio: torch.Tensor, codes_lens: torch.Tensor) -> torch.Tensor:
        self.audio = audio
        return torch.arange(int(codes_lens[0]))[None, :, None].expand(1, -1, 2) % 240

    def _decode(self, codes: torch.Tensor, codes_lens: torch.Tensor) -> torch.Tensor:
        return self.effect(self.audio)

    def to(self, device: Any) -> "Filtered":
        return self

    def fingerprint(self) -> str:
        return ""


def test_the_check_tells_speech_from_noise(speech: list[torch.Tensor], folders: dict[str, Path]) -> None:
    clip = torch.cat(speech)
    noise = 0.003 * torch.randn(len(clip) + 240)

    def problems(effect: Callable[[torch.Tensor], torch.Tensor]) -> str:
        return "; ".join(round_trip(Filtered(effect), clip).problems)

    assert problems(lambda audio: audio) == ""
    assert problems(lambda audio: 0.8 * audio + 0.1 * noise[: audio.shape[1]]) == ""
    assert "the sound is not that of the clip" in problems(lambda audio: 10 * noise[: audio.shape[1]][None])
    assert "the level changes by -12.0 dB" in problems(lambda audio: audio / 4)
    assert "shifted by +100 ms" in problems(lambda audio: audio.roll(2400, 1))
    assert "clipped" in problems(lambda audio: (100 * audio).clamp(-1, 1))
    assert problems(lambda audio: audio * torch.nan) == "the audio is not finite"
    # Seeded weights give noise.
    assert "the sound is not that of the clip" in "; ".join(round_trip(opened("Dac", folders["Dac"]), clip).problems)
