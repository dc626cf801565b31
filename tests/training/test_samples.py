"""Samples during training are bounded in memory, and a failing one does not end the training."""

from typing import Any

import numpy as np
import pytest
import torch

from models.valle.collate import Collator, PrefixMode
from models.valle.valle import VALLE
from processors.codecs.mel_rvq import MelRVQ
from processors.manifest import Utterance, list_shards, write_shard
from synthesis.synthesizer import Synthesizer
from tests.conftest import Messages, made_up_utterances, tiny_infer, tiny_model, tiny_train
from tests.support.tiny_trainer import TOKENIZER, build_data, build_trainer
from training import samples
from training.samples import SampleLogger
from utils.log import log


class Writer:
    """Keeps what a TensorBoard writer is given; fails where it is to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.images: dict[str, torch.Tensor] = {}
        self.error = error

    def add_image(self, name: str, image: torch.Tensor, step: int) -> None:
        if self.error is not None:
            raise self.error
        self.images[name] = image

    def add_audio(self, *_: object, **__: object) -> None:
        pass

    def add_text(self, *_: object) -> None:
        pass


def utterance(num_phones: int, num_frames: int) -> Utterance:
    rng = np.random.default_rng(0)
    phones = tuple(rng.choice(list("abcdefgh"), num_phones))
    codes = rng.integers(0, 20, (num_frames, 8)).astype(np.int16)
    return Utterance(id="long", text="long", phones=phones, speaker="s", codes=codes)


def build(codec: MelRVQ, utterances: list[Utterance], writer: Writer) -> SampleLogger:
    torch.manual_seed(0)
    model = VALLE(tiny_model(num_quantizers=8, audio_token_num=1024, text_token_num=64), train_stage=0)
    infer = tiny_infer(max_seconds_per_phone=0.04, top_k=1)
    return SampleLogger(Synthesizer(model, codec, TOKENIZER, infer, torch.device("cpu")), utterances, writer)


@pytest.mark.parametrize(("num_phones", "num_frames"), [(5, 700), (400, 20), (400, 700)])
def test_the_attention_picture_of_a_long_sample_is_cropped(
    codec: MelRVQ, num_phones: int, num_frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "PICTURE_POSITIONS", 100)
    writer, read = Writer(), []
    logger = build(codec, [utterance(num_phones, num_frames)], writer)
    logger.synthesizer.model.ar.decoder.layers[0].self_attn.weights = watching(
        logger.synthesizer.model.ar.decoder.layers[0].self_attn.weights, read
    )
    logger.log(1)
    [num_positions] = read
    assert num_positions == 100 and writer.images["sample/attention"].max() == 1


def watching(weights, read: list[int]):
    def watched(x: torch.Tensor, *others: Any) -> torch.Tensor:
        read.append(x.shape[1])
        return weights(x, *others)

    return watched


def test_the_bound_keeps_weights_below_a_gigabyte() -> None:
    """Scores and weights of 16 heads in a layer, and the means of 12 layers, in fp32."""
    assert 4 * samples.PICTURE_POSITIONS**2 * (3 * 16 + 12) < 2**30


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("out of memory"), RuntimeError("you tried to\nallocate")])
def test_a_sample_that_fails_is_a_warning_and_training_goes_on(
    codec: MelRVQ, error: Exception, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = Messages()
    monkeypatch.setattr(log, "handlers", [messages])
    write_shard(tmp_path / "shards", 0, made_up_utterances(12, num_quantizers=8), frame_rate_hz=25)
    shards = list_shards(tmp_path / "shards")
    settings = tiny_train(max_steps=3, valid_interval=1, save_checkpoint_steps=None)
    collator = Collator(8, PrefixMode.FIRST_FRAMES, 75, for_nar=True)
    data = build_data(shards, settings, collator, tokenizer=TOKENIZER)
    logger = build(codec, [utterance(5, 20)], Writer(error))
    trainer = build_trainer(logger.synthesizer.model, data, tmp_path / "run")
    trainer.samples = logger
    assert trainer.train() == 0 and trainer.progress.step == 3
    warnings = [text for text in messages.texts if "no sample" in text]
    assert len(warnings) == 3 and all("\n" not in warning for warning in warnings)


@pytest.mark.parametrize("is_training", [True, False])
def test_a_sample_leaves_the_model_in_its_mode(codec: MelRVQ, is_training: bool) -> None:
    for error in (None, RuntimeError("no")):
        logger = build(codec, [utterance(5, 20)], Writer(error))
        model = logger.synthesizer.model.train(is_training)
        logger.log(1)
        assert model.training == model.ar.decoder.layers[0].training == is_training
