"""Codecs: independence of padding and batch, lengths, files, errors, and useful stand-in weights."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import soundfile
import torch
import torchaudio
from safetensors.torch import save_file

from config.schema import MelRVQSettings, PreprocessSettings
from processors.codecs import build_codec, prepare_codec
from processors.codecs.base import Codec, pad_to_hops
from processors.codecs.dac import Dac
from processors.codecs.encodec import Encodec
from processors.codecs.mel_analysis import MelAnalysis
from processors.codecs.mel_rvq import MelRVQ
from processors.codecs.mimi import Mimi
from processors.codecs.pretrained import PretrainedCodec
from processors.codecs.speech_net import ShortTimeTransform, frame_mask
from processors.codecs.speech_rvq import SpeechRVQ, save_net
from processors.codecs.xcodec2 import XCodec2
from processors.manifest import SourceUtterance
from processors.training_audio import training_audio
from tests.conftest import ROOT, TEST_DATA, Defaults
from tests.support.standin_encodec import make_standin
from tests.support.tiny_codec import tiny_speech_net
from tests.support.tiny_pretrained import HAS_XCODEC2, quantizer_input, tie_gap, write_dac, write_mimi, write_xcodec2
from utils.audio import write_audio
from utils.config import load_settings
from utils.errors import UserError

RATE = 24000
# Relative to the squared norm of the residual. Rounding in single precision is a hundred times smaller.
TIE = 1e-5
SPEECH = TEST_DATA / "speech" / "Kathleen" / "wavs"


def tiny_mel_rvq(**changes: Any) -> MelRVQSettings:
    settings = {
        "frame_rate_hz": 50.0,
        "num_mels": 80,
        "num_codebooks": 8,
        "fit_frames": 1000,
        "fit_iterations": 3,
        "griffin_lim_iterations": 16,
    }
    return MelRVQSettings(**{**settings, **changes})


def settings_with(**changes: Any) -> PreprocessSettings:
    defaults = load_settings(ROOT / "config" / "valle.json", Defaults, root=ROOT).preprocess.model_dump()
    return PreprocessSettings(**{**defaults, "mel_rvq": tiny_mel_rvq().model_dump(), **changes})


def made_up_speech(num_samples: int, seed: int) -> torch.Tensor:
    """(N,) samples: syllables of harmonics with gliding pitch, bursts of coloured noise, and silences."""
    generator = torch.Generator().manual_seed(seed)
    parts: list[torch.Tensor] = []
    while sum(len(part) for part in parts) < num_samples:
        length = int(torch.randint(1500, 5000, (1,), generator=generator))
        draw = torch.rand(14, generator=generator)
        pitch_hz = 90 + 120 * draw[0] + 60 * (draw[1] - 0.5) * torch.linspace(0, 1, length)
        phase = 2 * math.pi * pitch_hz.cumsum(0) / RATE
        voiced = sum(draw[2 + k] ** 2 * torch.sin((k + 1 + k * k // 3) * phase) for k in range(10))
        noise = torch.randn(length, generator=generator)
        noise[1:] += (2 * draw[12] - 1) * noise[:-1]
        mix = voiced * (draw[13] > 0.3) + noise * (0.05 if draw[13] > 0.3 else float(draw[13] > 0.1))
        parts.append(0.1 * mix * torch.hann_window(length))
    return torch.cat(parts)[:num_samples]


@pytest.fixture(scope="module")
def speech() -> list[torch.Tensor]:
    """Eight waveforms of 2 to 4 s at 24 kHz, real ones if they are available."""
    if not SPEECH.is_dir():
        return [made_up_speech(50000 + 5001 * seed, seed) for seed in range(8)]
    waveforms = []
    for path in sorted(SPEECH.glob("*.flac"))[:8]:
        audio, rate_hz = soundfile.read(path, dtype="float32")
        waveforms.append(torchaudio.functional.resample(torch.from_numpy(audio), rate_hz, RATE))
    return waveforms


@pytest.fixture(scope="module")
def standin(speech: list[torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("standin")
    paths = [folder / f"{i}.wav" for i in range(4)]
    for path, waveform in zip(paths, speech, strict=False):
        soundfile.write(path, waveform.numpy(), RATE)
    make_standin(paths, folder / "encodec.th")
    return folder / "encodec.th"


@pytest.fixture(scope="module")
def mel_rvq(speech: list[torch.Tensor]) -> MelRVQ:
    return MelRVQ.fit(speech[:6], tiny_mel_rvq(), RATE)


PRETRAINED = {"Dac": (Dac, write_dac), "Mimi": (Mimi, write_mimi)}
if HAS_XCODEC2:
    PRETRAINED["XCodec2"] = XCodec2, write_xcodec2


@pytest.fixture(scope="module")
def folders(speech: list[torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each codec of transformers."""
    folder = tmp_path_factory.mktemp("pretrained")
    return {name: write(folder / name, speech[:2]) for name, (_, write) in PRETRAINED.items()}


