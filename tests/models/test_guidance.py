"""Classifier-free guidance of the AR: texts that are dropped in training, and decoding with and without a text."""

import json
from dataclasses import replace

import pytest
import torch

from config.schema import Settings
from models.contract import Example, TokenizedRequest
from models.experiment import check_guidance
from models.valle.ar import AR
from models.valle.collate import ValleBatch
from models.valle.generate import ARGenerator
from models.valle.valle import VALLE
from modules.sampling import TokenSampler
from tests.conftest import ROOT, made_up_utterances, tiny_model
from tests.models.test_valle import CODES_LENS, TEXT_LENS, VARIANTS, Recorder, padded
from tests.support.tiny_trainer import COLLATOR, TABLE
from utils.config import load_settings
from utils.errors import UserError


@pytest.fixture(params=VARIANTS, ids=lambda changes: "-".join(changes) or "default")
def pair(request) -> VALLE:
    pair = VALLE(tiny_model(**request.param)).eval()
    for parameter in pair.parameters():
        # Zero biases and unit scales would hide mistakes.
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.3)
    return pair


@pytest.fixture
def rows() -> list[tuple[torch.Tensor, torch.Tensor]]:
    lens = zip(TEXT_LENS, CODES_LENS, strict=True)
    return [(torch.randint(3, 32, (text,)), torch.randint(0, 20, (frames, 4))) for text, frames in lens]


