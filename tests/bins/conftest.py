"""A trained pair, made by the programs in this process."""

import shutil
from pathlib import Path

import pytest

import bins.preprocess
import bins.train
from tests.support.recipe import Recipe, make_recipe, write_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Recipe:
    """A recipe after stage 1."""
    recipe = make_recipe(tmp_path_factory.mktemp("prepared"), corpus)
    assert recipe.call(bins.preprocess, "--config", str(recipe.config)) == 0
    return recipe


@pytest.fixture(scope="session")
def trained(prepared: Recipe) -> Recipe:
    """A recipe with experiments `ar`, with two checkpoints, and `nar`."""
    config = ("--config", str(prepared.config))
    assert prepared.call(bins.train, *config, "--name", "ar", "--model_train_stage", "1") == 0
    ar = ("--ar_model_ckpt_dir", str(prepared.experiment("ar")))
    assert prepared.call(bins.train, *config, "--name", "nar", "--model_train_stage", "2", *ar) == 0
    return prepared


@pytest.fixture
def own(corpus: Path, tmp_path: Path) -> Recipe:
    """A recipe after stage 1 with its own corpus, which a test may change."""
    recipe = make_recipe(tmp_path, Path(shutil.copytree(corpus, tmp_path / corpus.name)))
    assert recipe.call(bins.preprocess, "--config", str(recipe.config)) == 0
    return recipe