@pytest.fixture(
    scope="module",
    params=["Encodec", "Encodec through transformers", *PRETRAINED, "MelRVQ", "stacked MelRVQ", "SpeechRVQ"],
)
def codec(request: pytest.FixtureRequest, speech: list[torch.Tensor]) -> Codec:
    if request.param.startswith("Encodec"):
        backend = "transformers" if request.param.endswith("transformers") else "encodec"
        return Encodec.load(request.getfixturevalue("standin"), backend)
    if request.param in PRETRAINED:
        kind, _ = PRETRAINED[request.param]
        return kind(kind.load_model(request.getfixturevalue("folders")[request.param]))
    if request.param == "MelRVQ":
        return request.getfixturevalue("mel_rvq")
    if request.param == "SpeechRVQ":
        return request.getfixturevalue("speech_rvq")
    return MelRVQ.fit(speech[:6], tiny_mel_rvq(frame_rate_hz=25.0), RATE)


@pytest.fixture(scope="module")
def speech_rvq(speech: list[torch.Tensor]) -> SpeechRVQ:
    return SpeechRVQ(*tiny_speech_net(speech[:6], RATE))


def batch_of(rows: Sequence[torch.Tensor], filler: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows padded with `filler`, which must not matter."""
    audio = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=filler)
    return audio, torch.tensor([len(row) for row in rows])


def residuals(codec: Codec, row: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The input (T, D) of the first codebook for (N,) audio alone, and the codebooks (Q, C, D)."""
    if isinstance(codec, MelRVQ):
        frames = pad_to_hops(row[None], torch.tensor([len(row)]), codec.hop_samples)[0][0]
        return codec.analysis.log_mel(frames), codec.codebooks
    if isinstance(codec, SpeechRVQ):
        padded, codes_lens = pad_to_hops(row[None], torch.tensor([len(row)]), codec.hop_samples)
        return codec.net.encoder(padded, codes_lens)[0], codec.net.codebooks
    assert isinstance(codec, Encodec)
    frames = pad_to_hops(row[None], torch.tensor([len(row)]), codec.hop_samples)[0]
    return codec.model.encoder(frames[:, None])[0].T, codec.vectors


def assert_same_codes(codec: Codec, row: torch.Tensor, codes: torch.Tensor, others: torch.Tensor) -> None:
    """(T, Q) codes of the same audio are equal up to rounding ties.

    Sums of floats depend on the shape of the batch and on the CPU. Where the codes of a frame differ, the
    first two that differ are equally near to the residual; later codebooks encode another residual.
    """
    assert codes.shape == others.shape
    differs = codes != others
    tied = differs.any(1).nonzero().flatten().tolist()
    assert len(tied) <= max(1, len(codes) // 20), f"frames {tied} of {len(codes)} differ"
    if isinstance(codec, PretrainedCodec):
        latents = quantizer_input(codec, row) if tied else codes
        for frame in tied:
            first = int(differs[frame].int().argmax())
            pair = int(codes[frame, first]), int(others[frame, first])
            gap, scale = tie_gap(codec, latents[frame], codes[frame, :first].tolist(), pair)
            assert gap < TIE * scale, f"frame {frame}, codebook {first}: {gap} of {scale}"
        return
    residual, codebooks = residuals(codec, row) if tied else (codes, codes)
    for frame in tied:
        first = int(differs[frame].int().argmax())
        before = sum((codebooks[q, codes[frame, q]] for q in range(first)), torch.zeros_like(residual[frame]))
        candidates = codebooks[first, torch.stack([codes[frame, first], others[frame, first]])]
        one, other = (residual[frame] - before - candidates).double().square().sum(1).tolist()
        # The distances are sums of squares as large as those of the first codebook's input.
        scale = float(residual[frame].double().square().sum()) + max(one, other)
        assert abs(one - other) < TIE * scale, f"frame {frame}, codebook {first}: {one} and {other}"


def test_codes_do_not_depend_on_padding_or_batch(codec: Codec, speech: list[torch.Tensor]) -> None:
    hop = codec.hop_samples
    ends = (len(speech[0]), 20 * hop, 15 * hop + 1, 7 * hop, 7 * hop - 1, 6 * hop + 1, 6 * hop, 3 * hop - 7, hop, 5)
    rows = [speech[i % 3][3000 : 3000 + end] for i, end in enumerate(ends)]
    codes, lens = codec.encode(*batch_of(rows))
    assert codes.shape == (len(rows), int(lens.max()), codec.num_codebooks)
    assert codes.dtype == torch.int64
    assert codes.min() >= 0 and codes.max() < codec.codebook_size
    assert lens.tolist() == [math.ceil(len(row) / hop) for row in rows]
    for row, coded, length in zip(rows, codes, lens.tolist(), strict=True):
        alone, alone_lens = codec.encode(*batch_of([row]))
        assert alone_lens.tolist() == [length]
        assert_same_codes(codec, row, coded[:length], alone[0])
        assert not coded[length:].any()


def test_only_ties_excuse_other_codes(codec: Codec, speech: list[torch.Tensor]) -> None:
    """The comparison above fails for a codeword that is not the nearest, and passes for one that is tied with it."""
    row = speech[0][3000 : 3000 + 20 * codec.hop_samples]
    codes = codec.encode(*batch_of([row]))[0][0]
    for codebook in (0, codec.num_codebooks - 1):
        changed = codes.clone()
        changed[7, codebook] = (changed[7, codebook] + 1) % codec.codebook_size
        with pytest.raises(AssertionError, match=f"frame 7, codebook {codebook}"):
            assert_same_codes(codec, row, codes, changed)
    louder = codec.encode(*batch_of([row * 1.05]))[0][0]
    with pytest.raises(AssertionError):
        assert_same_codes(codec, row, codes, louder)
    if isinstance(codec, PretrainedCodec):
        return
    if isinstance(codec, Encodec):
        book = codec.layers[3].codebook if codec.is_package else codec.layers[3].codebook.embed
    else:
        book = codec.net.codebooks[3] if isinstance(codec, SpeechRVQ) else cast(MelRVQ, codec).codebooks[3]
    tied, unused = codes.clone(), next(code for code in range(codec.codebook_size) if code not in codes[:, 3])
    kept = book[unused].clone()
    book[unused] = book[codes[7, 3]] * (1 + 1e-7)
    tied[7, 3], tied[7, 4:] = unused, 0
    assert_same_codes(codec, row, codes, tied)
    book[unused] = kept


@pytest.mark.parametrize("all_codebooks", [False, True])
def test_a_batch_is_decoded_as_each_row_alone(codec: Codec, speech: list[torch.Tensor], all_codebooks: bool) -> None:
    hop = codec.hop_samples
    num_quantizers = codec.num_codebooks if all_codebooks else 1
    rows = [speech[0][3000 : 3000 + frames * hop] for frames in (20, 24, 7, 6, 1)]
    codes, lens = codec.encode(*batch_of(rows))
    codes = codes[:, :, :num_quantizers]
    for row, length in enumerate(lens.tolist()):
        codes[row, length:] = codec.codebook_size
    audio, audio_lens = codec.decode(codes, lens)
    assert audio_lens.tolist() == [len(row) for row in rows]
    assert audio.shape == (len(rows), int(audio_lens.max()))
    assert audio[0].abs().max() > 1e-3
    for row, length in enumerate(lens.tolist()):
        alone, alone_lens = codec.decode(codes[row : row + 1, :length], lens[row : row + 1])
        assert alone.shape == (1, int(alone_lens)) == (1, length * hop)
        torch.testing.assert_close(audio[row, : length * hop], alone[0], atol=1e-5, rtol=1e-5)
        assert not audio[row, length * hop :].any()


def test_rows_without_audio_have_no_frames(codec: Codec, speech: list[torch.Tensor]) -> None:
    audio, lens = batch_of([speech[0][:9000], speech[0][:0]])
    codes, codes_lens = codec.encode(audio, lens)
    assert codes_lens.tolist() == [math.ceil(9000 / codec.hop_samples), 0]
    assert codec.decode(codes, codes_lens)[1].tolist() == [int(codes_lens[0]) * codec.hop_samples, 0]


def test_invalid_lengths_and_codebooks_are_refused(codec: Codec) -> None:
    with pytest.raises(ValueError, match="audio_lens"):
        codec.encode(torch.zeros(1, 100), torch.tensor([101]))
    with pytest.raises(ValueError, match="codes_lens"):
        codec.decode(torch.zeros(1, 9, codec.num_codebooks, dtype=torch.long), torch.tensor([10]))
    with pytest.raises(ValueError, match="codebooks"):
        codec.decode(torch.zeros(1, 9, codec.num_codebooks + 1, dtype=torch.long), torch.tensor([9]))


def test_encodec_gives_the_packages_own_codes(standin: Path, speech: list[torch.Tensor]) -> None:
    codec = Encodec.load(standin)
    assert (codec.sample_rate_hz, codec.num_codebooks, codec.codebook_size) == (24000, 8, 1024)
    assert codec.frame_rate_hz == codec.model.frame_rate
    codec.model.set_target_bandwidth(6.0)
    whole = speech[0][: 60 * codec.hop_samples]
    for waveform, frames_compared in ((whole, 60), (whole[:-100], 59)):
        codes, _ = codec.encode(*batch_of([waveform]))
        with torch.no_grad():
            bare = codec.model.encode(waveform[None, None])[0][0].transpose(1, 2)
        assert codes.shape == bare.shape
        row = waveform[: frames_compared * codec.hop_samples]
        assert_same_codes(codec, row, codes[0, :frames_compared], bare[0, :frames_compared])


def test_a_codec_decodes_the_sum_of_its_vectors(standin: Path, mel_rvq: MelRVQ) -> None:
    encodec = Encodec.load(standin)
    net, settings = tiny_speech_net([torch.rand(8000)], 16000)
    learned = SpeechRVQ(net, settings)
    for codec in (encodec, mel_rvq, learned):
        assert codec.vectors.shape[:2] == (codec.num_codebooks, codec.codebook_size)
    generator = torch.Generator().manual_seed(0)

    def sums(codec: Codec) -> tuple[torch.Tensor, torch.Tensor]:
        codes = torch.randint(codec.codebook_size, (5, codec.num_codebooks), generator=generator)
        assert codec.vectors is not None
        return codes, torch.stack([codec.vectors[book, codes[:, book]] for book in range(codec.num_codebooks)]).sum(0)

    for codec in (encodec, mel_rvq, learned):
        rows = torch.stack([sums(codec)[0], sums(codec)[0]])
        lens = torch.tensor([5, 3])
        from_codes, from_codes_lens = codec.decode(rows, lens)
        from_vectors, from_vectors_lens = codec.decode_vectors(codec.sum_vectors(rows), lens)
        torch.testing.assert_close(from_vectors, from_codes)
        assert torch.equal(from_vectors_lens, from_codes_lens)

    codes, expected = sums(encodec)
    torch.testing.assert_close(encodec.model.quantizer.decode(codes.T[:, None])[0].T, expected)
    codes, expected = sums(learned)
    torch.testing.assert_close(learned.net.dequantize(codes), expected)


def test_the_standin_uses_its_codebooks(standin: Path, speech: list[torch.Tensor]) -> None:
    """On speech that it was not calibrated on."""
    codes, lens = Encodec.load(standin).encode(*batch_of(speech[4:]))
    for q in range(codes.shape[2]):
        distinct = set().union(*(row[:length, q].tolist() for row, length in zip(codes, lens.tolist(), strict=True)))
        assert len(distinct) >= 20


def test_mel_rvq_keeps_sound_and_level(mel_rvq: MelRVQ, speech: list[torch.Tensor]) -> None:
    codes, lens = mel_rvq.encode(*batch_of(speech[:3]))
    distance = []
    for num_quantizers in (1, 8):
        audio, _ = mel_rvq.decode(codes[:, :, :num_quantizers], lens)
        errors = []
        for waveform, decoded in zip(speech, audio, strict=False):
            num_samples = len(waveform) // mel_rvq.hop_samples * mel_rvq.hop_samples
            original, heard = (mel_rvq.analysis.log_mel(x[:num_samples]) for x in (waveform, decoded))
            errors.append((original - heard).square().mean().sqrt().item())
            level_db = 10 * torch.log10(decoded[:num_samples].square().mean() / waveform.square().mean())
            assert abs(level_db) < (1.5 if num_quantizers == 8 else 6)
        assert audio.abs().max() <= 1
        distance.append(max(errors))
    assert distance[1] < 0.7 * distance[0]
    assert distance[1] < 0.7


def test_loud_codes_do_not_clip(mel_rvq: MelRVQ) -> None:
    loud = MelRVQ(mel_rvq.codebooks + 1, mel_rvq.gains, mel_rvq.settings, RATE)
    audio, _ = loud.decode(torch.zeros(1, 10, 8, dtype=torch.long), torch.tensor([10]))
    assert 0.5 < audio.abs().max() <= 1


@pytest.mark.parametrize("num_frames", [1, 3, 30])
def test_mel_rvq_fits_few_frames(speech: list[torch.Tensor], num_frames: int) -> None:
    codec = MelRVQ.fit([speech[0][6000 : 6000 + 480 * num_frames]], tiny_mel_rvq(), RATE)
    codes, lens = codec.encode(*batch_of([speech[0][6000:12000]]))
    audio, _ = codec.decode(codes, lens)
    assert audio.isfinite().all()


def test_mel_rvq_fit_samples_all_of_the_corpus(speech: list[torch.Tensor]) -> None:
    """Codebooks of 100 frames out of many still fit the last waveform, and a second fit is equal."""
    quiet = [0.001 * waveform for waveform in speech[:4]]
    settings = tiny_mel_rvq(fit_frames=100)
    codec, again = (MelRVQ.fit([*quiet, speech[4]], settings, RATE) for _ in range(2))
    without = MelRVQ.fit(quiet, settings, RATE)
    assert codec.fingerprint() == again.fingerprint() != without.fingerprint()

    waveform = speech[4][: 80 * codec.hop_samples]

    def error(codec: MelRVQ) -> float:
        codes, _ = codec.encode(*batch_of([waveform]))
        coded = codec.codebooks[torch.arange(8), codes[0]].sum(1)
        return (codec.analysis.log_mel(waveform) - coded).square().mean().item()

    assert error(codec) < 0.5 * error(without)


@pytest.mark.parametrize(("rate_hz", "num_codebooks"), [(75.0, 2), (25.0, 3), (10.0, 9)])
def test_mel_rvq_has_the_requested_rate_and_codebooks(
    speech: list[torch.Tensor], rate_hz: float, num_codebooks: int
) -> None:
    settings = tiny_mel_rvq(frame_rate_hz=rate_hz, num_codebooks=num_codebooks)
    codec = MelRVQ.fit(speech[:2], settings, RATE)
    assert (codec.num_codebooks, codec.frame_rate_hz) == (num_codebooks, rate_hz)
    codes, lens = codec.encode(*batch_of(speech[:1]))
    assert codes.shape == (1, -(-len(speech[0]) // codec.hop_samples), num_codebooks)
    audio, _ = codec.decode(codes, lens)
    assert audio.isfinite().all() and audio.abs().max() > 0.01


@pytest.mark.parametrize("rate_hz", [75.0, 50.0, 25.0, 16.0, 10.0])
def test_every_sample_is_in_a_mel_frame(rate_hz: float) -> None:
    analysis = MelAnalysis(RATE, round(RATE / rate_hz), num_mels=80)
    silence = torch.zeros(4 * analysis.hop_samples)
    for place in range(1, len(silence), 149):
        click = silence.clone()
        click[place] = 1
        assert (analysis.log_mel(click) > analysis.log_mel(silence)).any()


def test_codebooks_of_another_version_are_fitted_again(speech: list[torch.Tensor], mel_rvq: MelRVQ, tmp_path) -> None:
    path = tmp_path / "mel_rvq.safetensors"
    save_file({"codebooks": mel_rvq.codebooks, "gains": mel_rvq.gains}, path, metadata={"format": "vallet-mel-rvq-1"})
    write_audio(tmp_path / "speech.wav", speech[0], RATE)
    row = SourceUtterance("u", str(tmp_path / "speech.wav"), "said", "s", "train")
    settings = settings_with(acoustic_token_extractor="MelRVQ")
    codec = prepare_codec(settings, tmp_path, ROOT, lambda: training_audio(settings, [row]), torch.device("cpu"))
    assert MelRVQ.load(path).fingerprint() == codec.fingerprint()


def test_a_saved_mel_rvq_loads_the_same(mel_rvq: MelRVQ, speech: list[torch.Tensor], tmp_path: Path) -> None:
    mel_rvq.save(tmp_path / "codec.safetensors")
    loaded = MelRVQ.load(tmp_path / "codec.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["codec.safetensors"]
    codes, lens = mel_rvq.encode(*batch_of(speech[:2]))
    assert torch.equal(codes, loaded.encode(*batch_of(speech[:2]))[0])
    assert torch.equal(mel_rvq.decode(codes, lens)[0], loaded.decode(codes, lens)[0])
    assert loaded.fingerprint() == mel_rvq.fingerprint()
    assert loaded.settings == mel_rvq.settings


def test_fingerprints_follow_what_determines_the_codes(mel_rvq: MelRVQ, standin: Path) -> None:
    changed = mel_rvq.codebooks.clone()
    changed[7, 0, 0] += 1
    other = MelRVQ(changed, mel_rvq.gains, mel_rvq.settings, RATE)
    slower = MelRVQ(mel_rvq.codebooks, mel_rvq.gains, tiny_mel_rvq(griffin_lim_iterations=99), RATE)
    assert other.fingerprint() != mel_rvq.fingerprint() == slower.fingerprint()

    codec = Encodec.load(standin)
    before = codec.fingerprint()
    assert before == Encodec.load(standin).fingerprint()
    codec.model.quantizer.vq.layers[8].codebook[0, 0] += 1
    assert codec.fingerprint() == before
    codec.model.quantizer.vq.layers[7].codebook[0, 0] += 1
    assert codec.fingerprint() != before


def test_build_codec_follows_the_settings(mel_rvq: MelRVQ, standin: Path, tmp_path: Path) -> None:
    fitted = tmp_path / "codec.safetensors"
    mel_rvq.save(fitted)
    cpu = torch.device("cpu")
    settings = settings_with(
        acoustic_token_extractor="MelRVQ", mel_rvq=tiny_mel_rvq(griffin_lim_iterations=1).model_dump()
    )
    coarse = build_codec(settings, fitted, ROOT, cpu)
    assert isinstance(coarse, MelRVQ)
    assert coarse.fingerprint() == mel_rvq.fingerprint()
    one_frame = torch.full((1, 20, 8), 3), torch.tensor([20])
    assert not torch.equal(coarse.decode(*one_frame)[0], mel_rvq.decode(*one_frame)[0])
    assert isinstance(build_codec(settings_with(codec_checkpoint=str(standin)), None, ROOT, cpu), Encodec)


def test_encodec_does_not_take_the_file_of_mel_rvq(mel_rvq: MelRVQ, standin: Path, tmp_path: Path) -> None:
    preprocess = load_settings(ROOT / "config" / "valle.json", Defaults, root=ROOT).preprocess
    settings = preprocess.model_copy(update={"codec_checkpoint": str(standin)})
    mel_rvq.save(tmp_path / "mel_rvq.safetensors")
    codec = prepare_codec(settings, tmp_path, ROOT, list, torch.device("cpu"))
    assert codec.fingerprint() == Encodec.load(standin).fingerprint()


def test_wrong_settings_are_one_clear_line(mel_rvq: MelRVQ, standin: Path, tmp_path: Path) -> None:
    fitted, cpu = tmp_path / "codec.safetensors", torch.device("cpu")
    mel_rvq.save(fitted)
    (tmp_path / "broken").write_bytes(b"no weights")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.th")
    own = {"acoustic_token_extractor": "MelRVQ"}
    cases = [
        (settings_with(**own), None, "acoustic_token_extractor.*run stage 1"),
        (settings_with(**own), tmp_path / "absent", "absent.*run stage 1"),
        (settings_with(**own), tmp_path / "broken", "broken.*run stage 1"),
        (settings_with(**own, sample_rate=16000), fitted, "preprocess.sample_rate.*24000"),
        (settings_with(**own, mel_rvq=tiny_mel_rvq(num_mels=90).model_dump()), fitted, "preprocess.mel_rvq.num_mels"),
        (settings_with(**own, mel_rvq=tiny_mel_rvq(frame_rate_hz=25.0).model_dump()), fitted, "mel_rvq.frame_rate_hz"),
        (settings_with(**own, mel_rvq=tiny_mel_rvq(num_codebooks=4).model_dump()), fitted, "mel_rvq.num_codebooks"),
        (settings_with(codec_checkpoint=str(standin), sample_rate=16000), None, "preprocess.sample_rate.*24000"),
        (settings_with(codec_checkpoint=str(tmp_path / "absent")), None, "preprocess.codec_checkpoint.*absent"),
        (settings_with(codec_checkpoint=str(tmp_path / "broken")), None, "preprocess.codec_checkpoint.*broken"),
        (settings_with(codec_checkpoint=str(tmp_path / "other.th")), None, "preprocess.codec_checkpoint.*other"),
    ]
    for settings, path, message in cases:
        with pytest.raises(UserError, match=message) as caught:
            build_codec(settings, path, ROOT, cpu)
        assert "\n" not in str(caught.value)


def test_wrong_fits_are_one_clear_line() -> None:
    with pytest.raises(UserError, match=r"preprocess.mel_rvq.frame_rate_hz: 70 "):
        MelRVQ.fit([torch.zeros(24000)], tiny_mel_rvq(frame_rate_hz=70.0), RATE)
    with pytest.raises(UserError, match="no audio"):
        MelRVQ.fit([torch.zeros(0)], tiny_mel_rvq(), RATE)


def test_a_failed_download_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The weights are at an address that does not exist."""
    monkeypatch.setattr("processors.codecs.encodec.WEIGHTS_URL", tmp_path.as_uri() + "/encodec_24khz-d7cc33bc.th")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"preprocess\.codec_checkpoint"):
        Encodec.load(None)


@pytest.fixture
def saved_speech_rvq(speech: list[torch.Tensor], tmp_path: Path) -> Path:
    save_net(*tiny_speech_net(speech[:6], RATE), tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


def test_speech_rvq_uses_the_first_codebooks(saved_speech_rvq: Path, speech: list[torch.Tensor]) -> None:
    settings = {"acoustic_token_extractor": "SpeechRVQ", "codec_checkpoint": str(saved_speech_rvq)}
    codecs = [
        build_codec(settings_with(**settings, speech_rvq={"num_codebooks": num}), None, ROOT, torch.device("cpu"))
        for num in (8, 3, None)
    ]
    assert [codec.num_codebooks for codec in codecs] == [8, 3, 8]
    assert codecs.pop().fingerprint() == codecs[0].fingerprint()
    assert codecs[0].fingerprint() != codecs[1].fingerprint()
    every, first = (codec.encode(*batch_of(speech[:2]))[0] for codec in codecs)
    assert torch.equal(every[..., :3], first)
    decoded = [codec.decode(first, torch.tensor([20, 20]))[0] for codec in codecs]
    assert torch.equal(*decoded)
    with pytest.raises(
        UserError, match=r"preprocess\.speech_rvq\.num_codebooks: 9 is more than the 8.*set it to one of 2 to 8"
    ):
        build_codec(settings_with(**settings, speech_rvq={"num_codebooks": 9}), None, ROOT, torch.device("cpu"))


def test_speech_rvq_keeps_its_fingerprint_when_the_decoder_changes(speech: list[torch.Tensor]) -> None:
    net, settings = tiny_speech_net(speech[:6], RATE)
    before = SpeechRVQ(net, settings).fingerprint()
    net.decoder.head.bias += 1
    assert SpeechRVQ(net, settings).fingerprint() == before
    net.encoder.embed.bias += 1
    assert SpeechRVQ(net, settings).fingerprint() != before


def test_an_experiments_own_speech_rvq_comes_first(saved_speech_rvq: Path, speech: list[torch.Tensor]) -> None:
    other = saved_speech_rvq.with_name("other.safetensors")
    save_net(*tiny_speech_net(speech[:6], RATE, seed=1), other)
    settings = settings_with(acoustic_token_extractor="SpeechRVQ", codec_checkpoint=str(saved_speech_rvq))
    own, named = (build_codec(settings, path, ROOT, torch.device("cpu")) for path in (other, None))
    assert own.fingerprint() == SpeechRVQ.load(other).fingerprint() != named.fingerprint()
    assert SpeechRVQ.weights_file(settings, ROOT) == saved_speech_rvq
    with pytest.raises(UserError, match=r"preprocess\.codec_checkpoint.*does not hold"):
        saved_speech_rvq.write_bytes(b"no weights")
        build_codec(settings, None, ROOT, torch.device("cpu"))


def test_the_short_time_transform_inverts_itself() -> None:
    transform = ShortTimeTransform(160)
    audio, lens = torch.randn(2, 20 * 160), torch.tensor([20, 11])
    audio[1, 11 * 160 :] = 0
    restored = transform.inverse(transform(audio), frame_mask(lens, 20))
    torch.testing.assert_close(restored[0], audio[0])
    torch.testing.assert_close(restored[1, : 11 * 160 - 320], audio[1, : 11 * 160 - 320])
