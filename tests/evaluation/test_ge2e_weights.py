"""The weights of the speaker encoder are downloaded once and checked, and a failure is one line."""

import hashlib
import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from evaluation import ge2e_weights
from evaluation.build import build_measures
from evaluation.ge2e import Ge2eEncoder
from evaluation.speakers import GE2E, build_embedder
from utils.errors import UserError


class FakePip:
    """Takes the place of `subprocess.run`: writes a wheel with `content`, or fails if that is None."""

    def __init__(self, content: bytes | None) -> None:
        self.content, self.num_calls = content, 0

    def __call__(self, command: Sequence[str], **_: object) -> subprocess.CompletedProcess[str]:
        self.num_calls += 1
        assert command[1:4] == ["-m", "pip", "download"] and "--no-deps" in command
        if self.content is None:
            return subprocess.CompletedProcess(command, 1, "", "WARNING: retrying\nERROR: No matching distribution")
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / "Resemblyzer-0.1.4-py3-none-any.whl", "w") as wheel:
            wheel.writestr(ge2e_weights.FILE, self.content)
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture
def weights(tmp_path: Path) -> bytes:
    torch.save({"model_state": Ge2eEncoder().state_dict()}, tmp_path / "weights.pt")
    return (tmp_path / "weights.pt").read_bytes()


@pytest.fixture
def cached(tmp_path: Path, weights: bytes, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the weights will be; nothing is there yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(ge2e_weights, "SHA256", hashlib.sha256(weights).hexdigest())
    return tmp_path / "cache" / "vallet" / "ge2e.pt"


def test_the_weights_are_downloaded_once(weights: bytes, cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = FakePip(weights)
    monkeypatch.setattr(subprocess, "run", pip)
    for _ in range(2):
        assert build_embedder(GE2E).name == "ge2e.pt"
    assert pip.num_calls == 1 and cached.read_bytes() == weights
    # A file that was cut off is replaced.
    cached.write_bytes(weights[:100])
    assert ge2e_weights.ge2e_weights() == cached
    assert pip.num_calls == 2 and cached.read_bytes() == weights
    assert [path.name for path in cached.parent.iterdir()] == ["ge2e.pt"]


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "No matching distribution"), (b"other weights", "has another checksum")]
)
def test_without_the_weights_the_other_metrics_are_measured(
    content: bytes | None, reason: str, cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", FakePip(content))
    measures, missing = build_measures("en-us", "none", None, GE2E, None)
    assert measures.embedder is None and not cached.exists()
    line = missing["speaker similarity"]
    assert reason in line and "resemblyzer" in line and "\n" not in line and "--speaker_model its path" in line


def test_a_cache_folder_that_cannot_be_made_is_one_line(
    tmp_path: Path, weights: bytes, cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setattr(subprocess, "run", FakePip(weights))
    with pytest.raises(UserError, match=r"--speaker_model ge2e: .*cache"):
        ge2e_weights.ge2e_weights()
