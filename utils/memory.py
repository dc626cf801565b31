"""Memory that the C library keeps for itself after it was freed."""

import ctypes
import os
from functools import cache
from pathlib import Path

# How much of it may gather before it is returned: each return makes the next batch fetch its pages again.
_MOST_KEPT_BYTES = 256 * 2**20
_resident_bytes = 0


def return_freed_memory() -> None:
    """Return freed memory to the system if the process has grown by 256 MiB since the last return.

    Batches of many lengths leave gaps of many sizes behind, so a process that decodes for hours would grow. Where there
    is no glibc, it does nothing.
    """
    global _resident_bytes
    trim = _trim_function()
    if trim is None:
        return
    resident_bytes = _read_resident_bytes()
    if resident_bytes > _resident_bytes + _MOST_KEPT_BYTES:
        trim(0)
        _resident_bytes = _read_resident_bytes()


@cache
def _trim_function() -> "ctypes._NamedFuncPointer | None":
    """glibc's malloc_trim."""
    try:
        return ctypes.CDLL("libc.so.6").malloc_trim if Path("/proc/self/statm").is_file() else None
    except (OSError, AttributeError):
        return None


def _read_resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
