"""`train.max_tokens: auto`: what is tried, what is found, and that training does not notice."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st

import training.budget
from config.schema import Settings
from models.valle.collate import Collator, PrefixMode, ValleBatch
from models.valle.valle import VALLE
from tests.conftest import ROOT, tiny_model, tiny_train
from tests.support.tiny_runs import prepare_custom, train
from tests.support.tiny_trainer import COLLATOR
from training.budget import DEFAULT_MAX_TOKENS, TrialSteps, WorstCases, find_max_tokens, largest_budget
from training.plan import group_by_length
from utils.checkpoint import find_checkpoints, load_weights
from utils.config import load_settings
from utils.errors import UserError

# Positions with padding that the stand-in's memory has room for.
ROOM = 130


def padded_positions(batch: ValleBatch) -> int:
    return batch.num_utterances * batch.longest


def worst_cases(num: int = 40, seed: int = 0, **changes: Any) -> WorstCases:
    rng = np.random.default_rng(seed)
    frames = rng.integers(5, 60, num)
    collator = Collator(num_quantizers=4, prefix_mode=PrefixMode.NONE, max_prompt_frames=75, for_nar=False)
    return WorstCases(rng.integers(3, 20, num), frames, collator, 4, tiny_train(**changes))


@given(least=st.integers(1, 3000), most=st.integers(1, 10**6), limit=st.integers(1, 10**6))
def test_bisection_finds_the_largest_budget_that_fits(least: int, most: int, limit: int) -> None:
    tried: list[int] = []

    def fits(max_tokens: int) -> bool:
        tried.append(max_tokens)
        return max_tokens <= limit

    most = max(least, most)
    found, bound = largest_budget(fits, least, most), min(limit, most)
    assert len(tried) < 40 and all(least <= budget <= most for budget in tried)
    if limit < least:
        assert (found, tried) == (0, [least])
    else:
        assert 0.98 * bound - 1 <= found <= bound and found in tried


def test_a_memory_that_never_ends_is_asked_for_the_largest_useful_batch_at_most() -> None:
    worst, tried = worst_cases(max_sentences=6), []
    largest_budget(lambda max_tokens: not tried.append(max_tokens), worst.least, worst.most)
    assert max(tried) == worst.most
    lengths = worst.collator.num_positions(worst.num_ids, worst.num_frames)
    assert 6 * lengths.max() <= worst.most <= 1.1 * 6 * lengths.max()
    # A larger budget changes no batch.
    [batch] = worst.batches(worst.most)
    assert batch.num_utterances == 6 and [torch.equal(batch.text, other.text) for other in worst.batches(10**7)] == [
        True
    ]


@settings(max_examples=30, deadline=None)
@given(max_tokens=st.integers(80, 600), seed=st.integers(0, 100), max_sentences=st.integers(1, 12))
def test_no_batch_of_training_is_larger_than_those_that_are_tried(
    max_tokens: int, seed: int, max_sentences: int
) -> None:
    """In any pool of the corpus's utterances."""
    worst = worst_cases(seed=seed, max_sentences=max_sentences)
    tried = worst.batches(max_tokens)
    assert 1 <= len(tried) <= 2 and all(padded_positions(batch) <= max_tokens for batch in tried)
    lengths = worst.collator.num_positions(worst.num_ids, worst.num_frames)
    assert max(batch.longest for batch in tried) >= lengths.max() / 1.03
    order, first = group_by_length(lengths, tiny_train(max_tokens=max_tokens, max_sentences=max_sentences))
    padded = [(end - start) * lengths[order[start:end]].max() for start, end in pairwise(first)]
    assert max(padded) == max(map(padded_positions, tried))


def test_joined_examples_are_tried_as_long_as_they_may_become() -> None:
    alone, joined = worst_cases(), worst_cases(join_probability=0.5)
    longest = [max(batch.longest for batch in worst.batches(10**6)) for worst in (alone, joined)]
    assert longest == [alone.least, 2 * alone.least] and joined.least == alone.least
    # Two that are longer than a batch may be are not joined.
    assert max(batch.longest for batch in joined.batches(joined.least)) <= joined.least


@pytest.mark.parametrize(
    "mode", [PrefixMode.NONE, PrefixMode.FIRST_FRAMES, PrefixMode.SEGMENT, PrefixMode.OTHER_SEGMENT]
)
def test_a_trial_steps_the_model_that_it_is_given_and_survives_a_lack_of_memory(mode: PrefixMode) -> None:
    collator = Collator(num_quantizers=4, prefix_mode=mode, max_prompt_frames=75, for_nar=True)
    worst = WorstCases(np.array([5, 9]), np.array([20, 30]), collator, 4, tiny_train(ema_decay=0.5))
    trial = TrialSteps(VALLE(tiny_model(), train_stage=0), worst.settings, Accelerator(cpu=True))
    before = [parameter.detach().clone() for parameter in trial.parameters]
    assert trial.fit(worst.batches(1000))
    assert any(not torch.equal(old, new) for old, new in zip(before, trial.parameters, strict=True))
    trial.model.forward = lambda *_: torch.empty(10**15)
    assert not trial.fit(worst.batches(1000)) and all(parameter.grad is None for parameter in trial.parameters)
    trial.model.forward = lambda *_: torch.ones(2, 3) @ torch.ones(2, 3)
    with pytest.raises(RuntimeError, match="shapes"):
        trial.fit(worst.batches(1000))


