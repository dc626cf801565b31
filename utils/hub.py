"""Experiment folders on the Hugging Face hub, which are named `hub:user/model` or `hub:user/model@revision`."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from utils.errors import UserError, first_line

PREFIX = "hub:"
# What inference reads. Nothing else is downloaded: neither code, nor the state of a training.
_FILES = ("*.json", "*.safetensors", "*.bin", "*.th", "*.dict", "*.tsv", "README.md", "LICENSE*")
_STATES = ("*optimizer*", "*scheduler*", "*random_states*", "log/*", "result/*", "evaluation/*")
MODEL_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
"""The names `user/model` of the hub."""
_SNAPSHOT = re.compile(r"models--(.+)/snapshots/[^/]+")


def is_on_hub(location: str) -> bool:
    return location.startswith(PREFIX)


def split_location(location: str, flag: str) -> tuple[str, str | None]:
    """The model `user/model` of a location, with or without `hub:`, and its revision, None for the newest.

    Raises UserError naming the flag.
    """
    model, at, revision = location.removeprefix(PREFIX).partition("@")
    if not MODEL_NAME.fullmatch(model) or (at and not revision):
        raise UserError(f"{flag}: {location!r} is no model of the hub; write user/model or user/model@revision")
    return model, revision or None


def download(location: str, flag: str) -> Path:
    """The folder of a model in the hub's cache. Files that are there are not downloaded again.

    Without a network, the copy in the cache is used. Raises UserError naming the flag if there is none with a whole
    checkpoint, or if the hub has no such model or revision.
    """
    model, revision = split_location(location, flag)
    quiet_hub()
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        folder = snapshot_download(model, revision=revision, allow_patterns=list(_FILES), ignore_patterns=list(_STATES))
        return _checked(Path(folder), location, flag)
    except UserError:
        raise
    except GatedRepoError as error:
        reason = f"you have no access to it; ask for it at {constants.ENDPOINT}/{model}, and log in (hf auth login)"
        cause: Exception = error
    except RepositoryNotFoundError as error:
        reason = f"{constants.ENDPOINT} has no such model; check the name, or log in if it is private (hf auth login)"
        cause = error
    except RevisionNotFoundError as error:
        reason, cause = f"the model has no revision {revision}; leave @{revision} out for the newest", error
    except LocalEntryNotFoundError as error:
        reason = f"{constants.ENDPOINT} cannot be reached, and {constants.HF_HUB_CACHE} has no whole copy of the model"
        cause = error
    except Exception as error:  # Releases of the library raise the types of different HTTP clients.
        reason, cause = f"cannot be downloaded ({first_line(error)})", error
    raise UserError(f"{flag}: {location}: {reason}") from cause


def _checked(folder: Path, location: str, flag: str) -> Path:
    """The folder, if it has a whole checkpoint: an interrupted download leaves a part, which counts offline."""
    # It imports torch, and a wrong name must be reported before.
    from utils.checkpoint import resolve_checkpoint

    try:
        resolve_checkpoint(folder, flag)
    except UserError as error:
        raise UserError(
            f"{flag}: {location}: {folder} has no whole checkpoint: connect to the network to download the rest, or "
            "name another model, if this one was not pushed by bins/share.py"
        ) from error
    return folder


def upload(folder: Path, model: str, is_private: bool, replaced: Sequence[str], flag: str) -> str:
    """Upload a folder in one commit, to a new or an existing model `user/model`; returns the address of the commit.

    Files on the hub that match `replaced`, and that the folder lacks, are removed in the same commit. Raises UserError
    naming the flag if the upload fails, or if the model is to be private and is public.
    """
    quiet_hub()
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        api.create_repo(model, private=is_private or None, exist_ok=True)
        # A model that was there keeps its visibility.
        if is_private and not api.model_info(model).private:
            raise UserError(f"{flag}: {model} is public already; make it private in its settings on the hub first")
        commit = api.upload_folder(
            repo_id=model,
            folder_path=folder,
            commit_message="Upload the model with vallet",
            delete_patterns=list(replaced),
        )
    except UserError:
        raise
    except Exception as error:  # Also errors of HTTP clients, and ValueError for metadata that the hub refuses.
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        if status in (401, 403):
            reason = f"you may not write to it; log in with a token that may (hf auth login, or HF_TOKEN): {reason}"
        raise UserError(f"{flag}: {model}: cannot be uploaded: {reason}") from error
    return str(commit.commit_url)


def experiment_name(folder: Path) -> str:
    """The name of an experiment's folder; of one in the hub's cache, whose folder is a commit, `user--model`."""
    match = _SNAPSHOT.fullmatch("/".join(folder.absolute().parts[-3:]))
    return match[1] if match else folder.name


def output_folder(folder: Path) -> Path:
    """Where the results of an experiment go: its folder, or one of its name in the working directory.

    Nothing is written to the hub's cache.
    """
    name = experiment_name(folder)
    return folder if name == folder.name else Path.cwd() / name


def quiet_hub() -> None:
    """Silence the hub's logs, as failed requests are raised, and send nothing about the use of models.

    Progress bars stay.
    """
    # The variable counts for an import that follows and for other processes, the constant after an import.
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    from huggingface_hub import constants
    from huggingface_hub.utils import logging

    constants.HF_HUB_DISABLE_TELEMETRY = True
    logging.set_verbosity(logging.CRITICAL)


def quiet_transformers() -> None:
    """As `quiet_hub`, and silence the logs and progress bars of transformers, with those of the hub."""
    quiet_hub()
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
