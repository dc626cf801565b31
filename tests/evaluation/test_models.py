"""Recognizers, speaker models and DNSMOS; tiny models are saved in the formats of the real ones."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
import transformers
from tokenizers.pre_tokenizers import ByteLevel

import bins.evaluate
from benchmarks.synthetic_corpus import VOICES
from evaluation.build import build_measures
from evaluation.dnsmos import build_dnsmos
from evaluation.ge2e import Ge2eEncoder, mel_windows
from evaluation.measures import Clip, Target
from evaluation.normalizers import build_normalizer
from evaluation.recognizers import (
    CPU,
    RATE_HZ,
    FasterWhisper,
    Transformers,
    build_recognizer,
    whisper_backend,
    whisper_language,
)
from evaluation.speakers import build_embedder
from processors.espeak_speech import SAMPLE_RATE_HZ, render
from tests.conftest import TEST_DATA, requires
from tests.support.hostile import saved, tone
from utils.audio import read_audio
from utils.errors import UserError

SPEECH, DNSMOS = TEST_DATA / "speech", TEST_DATA / "metrics" / "dnsmos"
META = torch.device("meta")
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "conv_dim": (8, 8),
    "conv_stride": (10, 8),
    "conv_kernel": (10, 8),
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
}
WORDS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefgh"]


def save_hubert(folder: Path) -> Path:
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(WORDS)}))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    features = transformers.Wav2Vec2FeatureExtractor()
    transformers.Wav2Vec2Processor(features, tokenizer).save_pretrained(folder)
    transformers.HubertForCTC(transformers.HubertConfig(vocab_size=len(WORDS), **SMALL)).save_pretrained(folder)
    return folder


def save_whisper(folder: Path) -> Path:
    folder.mkdir()
    words = [*sorted(ByteLevel.alphabet()), "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tasks = ["translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps"]
    special = [f"<|{name}|>" for name in ["startoftranscript", "en", *tasks]]
    tokenizer = transformers.WhisperTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    tokenizer.add_tokens([f"<|{0.02 * step:.2f}|>" for step in range(1501)])
    ids = {word: tokenizer.convert_tokens_to_ids(word) for word in ["<|endoftext|>", *special]}
    config = transformers.WhisperConfig(
        vocab_size=len(tokenizer),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        decoder_start_token_id=ids["<|startoftranscript|>"],
        eos_token_id=ids["<|endoftext|>"],
        pad_token_id=ids["<|endoftext|>"],
        bos_token_id=ids["<|endoftext|>"],
    )
    model = transformers.WhisperForConditionalGeneration(config)
    model.generation_config = transformers.GenerationConfig(
        decoder_start_token_id=ids["<|startoftranscript|>"],
        eos_token_id=ids["<|endoftext|>"],
        pad_token_id=ids["<|endoftext|>"],
        no_timestamps_token_id=ids["<|notimestamps|>"],
        lang_to_id={"<|en|>": ids["<|en|>"]},
        task_to_id={"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]},
        is_multilingual=True,
        max_new_tokens=8,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    transformers.WhisperFeatureExtractor().save_pretrained(folder)
    return folder


def save_wavlm(folder: Path) -> Path:
    config = transformers.WavLMConfig(
        tdnn_dim=(8, 8), tdnn_kernel=(3, 1), tdnn_dilation=(1, 1), xvector_output_dim=8, **SMALL
    )
    transformers.WavLMForXVector(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return folder


def save_ge2e(path: Path) -> Path:
    """A checkpoint in Resemblyzer's format, which has the parameters of training's similarities beside the encoder."""
    similarities = {"similarity_weight": torch.ones(1), "similarity_bias": torch.zeros(1)}
    # With small weights all audio would have the embedding that the biases give.
    weights = Ge2eEncoder().state_dict()
    for name in weights:
        if "weight_ih" in name:
            weights[name] *= 10
    torch.save({"step": 1, "model_state": weights | similarities}, path)
    return path


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, RATE_HZ).astype(np.float32)


def test_a_ctc_model_merges_the_frames_of_a_letter(tmp_path: Path, noise: np.ndarray) -> None:
    recognizer = build_recognizer("hubert", str(save_hubert(tmp_path / "hubert-tiny")))
    assert recognizer.name == "hubert-tiny"
    head = recognizer._pipeline.model.lm_head
    with torch.no_grad():
        # "c" wins in every frame.
        head.weight.zero_()
        head.bias.copy_(torch.eye(len(WORDS))[WORDS.index("c")])
    assert recognizer.transcribe(noise) == "c"


@pytest.fixture(scope="module")
def whisper_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Whisper model to which "b" is the likeliest token everywhere."""
    folder = save_whisper(tmp_path_factory.mktemp("whisper") / "whisper-tiny")
    model = transformers.WhisperForConditionalGeneration.from_pretrained(folder)
    tokenizer = transformers.WhisperTokenizer.from_pretrained(folder)
    with torch.no_grad():
        norm, rows = model.model.decoder.layer_norm, model.proj_out.weight
        norm.weight.zero_()
        # All logits are 0, but that of "b" is 100.
        norm.bias.copy_(100 * torch.eye(1, len(norm.bias))[0])
        rows[:, 0] = torch.eye(len(rows))[tokenizer.convert_tokens_to_ids("b")]
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def converted_folder(whisper_folder: Path) -> Path:
    """The same model in the format of faster-whisper."""
    pytest.importorskip("faster_whisper")
    from ctranslate2.converters import TransformersConverter

    folder = whisper_folder.with_name("whisper-converted")
    TransformersConverter(str(whisper_folder), copy_files=["tokenizer.json"]).convert(str(folder))
    return folder


