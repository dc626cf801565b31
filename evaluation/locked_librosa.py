"""librosa, which one process at a time compiles.

numba caches librosa's compiled functions on disk. A cache that two processes fill at once may hold a function of the
first and its caller of the second, and then each process that loads them crashes.
"""

import fcntl
import os
import tempfile
from contextlib import nullcontext, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO

import numpy as np


def _open_lock() -> TextIO | None:
    """Open a lock file beside the cache, since machines may share a file system. None if no folder can be written."""
    spec = find_spec("librosa")
    package = Path(spec.origin).parent if spec is not None and spec.origin is not None else None
    # The folders that numba tries, but for its last one, the user's.
    for folder in (os.environ.get("NUMBA_CACHE_DIR"), package, tempfile.gettempdir()):
        with suppress(OSError):
            if folder is not None:
                Path(folder).mkdir(parents=True, exist_ok=True)
                return Path(folder, ".vallet-librosa.lock").open("a")
    return None


with _open_lock() or nullcontext() as lock:
    # Some file systems have no locks.
    with suppress(OSError):
        if lock is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)

    librosa: Any = import_module("librosa")
    # Its modules are imported, and most functions compiled, when they are first used. The last two wait for a call.
    _ = librosa.stft, librosa.power_to_db, librosa.filters.mel, librosa.effects.trim, librosa.feature.melspectrogram
    librosa.sequence.dtw(C=np.zeros((2, 2)))
    librosa.pyin(np.zeros(4096, np.float32), sr=16000, fmin=60, fmax=500)
