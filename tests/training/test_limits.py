"""How short and how long speech may be comes from the corpus, and travels with the experiment."""

import json
from pathlib import Path

import pytest
import torch

from config.schema import Settings
from models.contract import TokenizedRequest
from synthesis.limits import UNMEASURED_SECONDS_PER_PHONE, limits_by_phones
from synthesis.load import load_experiment
from tests.conftest import ROOT, tiny_infer
from tests.support.tiny_runs import prepare_custom, train
from training.prepared import PreprocessedData, read_preprocessed, with_measured_limits
from utils.config import load_settings

UNSET = {"infer.min_seconds_per_phone": None, "infer.max_seconds_per_phone": None}
UNSET |= {"infer.max_part_seconds": None, "infer.max_total_seconds": None}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_custom(tmp_path_factory.mktemp("limits"))


def read(config: Path, *overrides: str) -> tuple[Settings, PreprocessedData]:
    unset = [f"{key}=null" for key in UNSET]
    settings = load_settings(config, Settings, [*unset, *overrides], root=ROOT)
    return settings, read_preprocessed(settings)


def test_limits_that_are_left_open_are_those_of_the_corpus(config: Path) -> None:
    settings, data = read(config)
    stats = json.loads((config.parent / "data" / "custom" / "stats.json").read_text())["seconds_per_phone"]
    assert data.seconds_per_phone == (stats["0.001"], stats["0.999"])
    infer = with_measured_limits(settings, data).infer
    assert infer.min_seconds_per_phone < stats["0.001"] and infer.max_seconds_per_phone > stats["0.999"]
    assert infer.min_seconds_per_phone > stats["0.001"] / 2 and infer.max_seconds_per_phone < 2 * stats["0.999"]
    settings, data = read(config, "infer.max_seconds_per_phone=7")
    limited = with_measured_limits(settings, data).infer
    assert (limited.min_seconds_per_phone, limited.max_seconds_per_phone) == (infer.min_seconds_per_phone, 7)


def test_the_longest_sequences_are_those_of_the_corpus(config: Path) -> None:
    """Its utterances have 0.8 to 1.6 s. Joined examples are as long as two of them."""
    _, data = read(config)
    stats = json.loads((config.parent / "data" / "custom" / "stats.json").read_text())["seconds"]
    assert data.longest_seconds == stats["0.999"] and 0.8 < stats["0.5"] < stats["0.999"] <= 1.6

    def limits(*overrides: str) -> tuple[float | None, float | None]:
        infer = with_measured_limits(read(config, *overrides)[0], data).infer
        return infer.max_part_seconds, infer.max_total_seconds

    longest = stats["0.999"]
    assert limits() == (longest, longest)
    assert limits("train.join_probability=0.5") == (longest, pytest.approx(2 * longest, abs=1e-4))
    assert limits("infer.max_total_seconds=7") == (longest, 7)


def test_they_travel_with_the_experiment_whatever_config_stage_3_is_given(config: Path) -> None:
    train(config, "ar", 1, UNSET)
    train(config, "nar", 2, UNSET, "--ar_model_ckpt_dir", str(config.parent / "ckpts" / "ar"))
    settings, data = read(config)
    wanted = with_measured_limits(settings, data).infer
    nar = config.parent / "ckpts" / "nar"
    open_config = config.with_name("open.json")
    content = json.loads(config.read_text())
    content["infer"] |= {key.split(".")[1]: None for key in UNSET} | {"top_k": 3}
    open_config.write_text(json.dumps(content))
    for given in (None, open_config):
        synthesizer, _ = load_experiment(nar, "", config=given)
        assert synthesizer.settings.min_seconds_per_phone == wanted.min_seconds_per_phone
        assert synthesizer.settings.max_seconds_per_phone == wanted.max_seconds_per_phone
        assert synthesizer.settings.max_part_seconds == wanted.max_part_seconds
        request, rate_hz = TokenizedRequest([], 1, torch.zeros(0, 8), 100), synthesizer.codec.frame_rate_hz
        assert synthesizer.frame_limits(request) == limits_by_phones(request, wanted, rate_hz)
    assert synthesizer.settings.top_k == 3
    # An experiment that was never measured has the limits of its utterances.
    unmeasured, _ = load_experiment(nar, "", [f"{key}=null" for key in UNSET])
    infer, preprocess = unmeasured.settings, settings.preprocess
    assert (infer.max_part_seconds, infer.max_total_seconds) == (preprocess.max_duration, preprocess.max_duration)


def test_a_corpus_that_was_never_measured_leaves_wide_limits(config: Path) -> None:
    path = config.parent / "data" / "custom" / "stats.json"
    stats = path.read_text()
    path.write_text(json.dumps({**json.loads(stats), "seconds_per_phone": {}, "seconds": {}}))
    settings, data = read(config)
    path.write_text(stats)
    assert with_measured_limits(settings, data) == settings
    open_limits = tiny_infer(min_seconds_per_phone=None, max_seconds_per_phone=None)
    shortest, longest = UNMEASURED_SECONDS_PER_PHONE
    wide_limits = tiny_infer(min_seconds_per_phone=shortest, max_seconds_per_phone=longest)
    request = TokenizedRequest([], 1, torch.zeros(0, 8), 100)
    assert limits_by_phones(request, open_limits, 25) == limits_by_phones(request, wide_limits, 25)
