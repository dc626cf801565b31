"""Where a codec's weights come from: a local file or folder, or a name on the Hugging Face hub."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.config import resolve_path
from utils.errors import UserError, first_line
from utils.hub import MODEL_NAME, quiet_transformers

_FILE_SUFFIXES = {".th", ".pt", ".pth", ".bin", ".ckpt", ".safetensors"}


def find_weights(name: str, root: Path) -> Path | str:
    """The local path that a setting names, or the setting itself if only the hub can have it."""
    path = resolve_path(name, root)
    is_hub_name = MODEL_NAME.fullmatch(name) is not None and path.suffix not in _FILE_SUFFIXES
    return name if is_hub_name and not path.exists() else path


def download_weights(name: str, *patterns: str) -> Path:
    """The local folder of the files of a repository on the hub that match, which are downloaded once.

    Raises an exception of any type if they cannot be.
    """
    quiet_transformers()
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, allow_patterns=list(patterns)))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors by name of a safetensors file, or of one that torch saved, from which nothing else is read.

    Raises an exception of any type if the file is damaged, and ValueError if it does not hold finite tensors alone.
    """
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        content: Any = load_file(path)
    else:
        content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError("not a dict of tensors")
    check_finite(content)
    return content


def check_finite(tensors: dict[str, Tensor]) -> None:
    """Raises ValueError if a weight is infinite or not a number."""
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{name} is not finite")


def unusable(setting: str, source: Path | str, what: str, error: Exception, advice: str) -> UserError:
    """An error line for weights that are missing, damaged or of another kind."""
    if isinstance(source, Path) and not source.exists():
        return UserError(f"{setting}: {source} is not a file or folder; {advice}")
    reason = first_line(error).strip() or type(error).__name__
    if isinstance(source, str):
        return UserError(
            f"{setting}: {source} is neither a local folder nor weights of {what} on the hub ({reason}); {advice}"
        )
    return UserError(f"{setting}: {source} does not hold the weights of {what} ({reason}); {advice}")