@pytest.mark.parametrize(
    ("fixture", "backend"), [("whisper_folder", "transformers"), ("converted_folder", "faster-whisper")]
)
def test_whisper_reads_audio_of_any_length_and_leaves_out_its_special_tokens(
    fixture: str, backend: str, noise: np.ndarray, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(fixture)
    recognizer = build_recognizer("whisper", str(folder), language="en-us")
    assert (recognizer.name, recognizer.backend) == (folder.name, backend)
    short = recognizer.transcribe(noise)
    assert set(short) == {"b"}
    # A window has 30 s; the others are not cut off.
    long = recognizer.transcribe(np.resize(noise, 100 * RATE_HZ))
    assert set(long) == {"b"} and len(long) > len(short)


def test_english_only_whisper_is_told_no_language(tmp_path: Path, whisper_folder: Path, noise: np.ndarray) -> None:
    folder = Path(shutil.copytree(whisper_folder, tmp_path / "whisper-tiny.en"))
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(settings | {"is_multilingual": False}))
    assert set(build_recognizer("whisper", str(folder), language="en-us").transcribe(noise)) == {"b"}


def test_whisper_is_told_languages_that_it_knows(whisper_folder: Path, converted_folder: Path) -> None:
    known = ["en", "de", "zh", "no"]
    codes = {"en-us": "en", "de": "de", "cmn": "zh", "nb": "no", "EN_GB": "en", "eu": None, "": None, None: None}
    assert {language: whisper_language(language, known) for language in codes} == codes
    for language, code in (("en-gb", "en"), ("de", None)):
        options = build_recognizer("whisper", str(whisper_folder), language=language)._options
        assert options["generate_kwargs"].get("language") == code
        assert build_recognizer("whisper", str(converted_folder), language=language)._language == code


