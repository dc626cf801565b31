"""How well the pair's attention finds words: times of words, and words that are missing or repeated.

    python -m egs.tts.VALLE.pretrained.recipe.judge_words --infer_expt_dir EXPERIMENT --sentences dev

espeak-ng says when it speaks each word of a rendering. The rendering's codes are read by the AR, whole, with the frames
of one word cut out, and with the frames of one word twice.
"""

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchaudio.functional import resample

from egs.tts.VALLE.pretrained.recipe.corpus import CLEAR_VOICES, HERE, lines_of
from egs.tts.VALLE.pretrained.recipe.test_list import PROMPT_TEXTS
from models.contract import TokenizedRequest
from processors.espeak_speech import SAMPLE_RATE_HZ, espeak_synthesizer
from synthesis.load import load_experiment
from synthesis.suspects import Suspect
from synthesis.synthesizer import Request, Synthesizer
from synthesis.words import Word, split_words
from utils.errors import UserError
from utils.log import progress_bar

# Words of fewer letters have too few phones to be suspects.
_FEWEST_LETTERS = 4


def true_starts(text: str, starts: dict[int, float]) -> list[float | None]:
    """When each of `split_words` begins; None for a word that espeak-ng reads as part of another."""
    found, position = [], 0
    for word in split_words(text):
        first = position + next((index for index, letter in enumerate(word) if letter.isalnum()), 0)
        found.append(starts.get(first))
        position += len(word)
    return found


def read(
    synthesizer: Synthesizer, request: TokenizedRequest, text: str, codes: Tensor
) -> tuple[tuple[Word, ...], tuple[Suspect, ...]]:
    """The words and the suspects of codes (T, Q) that are given as the speech of a text."""
    aligner, model = synthesizer.aligner, synthesizer.model
    assert aligner is not None
    readings = model.read_codes([request], [codes], aligner.heads(model, [request]))
    alignment = aligner.align(request, readings[0], False, model.frames_per_step)
    return aligner.find_words([text], [alignment])[0]


@torch.inference_mode()
def judge(synthesizer: Synthesizer, sentences: Sequence[str]) -> dict[str, list[float]]:
    """For each measure its values: errors in seconds, or 1 for a word that was found, and 0 for one that was not."""
    rate_hz, frame_rate_hz = synthesizer.codec.sample_rate_hz, synthesizer.codec.frame_rate_hz
    choice = random.Random(0)
    measured: dict[str, list[float]] = {
        key: [] for key in ("error of a start", "suspects of a sound word", "skipped word found", "repeated word found")
    }
    with (
        espeak_synthesizer() as espeak,
        progress_bar(total=len(sentences), desc="sentences", unit="sentence") as bar,
    ):
        for number, text in enumerate(sentences):
            voice, prompt_text = CLEAR_VOICES[number % len(CLEAR_VOICES)], PROMPT_TEXTS[number % len(PROMPT_TEXTS)]
            prompt, audio = (
                resample(torch.from_numpy(espeak.speak(of_one, voice)), SAMPLE_RATE_HZ, rate_hz)
                for of_one in (prompt_text, text)
            )
            starts = true_starts(text, espeak.word_starts)
            [request] = synthesizer.tokenize([Request(text, prompt_text, prompt)], continual=False)
            if not isinstance(request, TokenizedRequest):
                raise request
            [codes] = synthesizer.encode([audio])
            words, suspects = read(synthesizer, request, text, codes)
            measured["suspects of a sound word"] += [len(suspects) / len(words)]
            if len(words) == len(starts):
                errors = [
                    abs(word.start - start) for word, start in zip(words, starts, strict=True) if start is not None
                ]
                measured["error of a start"] += errors
            # Words whose both ends are known.
            known = [
                (word, start, after)
                for word, start, after in zip(split_words(text), starts, [*starts[1:], None], strict=True)
                if start is not None and after is not None and sum(map(str.isalnum, word)) >= _FEWEST_LETTERS
            ]
            if not known:
                continue
            word, start, after = choice.choice(known)
            first, last = round(start * frame_rate_hz), round(after * frame_rate_hz)
            changed = {
                "skipped": torch.cat([codes[:first], codes[last:]]),
                "repeated": torch.cat([codes[:last], codes[first:]]),
            }
            for problem, rows in changed.items():
                _, suspects = read(synthesizer, request, text, rows)
                is_found = any(one.problem == problem and one.word == word.strip() for one in suspects)
                measured[f"{problem} word found"].append(float(is_found))
            bar.update()
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--infer_expt_dir", type=Path, required=True, help="experiment with the pair")
    parser.add_argument("--sentences", choices=("dev", "test"), required=True, help="dev for choices, test for figures")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting")
    flags = parser.parse_args()
    try:
        synthesizer, _ = load_experiment(flags.infer_expt_dir, "--infer_expt_dir", flags.set)
        if synthesizer.aligner is None:
            raise UserError("--infer_expt_dir: the model finds no words, or infer.word_times is false")
        measured = judge(synthesizer, lines_of(HERE / f"sentences_{flags.sentences}.txt"))
    except (UserError, OSError) as error:
        sys.exit(f"judge_words: {error}")
    errors = np.array(measured.pop("error of a start")) * 1000
    median, high = np.quantile(errors, [0.5, 0.9])
    print(f"starts of {len(errors)} words: median error {median:.0f} ms, 90 % of them at most {high:.0f} ms")
    for name, values in measured.items():
        print(f"{name}: {100 * np.mean(values):.1f} % ({len(values)} sentences)")


if __name__ == "__main__":
    main()
