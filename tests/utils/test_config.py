"""Settings: the base chain, overrides, and one clear line for every mistake."""

import json
from pathlib import Path
from typing import Annotated, Literal

import json5
import pytest
from pydantic import BaseModel, ConfigDict, Field

from config.schema import Settings
from tests.conftest import ROOT
from utils.config import load_settings, read_settings, resolve_path, save_settings
from utils.errors import UserError


class Optimizer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    batch_size: Annotated[int, Field(ge=1)]
    base_lr: Annotated[float, Field(gt=0)]
    keep: list[Annotated[int, Field(ge=0)]]
    max_steps: int | None
    shuffle: bool


class Small(BaseModel):
    """A schema with one of everything."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    mode: Literal[0, 1, 4]
    kind: Literal["big", "small"]
    dataset: list[str]
    dataset_path: dict[Literal["libritts", "vctk"], str]
    train: Optimizer


BASE = """{
  name: "base", mode: 1, kind: "big", dataset: ["vctk"], dataset_path: {vctk: "/data/vctk"},
  train: {batch_size: 4, base_lr: 1e-4, keep: [5, 1], max_steps: null, shuffle: true},
}"""


def load(folder: Path, *overrides: str, **files: str) -> Small:
    """Settings of the first of `files` (name=text), or of base.json, which is always written, with overrides."""
    for name, text in {"base": BASE, **files}.items():
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    return load_settings(folder / f"{[*files, 'base'][0]}.json", Small, overrides, root=folder)


def complaint(folder: Path, *overrides: str, **files: str) -> str:
    """The one-line error of a `load` that fails."""
    with pytest.raises(UserError) as caught:
        load(folder, *overrides, **files)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_shipped_experiment_needs_only_a_dataset_path():
    path = ROOT / "egs/tts/VALLE/exp_config.json"
    with pytest.raises(UserError, match=r"exp_config\.json: dataset_path\.libritts .*placeholder"):
        load_settings(path, Settings, root=ROOT)
    settings = load_settings(path, Settings, ["dataset_path.libritts=/data/LibriTTS"], root=ROOT)
    assert settings.dataset_path == {"libritts": "/data/LibriTTS"}
    for name in ("base", "tts", "valle"):
        content = json5.loads((ROOT / f"config/{name}.json").read_text())
        content.pop("base_config", None)
        assert_contains(settings.model_dump(), content)


def assert_contains(whole: dict, part: dict) -> None:
    for key, value in part.items():
        if isinstance(value, dict):
            assert_contains(whole[key], value)
        else:
            assert whole[key] == value, key


def test_every_shipped_experiment_loads():
    for path in (ROOT / "egs").rglob("*config.json"):
        content = json5.loads(path.read_text())
        paths = [f"dataset_path.{name}=/data/{name}" for name in content["dataset"]]
        assert load_settings(path, Settings, paths, root=ROOT).dataset == content["dataset"]


def test_objects_merge_and_everything_else_replaces(tmp_path):
    settings = load(tmp_path, exp='{base_config: "base.json", train: {keep: [9], base_lr: 1}, name: "exp"}')
    assert settings.name == "exp" and settings.kind == "big"
    assert settings.train.model_dump() == {
        "batch_size": 4,
        "base_lr": 1.0,
        "keep": [9],
        "max_steps": None,
        "shuffle": True,
    }
    assert isinstance(settings.train.base_lr, float)


def test_a_base_is_looked_for_from_the_root_and_then_beside_the_file(tmp_path):
    beside = tmp_path / "egs"
    beside.mkdir()
    (beside / "base.json").write_text(BASE.replace('"base"', '"beside"'))
    experiment = beside / "exp.json"
    experiment.write_text('{base_config: "base.json"}')
    assert load_settings(experiment, Small, root=tmp_path).name == "beside"
    (tmp_path / "base.json").write_text(BASE)
    assert load_settings(experiment, Small, root=tmp_path).name == "base"


def test_overrides_reach_any_key_and_win_in_order(tmp_path):
    settings = load(
        tmp_path,
        "train.batch_size=8",
        "train.keep=[1, 2]",
        "train.max_steps=7",
        "train.max_steps=null",
        "train.shuffle=false",
        "name=a=b c",
        "mode=4",
        'kind="small"',
        "train.base_lr=2e-3",
        "dataset_path={libritts: '/x'}",
    )
    assert settings.train.model_dump() == {
        "batch_size": 8,
        "base_lr": 2e-3,
        "keep": [1, 2],
        "max_steps": None,
        "shuffle": False,
    }
    assert (settings.name, settings.mode, settings.kind) == ("a=b c", 4, "small")
    assert settings.dataset_path == {"vctk": "/data/vctk", "libritts": "/x"}
    assert load(tmp_path, "train.max_steps=3", "train.max_steps=None").train.max_steps is None


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.batch_siz=8", ["train.batch_siz ", "did you mean train.batch_size?"]),
        ("trian.batch_size=8", ["trian.batch_size ", "did you mean train.batch_size?"]),
        ("batch_size=8", ["did you mean train.batch_size?"]),
        ("dataset_path.libritt=/x", ["did you mean dataset_path.libritts?"]),
        ("train.batch_size=0", ["train.batch_size must be an integer, at least 1; got 0"]),
        ("train.batch_size=1.5", ["train.batch_size", "an integer", "got 1.5"]),
        ("train.batch_size=true", ["train.batch_size", "an integer", "got true"]),
        ("train.batch_size=many", ["train.batch_size", "an integer", 'got "many"']),
        ("train.base_lr=0", ["train.base_lr must be a number, above 0"]),
        ("train.base_lr=true", ["train.base_lr", "a number", "got true"]),
        ("train.base_lr=Infinity", ["train.base_lr", "finite"]),
        ("train.shuffle=1", ["train.shuffle", "true or false"]),
        ("train.max_steps=soon", ["train.max_steps", "an integer or null"]),
        ("train.keep=[1, -1]", ["train.keep.1", "at least 0", "got -1"]),
        ("train=3", ["train must be an object"]),
        ("train.batch_size.x=3", ["train.batch_size", "an integer"]),
        ("name=5", ["name must be a string"]),
        ("name=null", ["name must be a string"]),
        ("kind=medium", ["kind must be one of big, small"]),
        ("mode=3", ["mode must be one of 0, 1, 4"]),
        ("mode=true", ["mode must be one of 0, 1, 4", "got true"]),
        ("mode=1.0", ["mode must be one of 0, 1, 4", "got 1.0"]),
        ("dataset=[vctk]", ["dataset=", "quotes"]),
        ("train.batch_size", ["KEY=VALUE"]),
        ("=3", ["KEY=VALUE"]),
        ("train..batch_size=3", ["KEY=VALUE"]),
        ("name=" + "[" * 3000, ["name", "deep"]),
    ],
)
def test_a_bad_override_is_one_clear_line(tmp_path, override, words):
    line = complaint(tmp_path, override)
    assert line.startswith("--set")
    for word in words:
        assert word in line


def test_a_mistake_is_reported_with_its_file(tmp_path):
    files = {"exp": '{base_config: "base.json", name: "x"}', "base": BASE.replace("batch_size: 4", "batch_size: 0")}
    assert complaint(tmp_path, **files).startswith(f"{tmp_path / 'base.json'}: train.batch_size must be")
    files["exp"] = '{base_config: "base.json", train: {batch_size: 4, shufle: true}}'
    line = complaint(tmp_path, **files)
    assert line.startswith(f"{tmp_path / 'exp.json'}: train.shufle") and "did you mean train.shuffle?" in line


def test_only_the_first_few_of_many_mistakes_are_reported(tmp_path):
    line = complaint(tmp_path, exp='{base_config: "base.json", a: 1, b: 1, c: 1, d: 1, e: 1}')
    assert line.count("is not a setting") == 3 and line.endswith("and 2 more")
    assert "name is missing; it must be a string" in complaint(tmp_path, exp="{}")


def test_a_dotted_key_in_a_file_is_explained(tmp_path):
    line = complaint(tmp_path, exp='{base_config: "base.json", "train.batch_size": 8}')
    assert "exp.json: train.batch_size is not a setting" in line and "did you mean" not in line


def test_a_rule_between_keys_is_reported_with_the_file_that_broke_it(tmp_path):
    path = tmp_path / "exp.json"
    path.write_text(
        '{base_config: "config/valle.json", dataset: ["vctk"], dataset_path: {vctk: "/x"}, '
        "preprocess: {min_duration: 20}}"
    )
    with pytest.raises(UserError, match=r"exp\.json: preprocess: min_duration must not exceed max_duration"):
        load_settings(path, Settings, root=ROOT)
    with pytest.raises(UserError, match=r"--set: dataset_path\.ljspeech is missing"):
        load_settings(path, Settings, ["preprocess.min_duration=1", 'dataset=["ljspeech"]'], root=ROOT)


def test_a_placeholder_counts_only_where_its_dataset_is_used(tmp_path):
    text = '{base_config: "base.json", dataset_path: {libritts: "[path of LibriTTS]", vctk: "/v"}}'
    assert load(tmp_path, exp=text).dataset_path == {"vctk": "/v"}
    line = complaint(tmp_path, 'dataset=["libritts", "vctk"]', exp=text)
    assert line.startswith(f"{tmp_path / 'exp.json'}: dataset_path.libritts") and "[path of LibriTTS]" in line
    assert "name still holds" in complaint(tmp_path, exp='{base_config: "base.json", name: "[your name]"}')
    assert "dataset.0 still holds" in complaint(tmp_path, exp='{base_config: "base.json", dataset: ["[a]"]}')


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{base_config: "exp.json"}', ["base_config", "loop"]),
        ('{base_config: "middle.json"}', ["middle.json: base_config", "exp.json", "loop"]),
        ('{base_config: "nowhere.json"}', ["exp.json: base_config", "nowhere.json"]),
        ("{base_config: 3}", ["base_config", "path"]),
        ('{\n  base_config: "base.json",\n  name "x"\n}', ["exp.json", "JSON5", "line 3"]),
        ("", ["JSON5"]),
        ("[1]", ["object"]),
        ('"text"', ["object"]),
        ("{name: 'a', name: 'b'}", ["name"]),
        ('{"name": "a", "name": "b"}', ["name"]),
        ('{"a":' * 52 + "1" + "}" * 52, ["deep", "50"]),
        ("{a:" * 3000 + "1" + "}" * 3000, ["deep", "50"]),
        ("//" + "x" * 1_000_001, ["1000000 bytes"]),
    ],
)
def test_a_bad_file_is_one_clear_line(tmp_path, text, words):
    line = complaint(tmp_path, exp=text, middle='{base_config: "exp.json"}')
    for word in words:
        assert word in line


def test_a_file_that_cannot_be_read_is_one_clear_line(tmp_path):
    (tmp_path / "latin.json").write_bytes(b'{name: "\xe9"}')
    for path, word in ((tmp_path / "none.json", "no such"), (tmp_path, "read"), (tmp_path / "latin.json", "UTF-8")):
        with pytest.raises(UserError, match=word) as caught:
            load_settings(path, Small, root=tmp_path)
        assert str(path) in str(caught.value)


def test_saved_settings_read_back_the_same_and_are_plain_json(tmp_path):
    settings = load(tmp_path, "name=Größe \"x\" 'y'", "train.base_lr=1")
    path = tmp_path / "expt" / "args.json"
    save_settings(settings, path)
    save_settings(settings, path)
    assert json.loads(path.read_text())["train"]["batch_size"] == 4
    assert read_settings(path, Small) == settings
    assert [file.name for file in path.parent.iterdir()] == ["args.json"]
    assert read_settings(path, Small, ["train.batch_size=9"]).train.batch_size == 9
    with pytest.raises(UserError, match=r"--set: train\.batch_siz is not a setting"):
        read_settings(path, Small, ["train.batch_siz=9"])
    with pytest.raises(UserError, match=r"absent\.json"):
        read_settings(tmp_path / "absent.json", Small)


def test_relative_paths_start_at_the_root(tmp_path):
    assert resolve_path("data", tmp_path) == tmp_path / "data"
    assert resolve_path("/data", tmp_path) == Path("/data")
    assert resolve_path("~/data", tmp_path) == Path.home() / "data"
    with pytest.raises(UserError, match="nobody_of_that_name"):
        resolve_path("~nobody_of_that_name/data", tmp_path)


def test_a_retired_key_is_accepted_ignored_and_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = load_settings(ROOT / "egs" / "tts" / "VALLE" / "demo_config.json", Settings, root=ROOT)
    content = settings.model_dump()
    content["train"] |= {"shuffle_buffer": 10_000, "num_streams": 8}
    path = tmp_path / "args.json"
    path.write_text(json.dumps(content))
    with caplog.at_level("INFO", "vallet"):
        for _ in range(2):
            assert read_settings(path, Settings, ("train.shards_per_block=3",)) == settings
    said = [record.getMessage() for record in caplog.records]
    assert [line.split(" is retired")[0] for line in said] == [
        f"{path}: train.shuffle_buffer",
        "--set: train.shards_per_block",
        f"{path}: train.num_streams",
    ]
