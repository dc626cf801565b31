"""The demo's results: speech is checked, before and after are compared in pairs, and the picture has all parts."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from matplotlib import pyplot
from torch.utils.tensorboard import SummaryWriter

from egs.tts.VALLE.demo_corpus import Line
from egs.tts.VALLE.demo_report import (
    ROWS,
    check_speech,
    draw,
    losses,
    print_comparison,
    print_table,
    read_systems,
)
from utils.errors import UserError


def test_silence_and_a_missing_file_are_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "batch" / "1_prompt.wav"
    path.parent.mkdir()
    row = {"name": "batch/1_prompt", "audio": "batch/1_prompt.wav", "error": "cut off"}
    (tmp_path / "results.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match="missing"):
        check_speech(tmp_path, ["batch/1_prompt"])
    soundfile.write(path, np.zeros(24000), 24000)
    with pytest.raises(UserError, match="silent"):
        check_speech(tmp_path, ["batch/1_prompt"])
    soundfile.write(path, 0.1 * np.sin(np.arange(24000)), 24000)
    check_speech(tmp_path, ["batch/1_prompt"])
    assert "the speech of 1 of 1 texts did not end by itself" in capsys.readouterr().out


def system(values: dict[str, list[float]]) -> dict:
    """A system as in metrics.json; the names of its utterances are 0, 1, ..."""
    metrics = {key: {"mean": float(np.mean(row)), "low": min(row), "high": max(row)} for key, row in values.items()}
    utterances = {str(i): {key: row[i] for key, row in values.items()} for i in range(len(next(iter(values.values()))))}
    return {"metrics": metrics, "utterances": utterances}


def test_before_and_after_are_compared_sentence_by_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # In every sentence the distance falls by one, although sentences differ by much more.
    before = system({"mcd_db": [2.0, 9.0, 30.0], "sim_o": [0.5, 0.6, 0.7], "wer": [0.0, 0.5, 0.0]})
    after = system({"mcd_db": [1.0, 8.0, 29.0], "sim_o": [0.4, 0.7, 0.7], "wer": [0.0, 0.0, 1.0]})
    content = {
        "systems": {"truth": system({"wer": [0.0]}), "codec": system({"mcd_db": [1.0]}), "x": after, "y": before}
    }
    (tmp_path / "metrics.json").write_text(json.dumps({**content, "missing": {"DNSMOS": "how"}}))
    systems, missing = read_systems(tmp_path / "metrics.json")
    assert list(systems) == list(ROWS) and missing == {"DNSMOS": "how"}
    lines = [Line(str(i), "word " * num, "", Path(), Path()) for i, num in enumerate((2, 6, 2))]
    print_table(systems, 3)
    table = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in table[1:5]] == ["recordings", "codec", "before", "after"]
    assert "13.67 [2.00, 30.00]" in table[3] and "WER %" in table[0] and "CER %" not in table[0]
    print_comparison(systems, lines, str)
    wer, similarity, distance = capsys.readouterr().out.splitlines()
    assert distance == "   MCD dB: after is better than before, by -1.00 (95 % interval -1.00 to -1.00)"
    assert "SIM-o: after is as good as before" in similarity or "0 is in the interval" in similarity
    # 3 of 10 words were wrong, and now 2 of 10.
    assert "WER %: after is better than before, by -10.0" in wer and "0 is in the interval" in wer


def test_the_picture_has_the_losses_and_the_spectrograms(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path / "log")) as writer:
        for step in range(5):
            writer.add_scalar("train/loss", 5 - step, step)
        writer.add_scalar("valid/loss", 2.0, 4)
    assert losses(tmp_path) == {"training": [(step, 5.0 - step) for step in range(5)], "validation": [(4, 2.0)]}
    soundfile.write(tmp_path / "clip.wav", 0.1 * np.sin(np.arange(24000)), 24000)
    clips = dict.fromkeys(("before", "after", "recording"), tmp_path / "clip.wav")
    draw(tmp_path / "demo.png", tmp_path, clips, "A text.")
    assert pyplot.imread(tmp_path / "demo.png").shape[:2] == (660, 1320)