@pytest.fixture
def prompted(pair, rows) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The rows with codes that are full groups, as those of prompts are."""
    size = pair.ar.group_size
    return [(text, codes[: len(codes) // size * size]) for text, codes in rows]


def batch_of(num: int) -> ValleBatch:
    return COLLATOR([Example(tuple(TABLE.encode(u.phones, False)), u.codes) for u in made_up_utterances(num)], None)


@torch.inference_mode()
def test_a_dropped_text_is_one_without_phones(pair, rows) -> None:
    text, text_lens, codes, codes_lens = padded(rows)
    is_dropped = torch.tensor([True, False, True])
    dropped, lens = pair.ar.drop_text(text, text_lens, is_dropped)
    assert lens.tolist() == [2, int(text_lens[1]), 2]
    found = pair.ar(dropped, lens, codes[..., 0], codes_lens)
    for row, (own_text, own_codes) in enumerate(rows):
        own_text = own_text[[0, -1]] if is_dropped[row] else own_text
        own_lens = torch.tensor([len(own_text)]), torch.tensor([len(own_codes)])
        alone = pair.ar(own_text[None], own_lens[0], own_codes[None, :, 0], own_lens[1])[0]
        assert torch.allclose(found[row, : len(alone)], alone, atol=1e-5)


def test_training_drops_the_texts_of_the_ar_alone() -> None:
    model = VALLE(tiny_model(), train_stage=0).train()
    batch = batch_of(4)
    shuffled = replace(batch, text=torch.where(batch.text > 2, 35 - batch.text - 6, batch.text))
    assert not torch.equal(batch.text, shuffled.text)

    def losses(batch: ValleBatch, probability: float) -> dict[str, float]:
        return {name: float(sums.loss_sum.detach()) for name, sums in model(batch, 0.0, probability).items()}

    plain, dropped = losses(batch, 0), losses(batch, 1)
    assert losses(shuffled, 1)["ar"] == dropped["ar"] != plain["ar"] != losses(shuffled, 0)["ar"]
    assert {name: value for name, value in dropped.items() if name != "ar"} == {
        name: value for name, value in plain.items() if name != "ar"
    }
    # Each row is dropped or not: the sum of the rows' losses lies between.
    torch.manual_seed(0)
    some = {losses(batch, 0.5)["ar"] for _ in range(20)}
    assert len(some) > 5
    model.eval()
    assert losses(batch, 1)["ar"] == plain["ar"]


def test_without_condition_dropout_nothing_is_drawn() -> None:
    model = VALLE(tiny_model(), train_stage=0).train()
    state = torch.get_rng_state()
    model(batch_of(3), 0.0, 0.0)
    assert torch.equal(state, torch.get_rng_state())


@torch.inference_mode()
def uncached(
    ar: AR, text: torch.Tensor, prompt: torch.Tensor, num: int, guidance: float
) -> tuple[list[int], list[torch.Tensor]]:
    """Greedy guided codes and their logits, from the full sequences with and without the text at each step."""
    codes, all_logits = prompt, []
    while True:
        both = []
        for ids in (text, text[[0, -1]]):
            lens = torch.tensor([len(ids)]), torch.tensor([len(codes)])
            both.append(ar(ids[None], lens[0], codes[None], lens[1])[0, -ar.group_size :])
        for logits in both[1] + guidance * (both[0] - both[1]):
            if len(codes) == len(prompt):
                logits[ar.eos_id] = -torch.inf
            all_logits.append(logits)
            if logits.argmax() == ar.eos_id:
                return codes[len(prompt) :].tolist(), all_logits
            codes = torch.cat([codes, logits.argmax()[None]])
            if len(codes) == len(prompt) + num:
                return codes[len(prompt) :].tolist(), all_logits


def generate(pair: VALLE, rows, sampler: TokenSampler, caps: list[int]) -> list[list[int]]:
    text, text_lens, codes, codes_lens = padded(rows)
    limits = torch.ones(len(rows), dtype=torch.long), torch.tensor(caps)
    seeds = [7 + row % 2 for row in range(len(rows))]
    found = ARGenerator(pair.ar).generate(text, text_lens, codes[..., 0], codes_lens, sampler, seeds, *limits)
    return [row.codes[:, 0].tolist() for row in found]


def test_guided_and_cached_equals_uncached_alone_and_in_a_batch(pair, prompted) -> None:
    caps = [20, 9, 14]
    plain, guided = Recorder(top_k=1), Recorder(top_k=1, guidance=2.5)
    together = generate(pair, prompted, guided, caps)
    for row, (text, codes) in enumerate(prompted):
        wanted, all_logits = uncached(pair.ar, text, codes[:, 0], caps[row], 2.5)
        assert together[row] == wanted
        for (logits, _), expected in zip(guided.seen, all_logits, strict=False):
            assert torch.allclose(logits[row], expected, atol=1e-4)
    generate(pair, prompted, plain, caps)
    assert not torch.allclose(guided.seen[0][0], plain.seen[0][0], atol=1e-3)


def test_a_guided_sampled_batch_equals_each_alone(pair, prompted) -> None:
    sampler = TokenSampler(top_p=0.9, repetition_window=5, guidance=2)
    together = generate(pair, prompted, sampler, [12, 12, 12])
    for row, own in enumerate(prompted):
        text, codes = own
        lens = torch.tensor([len(text)]), torch.tensor([len(codes)])
        limits = torch.tensor([1]), torch.tensor([12])
        arguments = (text[None], lens[0], codes[None, :, 0], lens[1], sampler, [7 + row % 2])
        [alone] = ARGenerator(pair.ar).generate(*arguments, *limits)
        assert together[row] == alone.codes[:, 0].tolist()


def test_guidance_of_1_changes_nothing_and_reads_no_second_row(pair, prompted) -> None:
    read: list[int] = []
    embed_audio = pair.ar.embed_audio

    def noted(codes, first=None):
        read.append(len(codes))
        return embed_audio(codes, first)

    pair.ar.embed_audio = noted
    plain, off, on = Recorder(), Recorder(guidance=1.0), Recorder(guidance=1.5)
    found = [generate(pair, prompted, sampler, [8, 8, 8]) for sampler in (plain, off)]
    assert found[0] == found[1] and set(read) == {3}
    for (expected, _), (logits, _) in zip(plain.seen, off.seen, strict=True):
        assert torch.equal(logits, expected)
    read.clear()
    generate(pair, prompted, on, [8, 8, 8])
    assert set(read) == {6}


def test_the_nar_completes_guided_codes(rows) -> None:
    model = VALLE(tiny_model()).eval()
    text, codes = rows[0]
    request = TokenizedRequest([1, *text.tolist(), 2], 1, codes, 5)
    limits = torch.tensor([6]), torch.tensor([6])
    [generation] = model.generate([request], TokenSampler(top_k=1, guidance=3), [0], *limits)
    assert generation.codes.shape == (6, 4)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (["infer.guidance=2"], "infer.guidance: the AR was trained without train.condition_dropout"),
        (["model_type=tests.support.delay_lm:DelayLM", "infer.guidance=2"], r"infer\.guidance: .* set it to 1"),
        (["model_type=tests.support.delay_lm:DelayLM", "train.condition_dropout=0.1"], r"^train\.condition.* to 0$"),
    ],
)
def test_guidance_of_a_model_without_it_is_one_line(changes: list[str], expected: str, tmp_path) -> None:
    base = "tts" if "delay" in changes[0] else "valle"
    keys = ("num_quantizers", "text_token_num", "audio_token_num", "width", "num_heads", "num_layers")
    sizes = dict.fromkeys(keys, 4)
    config = {"base_config": f"config/{base}.json", "dataset": ["custom"], "dataset_path": {"custom": "x"}}
    (tmp_path / "config.json").write_text(json.dumps({**config, "model": sizes if base == "tts" else {}}))
    with pytest.raises(UserError, match=expected):
        check_guidance(load_settings(tmp_path / "config.json", Settings, changes, root=ROOT))
