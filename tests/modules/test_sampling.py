"""Each setting of the sampler has its effect."""

import math
from itertools import islice

import pytest
import torch

from modules.sampling import ExponentialNoise, TokenSampler, sample

LOGITS = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
NO_HISTORY = torch.full((1, 10), -1)


def drawn(
    sampler: TokenSampler, num: int = 2000, logits: torch.Tensor = LOGITS, history: torch.Tensor = NO_HISTORY
) -> torch.Tensor:
    """The share of samples that each code has."""
    noise = torch.empty(sampler.num_draws, num, logits.shape[-1]).exponential_()
    codes = sampler(logits.expand(num, -1), history.expand(num, -1), noise)
    return torch.bincount(codes, minlength=4) / num


def test_without_filters_samples_follow_the_softmax() -> None:
    assert (drawn(TokenSampler()) - LOGITS.exp()[0]).abs().max() < 0.04


def test_top_k_keeps_the_likeliest() -> None:
    shares = drawn(TokenSampler(top_k=2))
    assert shares[2:].sum() == 0
    assert abs(float(shares[0]) - 0.5 / 0.8) < 0.04
    assert drawn(TokenSampler(top_k=1))[0] == 1


@pytest.mark.parametrize(("top_p", "num_kept"), [(0.4, 1), (0.5, 1), (0.51, 2), (0.81, 3), (0.99, 4)])
def test_top_p_keeps_the_smallest_set_of_that_mass(top_p: float, num_kept: int) -> None:
    shares = drawn(TokenSampler(top_p=top_p))
    assert (shares > 0).sum() == num_kept
    assert (shares[:num_kept] > 0).all()


def test_temperature_sharpens_and_flattens() -> None:
    sharp, flat = drawn(TokenSampler(temperature=0.2)), drawn(TokenSampler(temperature=5.0))
    assert sharp[0] > 0.85
    assert flat.max() < 0.35


def test_noise_depends_on_the_seed_of_the_row_and_not_on_other_rows() -> None:
    def noise(*seeds: int, num_steps: int = 70) -> torch.Tensor:
        return torch.stack(list(islice(ExponentialNoise(2, 50, seeds, torch.device("cpu")), num_steps)))

    together, alone, other = noise(1, 2, 1), noise(1), noise(2)
    assert together.shape == (70, 2, 3, 50)
    for row, single in enumerate((alone, other, alone)):
        assert torch.equal(together[:, :, row], single[:, :, 0])
    assert len({float(step.sum()) for step in alone}) == 70
    assert not torch.equal(other, alone)
    logits = torch.randn(3, 50)
    codes = sample(logits, together[0, 0])
    wanted = [int(sample(logits[row : row + 1], noise[0, 0])) for row, noise in enumerate((alone, other, alone))]
    assert codes.tolist() == wanted


def test_a_repeated_code_is_drawn_again_from_all_codes() -> None:
    repeated = torch.zeros(1, 10, dtype=torch.long)
    sampler = TokenSampler(top_k=1, repetition_window=10, repetition_threshold=0.5)
    assert drawn(sampler, history=NO_HISTORY)[0] == 1
    assert (drawn(sampler, history=repeated) - LOGITS.exp()[0]).abs().max() < 0.04
    only_half = torch.tensor([[0, 1] * 5])
    assert drawn(sampler, history=only_half)[0] == 1


def test_codes_of_logit_minus_infinity_are_never_drawn() -> None:
    logits = LOGITS.clone()
    logits[:, 0] = -math.inf
    assert drawn(TokenSampler(), logits=logits)[0] == 0
