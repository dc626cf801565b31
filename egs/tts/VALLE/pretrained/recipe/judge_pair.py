"""What each codebook of the pair costs or gains: word errors of its speech from the first codebooks alone.

    python -m egs.tts.VALLE.pretrained.recipe.judge_pair --infer_expt_dir EXPERIMENT --list FILE --asr_model DIR

The list is that of stages 3 and 4, with a recording of each text. The rows of the table are the recordings, the
recordings through the codec, the recordings' first codebook with the NAR's others, and the pair's speech.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchaudio.functional import resample

from evaluation.measures import Ratio, interval, word_errors
from evaluation.normalizers import build_normalizer
from evaluation.recognizers import RATE_HZ, build_recognizer
from models.contract import Generation, TokenizedRequest
from models.valle.valle import VALLE
from synthesis.load import load_experiment
from synthesis.synthesizer import Request, Synthesizer
from synthesis.test_lists import ListItem, read_test_list
from utils.audio import read_audio
from utils.cli import find_path
from utils.errors import UserError
from utils.log import progress_bar
from utils.prompts import prepare_prompt


def judge(flags: argparse.Namespace) -> None:
    synthesizer, _ = load_experiment(flags.infer_expt_dir, "--infer_expt_dir", flags.set)
    items = read_test_list(flags.list, lambda path: find_path(path, "--list", flags.list.parent))[: flags.num]
    recognizer, normalize = build_recognizer("whisper", flags.asr_model, language="en"), build_normalizer("en")
    errors: dict[str, list[Ratio]] = {}
    with progress_bar(total=len(items), desc="sentences", unit="sentence") as bar:
        for item in items:
            if not isinstance(item, ListItem) or item.reference_audio is None:
                raise UserError(f"--list: {item.name} is not a line with a recording of the text")
            for system, audio in systems(synthesizer, item):
                transcript = normalize(recognizer.transcribe(audio))
                errors.setdefault(system, []).append(word_errors(normalize(item.text), transcript))
            bar.update()
    for system, counts in errors.items():
        mean, low, high = (100 * value for value in interval(counts))
        print(f"{system:44s} WER {mean:5.1f} ({low:4.1f} to {high:5.1f}) %", flush=True)


@torch.inference_mode()
def systems(synthesizer: Synthesizer, item: ListItem) -> Iterator[tuple[str, np.ndarray]]:
    """The name of each system, and its audio for the item at the recognizer's rate."""
    model, codec = synthesizer.model, synthesizer.codec
    assert isinstance(model, VALLE) and item.reference_audio is not None
    prompt = prepare_prompt(item.prompt_audio, item.prompt_text, codec.sample_rate_hz)
    [request] = synthesizer.tokenize([Request(item.text, prompt.text, prompt.audio)], continual=False)
    if not isinstance(request, TokenizedRequest):
        raise request
    recording = read_audio(item.reference_audio, codec.sample_rate_hz)
    codes = codec.encode(recording[None], torch.tensor([len(recording)]))[0][0].cpu()
    if codec.vectors is not None:
        model.decode_expected(codec.vectors)
    [with_nar] = model.complete([request], [Generation(codes[:, :1], "eos")])
    [pair] = synthesizer.generate([request])
    rows = {"recording, codec": Generation(codes, "eos"), "recording's first codebook, NAR": with_nar, "pair": pair}
    yield "recording", at_recognizer_rate(recording, codec.sample_rate_hz)
    for name, row in rows.items():
        for num in range(1, row.codes.shape[1] + 1):
            if name.endswith("NAR") and num == 1:
                continue  # The same as the codec's.
            [audio] = synthesizer.decode([row.codes[:, :num]])
            yield f"{name}, {num} codebooks", at_recognizer_rate(audio, codec.sample_rate_hz)
        if row.vectors is not None:
            [audio] = synthesizer.decode_generations([row])
            yield f"{name}, expected vectors", at_recognizer_rate(audio, codec.sample_rate_hz)


def at_recognizer_rate(audio: Tensor, rate_hz: int) -> np.ndarray:
    return resample(audio, rate_hz, RATE_HZ).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--infer_expt_dir", type=Path, required=True, help="experiment with the pair")
    parser.add_argument("--list", type=Path, required=True, help="a test list with recordings")
    parser.add_argument("--num", type=int, help="judge only the first lines of the list")
    parser.add_argument("--asr_model", help="Whisper: a folder or a name (default large-v3)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting")
    try:
        judge(parser.parse_args())
    except (UserError, OSError) as error:
        sys.exit(f"judge_pair: {error}")


if __name__ == "__main__":
    main()
