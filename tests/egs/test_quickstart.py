"""The notebook, run cell by cell in its own folder, with a tiny pair."""

import json
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT
from tests.support.pair import Trained, trained

__all__ = ["trained"]

NOTEBOOK = ROOT / "egs" / "tts" / "VALLE" / "quickstart.ipynb"
CONTENT = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
CODE = ["".join(cell["source"]) for cell in CONTENT["cells"] if cell["cell_type"] == "code"]
# Jupyter shows what a cell ends with; here its player only checks that the file is there.
IPYTHON = """
import sys, types
from pathlib import Path

def Audio(path):
    assert Path(path).stat().st_size > 1000
    print("played", path)

sys.modules["IPython"] = types.ModuleType("IPython")
sys.modules["IPython.display"] = types.ModuleType("IPython.display")
sys.modules["IPython.display"].Audio = Audio
"""


def test_the_notebook_runs(trained: Trained, tmp_path: Path) -> None:
    # The tiny pair has the symbols of a few words; the recording is read with those.
    cells = [cell.replace("folder = None", f"folder = {str(trained.nar)!r}") for cell in CODE]
    assert cells != CODE
    # Before the voice is removed by the last cell.
    cells.insert(-1, "assert 'quickstart' in tts.voices and vallet.load(folder).voices == tts.voices")
    program = tmp_path / "program.py"
    program.write_text("\n".join([IPYTHON, *cells]), encoding="utf-8")
    environment = {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "VALLET_VOICES": str(tmp_path / "voices"),
        "TMPDIR": str(tmp_path),
        "HOME": str(tmp_path),
    }
    command = [sys.executable, str(program)]
    done = subprocess.run(command, cwd=NOTEBOOK.parent, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "24000 Hz; saved voices: []" in done.stdout and done.stdout.count("played ") == 2
    assert done.stdout.count("s are ready") == 2
    [written] = tmp_path.glob("vallet-*")
    assert sorted(path.name for path in written.iterdir()) == ["speech.wav", "story.wav"]
    assert not list((tmp_path / "voices").iterdir())


def test_the_notebook_is_stored_without_outputs() -> None:
    for cell in CONTENT["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
    assert (CONTENT["nbformat"], CONTENT["nbformat_minor"]) == (4, 5)
