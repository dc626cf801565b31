"""Changing any key of the settings changes something that can be observed."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.observations import (
    World,
    adapter,
    aligns,
    architecture,
    checkpoints,
    codec_in_use,
    coded_together,
    continued,
    cuts_beside,
    ended,
    events,
    features,
    folders,
    has_helpers,
    make_world,
    num_shards,
    reads_beside,
    recognizers,
    segments,
    speaking_layers,
    speech,
    splits,
    spoken_in_parts,
    spoken_together,
    streamed,
    training_layers,
    tried_together,
    weights,
)
from tests.support.tiny_runs import keys
from utils.errors import UserError


@dataclass(frozen=True)
class Row:
    """`observe` must see a difference where `key` is set to `value`, over what is `given` to both.

    In texts {root} is the folder of the world. `refused`: the other value is one clear error.
    """

    key: str
    value: Any
    observe: Callable[[World, dict[str, Any]], Any]
    given: dict[str, Any] = field(default_factory=dict)
    refused: bool = False


ONE_BATCH_EPOCHS = {"train.max_sentences": 20, "train.max_steps": None, "train.max_epoch": 4}
STEPS = {"train.save_checkpoint_steps": 1, "train.keep_last_steps": 3}
FIXED = {"train.use_dynamic_batchsize": False}
GREEDY = {"infer.top_k": 1, "infer.max_seconds_per_phone": 0.1}
REPEATING = {**GREEDY, "infer.repetition_window": 50, "infer.repetition_threshold": 0.0}
EPOCH = {"train.max_steps": None, "train.max_epoch": 1}
LEARNED = {
    "preprocess.acoustic_token_extractor": "SpeechRVQ",
    "preprocess.codec_checkpoint": "{root}/learned.safetensors",
}
ENCODEC = {
    "preprocess.acoustic_token_extractor": "Encodec",
    "preprocess.codec_checkpoint": "{root}/encodec.th",
}
ROWS = [
    Row("model_type", "FastSpeech2", architecture, refused=True),
    Row("dataset", ["custom", "ljspeech"], features, {"dataset_path": {"ljspeech": "{root}/LJSpeech-1.1"}}),
    Row("dataset_path", {"custom": "{root}/other_corpus"}, features),
    Row("log_dir", "experiments", folders),
    Row("recordings.speakers", "folder", segments),
    Row("recordings.max_voice_distance", 1e-6, segments),
    Row("recordings.vad_threshold", 0.95, segments),
    Row("recordings.cut_pause", 0.8, segments),
    Row("recordings.max_pause", 0.4, segments),
    Row("recordings.padding", 0.1, segments),
    Row("recordings.min_duration", 0.5, segments),
    Row("recordings.max_duration", 5, segments),
    Row("recordings.sample_rate", 16000, segments),
    Row("recordings.loudness_lufs", -30, segments),
    Row("recordings.audio_format", "wav", segments),
    Row("recordings.min_source_rate", 32000, segments),
    Row("recordings.min_snr_db", None, segments),
    Row("recordings.min_dnsmos", 3.2, segments),
    Row("recordings.min_characters_per_second", 25, segments),
    Row("recordings.max_characters_per_second", 5, segments),
    Row("recordings.languages", ["de"], segments),
    Row("recordings.min_language_probability", 0.95, segments),
    Row("recordings.min_log_probability", -0.1, segments),
    Row("recordings.min_duplicate_similarity", None, segments),
    Row("recordings.num_report_clips", 1, segments),
    Row("recordings.num_workers", 1, cuts_beside),
    Row("preprocess.processed_dir", "features", folders),
    Row("preprocess.phone_extractor", "graphemes", features),
    Row("preprocess.language", "de", features),
    Row(
        "preprocess.dataset_languages",
        {"custom": "de"},
        features,
        {"preprocess.language": "auto", "preprocess.dataset_languages": {"custom": "en"}},
    ),
    Row("preprocess.normalize_text", "none", features, {"dataset_path": {"custom": "{root}/written_corpus"}}),
    Row("preprocess.lexicon", "{root}/lexicon.tsv", features),
    Row("preprocess.symbol_table", "{root}/few.dict", features),
    Row("preprocess.add_blank", True, weights),
    Row("preprocess.add_blank", True, speech),
    Row(
        "preprocess.acoustic_token_extractor",
        "Encodec",
        features,
        {"preprocess.codec_checkpoint": "{root}/other.safetensors"},
        refused=True,
    ),
    Row("preprocess.codec_checkpoint", "{root}/other.safetensors", features),
    Row("preprocess.mel_rvq.frame_rate_hz", 50, features),
    Row("preprocess.mel_rvq.num_mels", 30, features),
    Row("preprocess.mel_rvq.num_codebooks", 4, features),
    Row("preprocess.mel_rvq.fit_frames", 100, features),
    Row("preprocess.mel_rvq.fit_iterations", 3, features),
    Row("preprocess.encodec_backend", "transformers", codec_in_use, ENCODEC),
    Row(
        "preprocess.num_codebooks",
        3,
        codec_in_use,
        {"preprocess.acoustic_token_extractor": "Dac", "preprocess.codec_checkpoint": "{root}/dac"},
    ),
    Row("preprocess.mel_rvq.griffin_lim_iterations", 5, speech),
    Row("preprocess.speech_rvq.num_codebooks", 3, features, {**LEARNED, "preprocess.speech_rvq.num_codebooks": 2}),
    Row("preprocess.sample_rate", 16000, features),
    Row("preprocess.min_duration", 1.2, features),
    Row("preprocess.max_duration", 1.2, features),
    Row("preprocess.valid_fraction", 0.5, splits),
    Row("preprocess.test_fraction", 0.5, splits),
    Row("preprocess.split_by", "speaker", splits),
    Row("preprocess.split_seed", 1, splits),
    Row("preprocess.shard_size", 2, num_shards),
    Row("preprocess.codec_batch_seconds", 3, coded_together),
    Row("preprocess.num_workers", 1, reads_beside),
    Row("model.decoder_dim", 24, architecture),
    Row("model.nhead", 4, weights),
    Row("model.num_decoder_layers", 2, architecture),
    Row("model.norm_first", False, architecture),
    Row("model.add_prenet", True, architecture),
    Row("model.dropout", 0.2, weights),
    Row("model.prefix_mode", 0, weights),
    Row("model.prefix_mode", 2, weights),
    Row("model.prefix_mode", 4, weights, {"model.prefix_mode": 2}),
    Row("model.prefix_mode", 0, speech),
    Row("model.prefix_mode", 4, speech),
    Row("model.share_embedding", False, architecture),
    Row("model.nar_scale_factor", 2, architecture),
    Row("model.nar_num_decoder_layers", 3, architecture),
    Row("model.prepend_bos", True, architecture),
    Row("model.group_size", 2, architecture),
    Row("model.num_quantizers", 4, architecture),
    Row("model.text_token_num", 80, architecture),
    Row("model.audio_token_num", 512, architecture),
    Row("train.batch_size", 2, weights, FIXED),
    Row("train.use_dynamic_batchsize", False, weights),
    Row("train.max_tokens", 120, weights),
    Row("train.max_tokens", "auto", weights, {"train.max_tokens": 120}),
    Row("train.max_tokens", "all", weights, refused=True),
    Row("train.max_sentences", 2, weights),
    Row("train.shards_per_pool", 1, weights),
    Row("train.dataset_weights", {"custom": 2}, checkpoints, EPOCH),
    Row("train.dataset_weights", {"vctk": 2}, weights, refused=True),
    Row("train.join_probability", 1, weights),
    Row("train.audio_token_dropout", 0.5, weights),
    Row("train.condition_dropout", 0.5, weights),
    Row("train.init_from_codec", True, weights, {"model.share_embedding": False}),
    Row("train.init_from_codec", True, weights, refused=True),
    Row("train.init_nar_from_ar", True, weights, refused=True),
    Row("train.lora.rank", 2, adapter, {"train.lora.rank": 1}),
    Row("train.lora.rank", 2, weights, refused=True),
    Row("train.lora.alpha", 1, adapter, {"train.lora.rank": 1}),
    Row("train.lora.targets", ["linear1"], adapter, {"train.lora.rank": 1}),
    Row("train.ema_decay", 0.5, weights),
    Row("train.max_epoch", 2, checkpoints, EPOCH),
    Row("train.max_steps", 2, checkpoints),
    Row("train.optimizer", "Adam", weights),
    Row("train.adamw.betas", [0.9, 0.999], weights),
    Row("train.adamw.weight_decay", 0.1, weights),
    Row("train.base_lr", 2e-2, weights),
    Row("train.scheduler", "noam", weights),
    Row("train.scheduler", "eden", weights),
    Row("train.warmup_steps", 3, weights),
    Row("train.total_training_steps", 10, weights),
    Row("train.gradient_clip_norm", 0.1, weights),
    Row("train.gradient_accumulation_step", 2, weights),
    Row("train.precision", "bf16", weights),
    Row("train.precision", "fp16", weights, refused=True),
    Row("train.save_checkpoint_stride", [2], checkpoints, ONE_BATCH_EPOCHS),
    Row("train.keep_last", [2], checkpoints, ONE_BATCH_EPOCHS),
    Row("train.save_checkpoint_steps", 1, checkpoints),
    Row("train.keep_last_steps", 1, checkpoints, STEPS),
    Row("train.valid_interval", 2, events),
    Row("train.valid_max_batches", 1, events, {**FIXED, "train.batch_size": 1, "train.valid_interval": 2}),
    Row("train.log_interval", 2, events),
    Row("train.random_seed", 1, weights),
    Row("train.tracker", [], events),
    Row("train.dataloader.num_worker", 1, has_helpers(weights)),
    Row("train.compile", True, training_layers),
    Row("train.activation_checkpointing", True, training_layers),
    Row("infer.precision", "bf16", speaking_layers),
    Row("infer.precision", "int8", speaking_layers, {"infer.precision": "bf16"}),
    Row("infer.top_k", 5, speech),
    Row("infer.top_p", 0.5, speech),
    Row("infer.temperature", 2, speech),
    Row("infer.seed", 1, speech),
    Row("infer.guidance", 10, speech, {"train.condition_dropout": 0.1}),
    Row("infer.guidance", 3, speech, refused=True),
    Row("infer.repetition_window", 0, speech, REPEATING),
    Row("infer.repetition_threshold", 1, speech, REPEATING),
    Row("infer.min_seconds_per_phone", 0.03, ended),
    Row("infer.max_seconds_per_phone", 0.1, speech),
    Row("infer.min_seconds", 0.3, ended),
    Row("infer.slack_seconds", 0.2, speech),
    Row("infer.max_tries", 1, speech),
    Row("infer.continual_prompt_seconds", 0.7, continued),
    Row("infer.max_batch_size", 2, spoken_together),
    Row("infer.nar_decoding", "expected", speech),
    Row("infer.num_candidates", 2, tried_together),
    Row("infer.rank_by", "coverage", tried_together, {"infer.num_candidates": 2}),
    Row("infer.asr", "hubert", recognizers, {"infer.num_candidates": 2, "infer.rank_by": "asr"}),
    Row("infer.asr_model", "./none", recognizers, {"infer.num_candidates": 2, "infer.rank_by": "asr"}),
    Row("infer.word_times", False, aligns),
    Row("infer.max_part_seconds", 0.4, speech),
    Row("infer.max_total_seconds", 1, speech),
    Row("infer.stream_first_frames", 10, streamed),
    Row("infer.context", "previous", spoken_in_parts, {"infer.max_part_seconds": 0.4}),
    Row("infer.speed", 2, spoken_in_parts),
    Row("infer.loudness_lufs", -40, spoken_in_parts),
    Row("infer.vocoder", "vocos", codec_in_use, {**ENCODEC, "infer.vocoder_checkpoint": "{root}/vocos"}),
    Row(
        "infer.vocoder_checkpoint",
        "{root}/other_vocos",
        codec_in_use,
        {**ENCODEC, "infer.vocoder": "vocos", "infer.vocoder_checkpoint": "{root}/vocos"},
    ),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    make_world(root)
    return root


@pytest.fixture(scope="module")
def seen() -> dict[Any, Any]:
    """Observations without the change, which many rows share."""
    return {}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.key}={row.value}")
def test_a_change_can_be_observed(row: Row, root: Path, tmp_path: Path, seen: dict[Any, Any]) -> None:
    def observe(folder: str, changes: dict[str, Any]) -> Any:
        placed = json.loads(json.dumps(changes).replace("{root}", str(root)))
        (tmp_path / folder).mkdir()
        return row.observe(World(root, tmp_path / folder), placed)

    name = row.observe, json.dumps(row.given)
    if name not in seen:
        seen[name] = observe("first", row.given)
        # What differs by itself would show nothing.
        assert observe("second", row.given) == seen[name]
    changed = {**row.given, row.key: row.value}
    if row.refused:
        with pytest.raises(UserError, match=row.key.split(".")[0]):
            observe("changed", changed)
    else:
        assert observe("changed", changed) != seen[name]


def test_every_key_has_a_row() -> None:
    assert sorted({row.key for row in ROWS}) == sorted(key for key, _ in keys())
