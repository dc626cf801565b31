"""Checkpoints of the reference recipe give the expected logits and codes, loaded as stage 3 loads them."""

import numpy as np
import pytest
import torch

from models.contract import TokenizedRequest
from models.experiment import Experiment
from models.valle.collate import PrefixMode
from processors.frontends.graphemes import GraphemePhonemizer
from processors.symbols import SymbolTable
from processors.text import TextTokenizer
from synthesis.load import load_synthesizer
from tests.conftest import TEST_DATA, requires
from tests.support.reference import SilentCodec
from utils.checkpoint import resolve_checkpoint

GOLDEN = TEST_DATA / "golden"
FOLDERS = sorted(path.name for path in GOLDEN.glob("valle_*"))
pytestmark = requires(GOLDEN)


@pytest.fixture(params=FOLDERS)
def golden(request):
    source = resolve_checkpoint(GOLDEN / request.param, "--infer_expt_dir")
    experiment = Experiment.of(source)
    settings = experiment.settings(["infer.top_k=1", "infer.precision=fp32"])
    tokenizer = TextTokenizer(GraphemePhonemizer, SymbolTable.load(experiment.symbols), settings.preprocess.add_blank)
    synthesizer = load_synthesizer(source, settings, SilentCodec(), tokenizer, torch.device("cpu"))
    expected = np.load(GOLDEN / request.param / "expected.npz")
    return synthesizer, settings.model, {name: torch.from_numpy(value) for name, value in expected.items()}


def test_teacher_forced_logits(golden) -> None:
    synthesizer, _, expected = golden
    ar = synthesizer.model.ar
    with torch.inference_mode():
        batch = ar(expected["text"], expected["text_lens"], expected["codes"][..., 0], expected["code_lens"])
        for row, (text_len, code_len) in enumerate(zip(expected["text_lens"], expected["code_lens"], strict=True)):
            alone = ar(
                expected["text"][row : row + 1, :text_len],
                text_len[None],
                expected["codes"][row : row + 1, :code_len, 0],
                code_len[None],
            )[0]
            wanted = expected[f"ar_logits_row{row}"].reshape(alone.shape)
            assert (alone - wanted).abs().max() < 2e-4
            assert (batch[row, : len(alone)] - wanted).abs().max() < 2e-4


def test_greedy_inference(golden) -> None:
    synthesizer, settings, expected = golden
    ids, prompt, wanted = expected["infer_text"][0].tolist(), expected["infer_prompt"][0], expected["infer_codes"][0]
    nar_ids = ids
    if settings.prefix_mode in (PrefixMode.SEGMENT, PrefixMode.OTHER_SEGMENT):
        nar_ids = ids[:1] + ids[int(expected["infer_enrolled_text_len"][0]) - 1 :]
    request = TokenizedRequest(ids, len(ids) - len(nar_ids) + 1, prompt, num_target_phones=1)
    assert list(synthesizer.model.nar_ids(request)) == nar_ids
    [generation] = synthesizer.generate([request])
    assert torch.equal(generation.codes, wanted)

    codes = torch.cat([prompt, wanted])[None]
    is_prompt = torch.arange(codes.shape[1])[None] < len(prompt)
    text, lens = torch.tensor([nar_ids]), torch.tensor([codes.shape[1]])
    is_read_whole = is_prompt & (settings.prefix_mode != PrefixMode.NONE)
    for stage in range(1, 8):
        with torch.inference_mode():
            logits = synthesizer.model.nar(text, torch.tensor([len(nar_ids)]), codes, lens, is_read_whole, stage)
        assert (logits[:, len(prompt) :] - expected[f"infer_nar_logits_stage{stage}"]).abs().max() < 2e-4


def test_the_folders_cover_both_stop_reasons() -> None:
    """One ends as the end of speech wins, the others at the maximum length."""
    num_frames = {name: np.load(GOLDEN / name / "expected.npz")["infer_codes"].shape[1] for name in FOLDERS}
    caps = {name: 16 * np.load(GOLDEN / name / "expected.npz")["infer_text"].shape[1] for name in FOLDERS}
    assert {name for name in FOLDERS if num_frames[name] < caps[name]} == {"valle_mode1_eos"}
