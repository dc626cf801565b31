import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from utils.memory import _trim_function

# Blocks below one that is still in use, as other lengths leave them behind.
GROW = """
import numpy as np
from utils.memory import _read_resident_bytes, return_freed_memory
return_freed_memory()
blocks = [np.ones(2**17) for _ in range(400)]
full = _read_resident_bytes()
del blocks[:-1]
assert full - _read_resident_bytes() < 50 * 2**20
return_freed_memory()
assert full - _read_resident_bytes() > 350 * 2**20
# Less than is worth a return.
blocks += [np.ones(2**17) for _ in range(100)]
full = _read_resident_bytes()
del blocks[1:-1]
return_freed_memory()
assert full - _read_resident_bytes() < 50 * 2**20
"""


@pytest.mark.skipif(_trim_function() is None, reason="needs glibc")
def test_freed_memory_is_returned_once_there_is_much_of_it() -> None:
    # As run.sh sets them: the allocator then keeps all that is freed.
    kept = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32), "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run([sys.executable, "-c", GROW], cwd=ROOT, env=os.environ | kept, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
