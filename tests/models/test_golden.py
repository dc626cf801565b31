"""The models compute what checkpoints of the reference format expect."""

import json5
import numpy as np
import pytest
import torch

from models.valle.valle import VALLE
from modules.sampling import Sampler
from tests.conftest import SHARED, tiny_model

GOLDEN = SHARED / "golden"
FOLDERS = sorted(path.name for path in GOLDEN.glob("valle_*"))
pytestmark = pytest.mark.skipif(not FOLDERS, reason="the golden numbers are not at hand")


@pytest.fixture(params=FOLDERS)
def golden(request):
    folder = GOLDEN / request.param
    args = json5.loads((folder / "args.json").read_text())["model"]
    args["nar_scale_factor"] = float(args["nar_scale_factor"])
    settings = tiny_model(**{**args, "text_token_num": 512, "audio_token_num": 1024})
    model = VALLE(settings).eval()
    weights = torch.load(next(folder.glob("checkpoint/*/pytorch_model.bin")), weights_only=True)
    assert model.load_named_weights(weights) == []
    expected = {name: torch.from_numpy(value) for name, value in np.load(folder / "expected.npz").items()}
    return model, settings, expected


def test_teacher_forced_logits(golden) -> None:
    model, _, expected = golden
    with torch.inference_mode():
        batch = model.ar(expected["text"], expected["text_lens"], expected["codes"][..., 0], expected["code_lens"])
        for row, (text_len, code_len) in enumerate(zip(expected["text_lens"], expected["code_lens"], strict=True)):
            alone = model.ar(
                expected["text"][row : row + 1, :text_len],
                text_len[None],
                expected["codes"][row : row + 1, :code_len, 0],
                code_len[None],
            )[0]
            wanted = expected[f"ar_logits_row{row}"].reshape(alone.shape)
            assert (alone - wanted).abs().max() < 2e-4
            assert (batch[row, : len(alone)] - wanted).abs().max() < 2e-4


def test_greedy_inference(golden) -> None:
    model, settings, expected = golden
    text, prompt = expected["infer_text"], expected["infer_prompt"]
    text_lens, prompt_lens = torch.tensor([text.shape[1]]), torch.tensor([prompt.shape[1]])
    cap = 16 * text_lens + 1 - int(settings.prepend_bos)
    [new] = model.ar.generate(text, text_lens, prompt[..., 0], prompt_lens, Sampler(top_k=1), 0, torch.tensor([1]), cap)
    wanted = expected["infer_codes"]
    assert torch.equal(new.codes, wanted[0, :, 0])

    if settings.prefix_mode in (2, 4):
        text = torch.cat([text[:, :1], text[:, int(expected["infer_enrolled_text_len"][0]) - 1 :]], dim=1)
    codes = torch.cat([prompt, torch.zeros_like(wanted)], dim=1)
    codes[0, prompt.shape[1] :, 0] = new.codes
    lens = torch.tensor([codes.shape[1]])
    is_prompt = torch.arange(codes.shape[1])[None] < prompt.shape[1]
    text_lens = torch.tensor([text.shape[1]])
    whole = settings.prefix_mode != 0
    filled = model.nar.generate(text, text_lens, codes, lens, is_prompt, whole)
    assert torch.equal(filled[:, prompt.shape[1] :], wanted)
    for stage in range(1, 8):
        with torch.inference_mode():
            logits = model.nar(text, text_lens, filled, lens, is_prompt & whole, stage)[:, prompt.shape[1] :]
        assert (logits - expected[f"infer_nar_logits_stage{stage}"]).abs().max() < 2e-4