def test_a_folder_of_either_format_runs_and_other_folders_are_one_line(
    tmp_path: Path, whisper_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"--asr_model .*none: no such folder$"):
        build_recognizer("whisper", str(tmp_path / "none"))
    (tmp_path / "model.bin").touch()
    with pytest.raises(UserError, match=r"--asr_model .*: no Whisper model; give"):
        build_recognizer("whisper", str(tmp_path))
    (tmp_path / "tokenizer.json").touch()
    # What find_spec sees is all that matters: an installed package, and then a missing one.
    monkeypatch.setattr("evaluation.recognizers.find_spec", lambda name: object())
    monkeypatch.setattr("evaluation.recognizers.ctranslate2_has_cuda", lambda: False)
    assert [whisper_backend(source, CPU) for source in (str(tmp_path), "base", None)] == [FasterWhisper] * 3
    assert whisper_backend(str(whisper_folder), CPU) is Transformers
    # On a GPU that faster-whisper cannot use, the default model runs through transformers.
    assert whisper_backend(None, torch.device("cuda")) is Transformers
    monkeypatch.setattr("evaluation.recognizers.find_spec", lambda name: None)
    assert [whisper_backend(source, CPU) for source in (str(whisper_folder), None)] == [Transformers] * 2
    for source in (str(tmp_path), "base"):
        with pytest.raises(UserError, match=f"--asr_model {source}: .*; pip install faster-whisper$"):
            build_recognizer("whisper", source)


def test_a_damaged_model_of_faster_whisper_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("faster_whisper")
    for name in ("model.bin", "tokenizer.json", "config.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=r"whisper cannot be loaded .*--asr_model") as raised:
        build_recognizer("whisper", str(tmp_path))
    assert "\n" not in str(raised.value)


def test_the_default_recognizer_needs_no_download_and_recognizes_words(tmp_path: Path) -> None:
    name = bins.evaluate.parse(["--test_list_file", "x", "--audio_dir", "y", "--eval_output_dir", "z"]).asr
    soundfile.write(tmp_path / "five.wav", render("One two three four five.", VOICES[0]), SAMPLE_RATE_HZ)
    recognizer = build_recognizer(name, None)
    assert recognizer.name == "PocketSphinx"
    words = recognizer.transcribe(read_audio(tmp_path / "five.wav", RATE_HZ).numpy()).split()
    assert len({"one", "two", "three", "four", "five"} & set(words)) >= 3


@requires(SPEECH / "LibriSpeech")
def test_pocketsphinx_recognizes_a_human() -> None:
    [row, *_] = sorted((SPEECH / "LibriSpeech" / "test-other").rglob("*.trans.txt"))
    lines = dict(line.split(" ", 1) for line in row.read_text().splitlines())
    name = "1688-142285-0003"
    audio = read_audio(row.with_name(f"{name}.flac"), RATE_HZ).numpy()
    normalize = build_normalizer("en-us")
    found = normalize(build_recognizer("pocketsphinx", None).transcribe(audio)).split()
    wanted = normalize(lines[name]).split()
    assert len(set(found) & set(wanted)) > len(set(wanted)) / 2


def test_different_audio_has_different_embeddings(tmp_path: Path, noise: np.ndarray) -> None:
    embedder = build_embedder(str(save_wavlm(tmp_path / "wavlm")))
    first, same, other = (embedder.embed(audio) for audio in (noise, noise, np.sign(noise)[::-1].copy()))
    assert np.linalg.norm(first) == pytest.approx(1, abs=1e-5)
    assert first @ same == pytest.approx(1, abs=1e-5) and first @ other < 1 - 1e-5


def test_the_windows_of_ge2e_are_mel_energies_without_silence_and_at_a_level(noise: np.ndarray) -> None:
    speech = np.concatenate([noise, noise[::-1]])
    windows = mel_windows(speech)
    energies = torchaudio.transforms.MelSpectrogram(
        RATE_HZ, 400, hop_length=160, n_mels=40, norm="slaney", mel_scale="slaney", pad_mode="constant"
    )(torch.from_numpy(speech.copy()))
    # 2 s are 201 frames: one window of 160, and not a second one 80 frames later.
    torch.testing.assert_close(windows, energies.T[None, :160], rtol=1e-3, atol=1e-4)
    assert len(mel_windows(np.tile(speech, 2))) == (401 - 160) // 80 + 1
    silence = np.zeros(RATE_HZ, np.float32)
    assert len(mel_windows(np.concatenate([silence, speech, silence]))) < len(mel_windows(np.tile(speech, 2)))
    torch.testing.assert_close(mel_windows(0.01 * speech), mel_windows(0.001 * speech), rtol=1e-2, atol=1e-6)
    assert mel_windows(noise[:1000]).shape == mel_windows(silence[:1]).shape == (1, 160, 40)


def test_an_embedding_of_ge2e_is_the_mean_over_windows(tmp_path: Path, noise: np.ndarray) -> None:
    encoder = torch.load(save_ge2e(tmp_path / "speaker.pt"), weights_only=True)["model_state"]
    embedder = build_embedder(str(tmp_path / "speaker.pt"))
    assert embedder.name == "speaker.pt"
    speech = np.concatenate([noise, np.sign(noise), noise])
    windows = mel_windows(speech)
    lstm = torch.nn.LSTM(40, 256, 3, batch_first=True)
    lstm.load_state_dict({name.removeprefix("lstm."): value for name, value in encoder.items() if "lstm" in name})
    mean = torch.zeros(256)
    for window in windows:
        state = lstm(window[None])[1][0][-1, 0]
        embedding = torch.relu(encoder["linear.weight"] @ state + encoder["linear.bias"])
        mean += embedding / embedding.norm() / len(windows)
    assert len(windows) > 1 and embedder.embed(speech) == pytest.approx((mean / mean.norm()).detach().numpy(), abs=1e-5)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no checkpoint", "no checkpoint of tensors alone"),
        ({"model_state": print}, "no checkpoint of tensors alone"),
        ({"weight": torch.zeros(1)}, "has no model_state"),
        ({"model_state": {"lstm.weight_ih_l0": torch.zeros(1024, 40)}}, "not that of a GE2E encoder"),
        ({"model_state": {**Ge2eEncoder().state_dict(), "linear.bias": torch.zeros(3)}}, "not that of a GE2E encoder"),
        ({"model_state": {1: 2}}, "not that of a GE2E encoder"),
    ],
)
def test_a_file_that_is_no_ge2e_encoder_is_one_line(tmp_path: Path, content: object, words: str) -> None:
    path = tmp_path / "speaker.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(UserError, match=f"{path}: .*{words}.*--speaker_model") as raised:
        build_embedder(str(path))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("save", [save_wavlm, save_ge2e])
