import subprocess
import sys

from tests.conftest import ROOT

MEASURE = """
import sys
import numpy as np
from numba.core.dispatcher import Dispatcher
from evaluation.locked_librosa import librosa
from evaluation import cepstra, dnsmos, ge2e, pitch

def signatures():
    modules = [module for name, module in sys.modules.items() if name.startswith("librosa")]
    functions = {id(f): f for module in modules for f in vars(module).values() if isinstance(f, Dispatcher)}
    return sorted((f.py_func.__name__, str(s)) for f in functions.values() for s in f.signatures)

compiled, modules = signatures(), {name for name in sys.modules if name.startswith('librosa')}
audio = np.random.default_rng(0).standard_normal(24000).astype(np.float32)
features = cepstra.mel_cepstra(cepstra.trim(audio), 24000)
_, path = cepstra.align(features, features[::-1].copy())
pitch.correlation(*[pitch.log_pitch(audio, 24000)] * 2, path[:10])
ge2e.mel_windows(audio)
dnsmos._log_mel(audio)
assert modules == {name for name in sys.modules if name.startswith('librosa')}
assert compiled and signatures() == compiled, set(signatures()) - set(compiled)
"""


def test_all_functions_are_compiled_under_the_lock() -> None:
    done = subprocess.run([sys.executable, "-c", MEASURE], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
