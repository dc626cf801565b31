"""Recognizers, speaker models and DNSMOS; tiny models are saved in the formats of the real ones."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import transformers

import bins.evaluate
from evaluation.build import build_measures
from evaluation.dnsmos import build_dnsmos
from evaluation.measures import Clip, Target
from evaluation.recognizers import RATE_HZ, build_normalizer, build_recognizer
from evaluation.speakers import build_embedder
from processors.demo_corpus import VOICES
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
    words = [*"abcdefgh ", "Ġ", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = ["<|startoftranscript|>", "<|en|>", "<|translate|>", "<|transcribe|>", "<|notimestamps|>"]
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


def test_whisper_reads_audio_of_any_length_and_leaves_out_its_special_tokens(tmp_path: Path, noise: np.ndarray) -> None:
    recognizer = build_recognizer("whisper", str(save_whisper(tmp_path / "whisper-tiny")))
    assert recognizer.name == "whisper-tiny"
    model = recognizer._pipeline.model
    with torch.no_grad():
        # "b" wins at every position at which the timestamps' rules allow a letter.
        norm = model.model.decoder.layer_norm
        norm.weight.zero_()
        norm.bias.copy_(100 * model.proj_out.weight[recognizer._pipeline.tokenizer.convert_tokens_to_ids("b")])
    short = recognizer.transcribe(noise)
    assert set(short) == {"b"}
    # A window has 30 s; the others are not cut off.
    long = recognizer.transcribe(np.resize(noise, 100 * RATE_HZ))
    assert set(long) == {"b"} and len(long) > len(short)


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


def test_similarity_is_to_the_prompt_and_to_its_resynthesis(tmp_path: Path) -> None:
    for name, rate_hz in (("prompt", 24000), ("copy", 16000)):
        saved(tone(1.0, rate_hz) + np.random.default_rng(rate_hz).normal(0, 0.05, (rate_hz, 1)), rate_hz)(
            tmp_path / f"{name}.wav"
        )
    prompt, copy = (Clip(tmp_path / f"{name}.wav") for name in ("prompt", "copy"))
    measures, _ = build_measures("en-us", "hubert", str(tmp_path), str(save_wavlm(tmp_path / "wavlm")), None)
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
    assert {"wer", "sim_o", "mcd_db", "duration_ratio"} <= set(values)
    assert values["duration_ratio"].mean < 0.1


def test_models_run_on_the_given_device(tmp_path: Path, noise: np.ndarray) -> None:
    """The meta device, on which no model is by default."""
    hubert, wavlm = save_hubert(tmp_path / "hubert"), save_wavlm(tmp_path / "wavlm")
    measures, missing = build_measures("en-us", "hubert", str(hubert), str(wavlm), None, META)
    assert missing.keys() == {"DNSMOS"}
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
    def build(*arguments: object) -> None:
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
    assert measures.recognizer is measures.embedder is measures.dnsmos is None
    assert set(missing) == {"word error rate", "speaker similarity", "DNSMOS"}
    for metric, flag in (("word error rate", "--asr_model"), ("speaker similarity", "--speaker"), ("DNSMOS", "--dns")):
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