def test_similarity_is_to_the_prompt_and_to_its_resynthesis(tmp_path: Path, save: Callable[[Path], Path]) -> None:
    for name, rate_hz in (("prompt", 24000), ("copy", 16000)):
        saved(tone(2.0, rate_hz) + np.random.default_rng(rate_hz).normal(0, 0.05, (2 * rate_hz, 1)), rate_hz)(
            tmp_path / f"{name}.wav"
        )
    prompt, copy = (Clip(tmp_path / f"{name}.wav") for name in ("prompt", "copy"))
    measures, _ = build_measures("en-us", "hubert", str(tmp_path), str(save(tmp_path / "speaker")), None)
    values, _ = measures.measure(prompt, Target("hello", prompt, copy, None))
    assert values["sim_o"].mean == pytest.approx(1, abs=1e-5) and values["sim_r"].mean < 1 - 1e-5


@pytest.mark.parametrize("num_samples", [1, 100, 1000])
def test_a_clip_of_any_length_is_measured(tmp_path: Path, num_samples: int) -> None:
    long, short = tmp_path / "long.wav", tmp_path / "short.wav"
    saved(tone(1.0, 24000), 24000)(long)
    saved(tone(1.0, 24000)[1 : 1 + num_samples], 24000)(short)
    hubert, wavlm = save_hubert(tmp_path / "hubert"), save_wavlm(tmp_path / "wavlm")
    measures, _ = build_measures("en-us", "hubert", str(hubert), str(wavlm), None)
    values, _ = measures.measure(Clip(short), Target("hello", Clip(long), None, Clip(long)))
    assert {"wer", "cer", "sim_o", "mcd_db", "duration_ratio"} <= set(values)
    assert values["duration_ratio"].mean < 0.1


