"""What the tests of models share."""

import pytest
import torch

from processors.codecs.mel_rvq import MelRVQ
from tests.conftest import defaults

RATE = 24000


@pytest.fixture(scope="session")
def codec() -> MelRVQ:
    settings = defaults().preprocess.mel_rvq.model_copy(
        update={"frame_rate_hz": 25.0, "num_mels": 20, "fit_iterations": 1, "griffin_lim_iterations": 1}
    )
    generator = torch.Generator().manual_seed(0)
    return MelRVQ.fit([torch.rand(4 * RATE, generator=generator) - 0.5], settings, RATE)
