"""What stage 1 reads of a row, and why it leaves one out."""

from pathlib import Path

import torch

from processors.features import UtteranceReader
from processors.manifest import SourceUtterance
from tests.conftest import defaults
from utils.audio import write_audio


def test_a_text_in_another_script_is_a_failure_with_its_letters(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", torch.rand(24000) - 0.5, 24000)
    texts = ["你好世界", "hello there", "say привет"]
    rows = [
        SourceUtterance(f"u{index}", str(tmp_path / "a.wav"), text, "speaker", "train")
        for index, text in enumerate(texts)
    ]
    first, good, last = UtteranceReader([rows], defaults().preprocess, None)[0]
    assert good.failure is None and good.phones
    assert "cannot be read in its language: 你 (CJK UNIFIED IDEOGRAPH-4F60), 好 (CJK" in str(first.failure)
    assert "е (CYRILLIC SMALL LETTER IE), ...; is it" in str(last.failure)
    graphemes = defaults().preprocess.model_copy(update={"phone_extractor": "graphemes"})
    assert [loaded.failure for loaded in UtteranceReader([rows], graphemes, None)[0]] == [None] * 3


def test_a_duration_of_zero_does_not_mean_to_the_end(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", torch.rand(24000) - 0.5, 24000)
    row = SourceUtterance("u", str(tmp_path / "a.wav"), "hello there", "speaker", "train", 0.2, 0.0)
    [loaded] = UtteranceReader([[row]], defaults().preprocess, None)[0]
    assert loaded.failure == "0.00 s is shorter than min_duration 0.5"