def test_all_ranks_take_the_smallest_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.budget, "has_measurable_memory", lambda device: True)
    worst = WorstCases(np.array([5, 9]), np.array([20, 30]), COLLATOR, 4, tiny_train())
    found: list[int] = []
    for others in ([10**6], [30], [0]):
        monkeypatch.setattr(
            training.budget, "gather_object", lambda own, others=others: found.extend(own) or own + others
        )
        if others == [0]:
            with pytest.raises(UserError, match=r"^train\.max_tokens: not even a batch of the longest .* \(39 phones"):
                find_max_tokens(worst, lambda: VALLE(tiny_model(), train_stage=0), Accelerator(cpu=True))
        else:
            budget = find_max_tokens(worst, lambda: VALLE(tiny_model(), train_stage=0), Accelerator(cpu=True))
            assert budget == min([*found[-1:], *others])
    assert found[0] > 30


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_custom(tmp_path_factory.mktemp("budget"))


def use_small_memory(monkeypatch: pytest.MonkeyPatch, room: int = ROOM) -> list[int]:
    """A stand-in for a GPU's memory: trial steps fail with more than `room` positions. Returns those tried."""
    tried: list[int] = []
    step = TrialSteps.step

    def limited(self: TrialSteps, batch: ValleBatch) -> None:
        tried.append(padded_positions(batch))
        if tried[-1] > room:
            raise torch.OutOfMemoryError("stand-in")
        step(self, batch)

    monkeypatch.setattr(TrialSteps, "step", limited)
    monkeypatch.setattr(training.budget, "has_measurable_memory", lambda device: True)
    return tried


def weights(config: Path, name: str) -> dict[str, torch.Tensor]:
    return load_weights(find_checkpoints(config.parent / "ckpts" / name / "checkpoint")[-1])


def are_equal(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> bool:
    return some.keys() == others.keys() and all(torch.equal(value, others[name]) for name, value in some.items())


def test_training_with_auto_is_that_with_the_number_found(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, also where it is resumed, which tries nothing again."""
    auto = {"train.max_tokens": "auto", "train.max_sentences": 20}
    with monkeypatch.context() as patched:
        tried = use_small_memory(patched)
        train(config, "auto", 1, {**auto, "train.max_steps": 4})
        train(config, "parts", 1, {**auto, "train.max_steps": 2})
        largest = max(positions for positions in tried if positions <= ROOM)
        assert max(tried) > ROOM
    found = json.loads((config.parent / "ckpts" / "auto" / "args.json").read_text())["train"]["max_tokens"]
    assert found == int(0.9 * largest) > 0.7 * ROOM
    train(config, "number", 1, {**auto, "train.max_tokens": found, "train.max_steps": 4})
    assert are_equal(weights(config, "auto"), weights(config, "number"))
    # A CPU would take the default, if the run were new.
    train(config, "parts", 1, {**auto, "train.max_steps": 4}, "--resume", "true")
    assert json.loads((config.parent / "ckpts" / "parts" / "args.json").read_text())["train"]["max_tokens"] == found
    assert are_equal(weights(config, "parts"), weights(config, "number"))


def test_a_memory_with_no_room_for_the_longest_utterance_is_one_line(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small_memory(monkeypatch, room=3)
    with pytest.raises(UserError, match=r"^train\.max_tokens: not even .*train\.activation_checkpointing.*$"):
        train(config, "none", 1, {"train.max_tokens": "auto"})
    assert not (config.parent / "ckpts" / "none" / "args.json").exists()


@pytest.mark.parametrize("is_dynamic", [True, False])
def test_a_cpu_takes_the_documented_default(is_dynamic: bool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "vallet"):
        worst = worst_cases(use_dynamic_batchsize=is_dynamic)
        found = find_max_tokens(worst, lambda: pytest.fail("a model was built"), Accelerator(cpu=True))
    content = load_settings(
        ROOT / "config" / "valle.json", Settings, ['dataset_path={"libritts": "x"}', 'dataset=["libritts"]'], root=ROOT
    )
    assert found == DEFAULT_MAX_TOKENS == content.train.max_tokens
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("train.max_tokens: auto is 4000, the default, as ") and ("no GPU" in line) == is_dynamic