def test_models_run_on_the_given_device(tmp_path: Path, noise: np.ndarray) -> None:
    """The meta device, on which no model is by default."""
    hubert, wavlm = save_hubert(tmp_path / "hubert"), save_wavlm(tmp_path / "wavlm")
    measures, missing = build_measures("en-us", "hubert", str(hubert), str(wavlm), None, META)
    assert missing.keys() == {"DNSMOS", "UTMOS"}
    seen: list[torch.device] = []

    def note(module: torch.nn.Module, arguments: tuple, named: dict[str, torch.Tensor]) -> None:
        seen.append(named["input_values"].device)

    for model, measure in (
        (measures.recognizer._pipeline.model, measures.recognizer.transcribe),
        (measures.embedder._model, measures.embedder.embed),
    ):
        assert {parameter.device for parameter in model.parameters()} == {META}
        model.register_forward_pre_hook(note, with_kwargs=True)
        # The output cannot be copied from the meta device to the CPU.
        with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
            measure(noise)
    assert seen == [META, META]


def test_stage_4_measures_on_the_default_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*arguments: object, **named: object) -> None:
        assert arguments[-1] == META
        raise UserError("called")

    monkeypatch.setattr("utils.device.pick_device", lambda: META)
    monkeypatch.setattr("evaluation.build.build_measures", build)
    saved(tone(0.5, RATE_HZ), RATE_HZ)(tmp_path / "prompt.wav")
    (tmp_path / "list.txt").write_text(f"a text|a prompt|{tmp_path / 'prompt.wav'}\n")
    flags = ["--test_list_file", str(tmp_path / "list.txt"), "--audio_dir", str(tmp_path)]
    with pytest.raises(UserError, match=r"^called$"):
        bins.evaluate.main([*flags, "--eval_output_dir", str(tmp_path / "out")])


def test_missing_models_are_named_and_stop_nothing(tmp_path: Path) -> None:
    measures, missing = build_measures("en-us", "hubert", str(tmp_path), str(tmp_path / "none"), tmp_path)
    assert measures.recognizer is measures.embedder is measures.dnsmos is measures.utmos is None
    flags = {"WER and CER": "--asr_model", "speaker similarity": "--speaker", "DNSMOS": "--dns", "UTMOS": "--utmos"}
    assert set(missing) == set(flags)
    for metric, flag in flags.items():
        assert flag in missing[metric] and "\n" not in missing[metric]
    assert "--speaker_model" in build_measures("en", "pocketsphinx", None, None, None)[1]["speaker similarity"]


@requires(DNSMOS)
@requires(SPEECH / "LJSpeech-1.1")
def test_clean_speech_is_rated_above_noisy_speech() -> None:
    speech = sorted((SPEECH / "LJSpeech-1.1" / "wavs").glob("*.wav"))
    dnsmos = build_dnsmos(DNSMOS)
    clean = read_audio(speech[0], RATE_HZ).numpy()[: 3 * RATE_HZ]
    noisy = clean + np.random.default_rng(0).normal(0, 0.05, len(clean)).astype(np.float32)
    ratings = dnsmos.rate(clean)
    assert all(1 <= rating <= 5 for rating in ratings)
    assert all(good > bad for good, bad in zip(ratings, dnsmos.rate(noisy), strict=True))
    with pytest.raises(UserError, match="--dnsmos_dir"):
        build_dnsmos(DNSMOS.parent)
