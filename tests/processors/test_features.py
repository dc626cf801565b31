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
    assert "cannot read: 你, 好, 世, 界" in str(first.failure) and "п, р, и, в, е, ..." in str(last.failure)
    graphemes = defaults().preprocess.model_copy(update={"phone_extractor": "graphemes"})
    assert [loaded.failure for loaded in UtteranceReader([rows], graphemes, None)[0]] == [None] * 3
