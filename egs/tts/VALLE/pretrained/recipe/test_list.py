"""Test lists by which the pretrained pair is judged: every evaluation sentence, with a prompt that no training saw.

    python -m egs.tts.VALLE.pretrained.recipe.test_list --voices espeak --sentences dev --output_dir FOLDER

Stages 3 and 4 read the list. `espeak` are ten voices of the training, whose own renderings are the references. The
other voices are real ones that no training heard: speakers of Speechocean762, for choices, and for the final figures
Kathleen and LibriSpeech.
"""

import argparse
import json
import random
import sys
from collections import defaultdict
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

from egs.tts.VALLE.pretrained.recipe.corpus import CLEAR_VOICES, HERE, excluded, lines_of, write_clip
from processors.custom import read_custom
from processors.espeak_speech import espeak_synthesizer
from utils.audio import read_duration_seconds
from utils.errors import UserError
from utils.files import atomic_write

PROMPT_TEXTS = (
    "The harbour was quiet, and all the boats were tied up.",
    "Seven tall trees grow behind the wall of the old mill.",
    "He wrote a letter to his aunt about the long journey.",
    "Bring the heavy box upstairs before the guests arrive.",
    "A cold wind blew across the field as the sun went down.",
)
# About as long as the prompts of VALL-E's experiments.
SHORTEST_SECONDS, LONGEST_SECONDS = 2.5, 5.0


class HeldOutUtterance(NamedTuple):
    text: str
    audio: Path


def espeak_lines(sentences: list[str], folder: Path) -> list[str]:
    """Lines of the list with prompts and references that are rendered into the folder."""
    lines = []
    with espeak_synthesizer() as espeak:
        for i, sentence in enumerate(sentences):
            voice, prompt = CLEAR_VOICES[i % len(CLEAR_VOICES)], PROMPT_TEXTS[i % len(PROMPT_TEXTS)]
            name = f"{i:02d}_{voice.variant}"
            paths = folder / "prompts" / f"{name}.flac", folder / "references" / f"{name}.flac"
            for path, text in zip(paths, (prompt, sentence), strict=True):
                if write_clip(path, espeak, text, voice) is None:
                    raise UserError(f"{path}: the sentence is too short or too long for a clip")
            lines.append(f"{sentence}|{prompt}|{paths[0].resolve()}|{paths[1].resolve()}\n")
    return lines


def real_lines(sentences: list[str], prompts: dict[str, list[HeldOutUtterance]]) -> list[str]:
    """Lines of the list with a prompt of each speaker in turn, of a fitting length, drawn with a fixed seed."""
    choice, lines = random.Random(0), []
    for sentence, speaker in zip(sentences, cycle(sorted(prompts)), strict=False):
        fitting = [
            prompt
            for prompt in prompts[speaker]
            if SHORTEST_SECONDS <= read_duration_seconds(prompt.audio) <= LONGEST_SECONDS
        ]
        if not fitting:
            raise UserError(f"no utterance of {speaker} lasts {SHORTEST_SECONDS:g} to {LONGEST_SECONDS:g} s")
        prompt = choice.choice(fitting)
        lines.append(f"{sentence}|{prompt.text}|{prompt.audio}\n")
    return lines


def prompts_of(voices: str, speech: Path) -> dict[str, list[HeldOutUtterance]]:
    """The utterances of each speaker who is held out from every training."""
    prompts = defaultdict(list)
    if voices == "speechocean762":
        held_out = set(excluded()["speechocean762_speakers"])
        for row in map(json.loads, lines_of(speech / "Speechocean762" / "all.jsonl")):
            if row["speaker"] in held_out:
                prompts[row["speaker"]].append(HeldOutUtterance(row["text"], speech / "Speechocean762" / row["audio"]))
    elif voices == "kathleen":
        for found in read_custom(speech / "Kathleen"):
            prompts["kathleen"].append(HeldOutUtterance(found.text or "", Path(found.audio_path)))
    else:
        for path in sorted((speech / "LibriSpeech" / "test-other").rglob("*.trans.txt")):
            for line in lines_of(path):
                name, _, text = line.partition(" ")
                prompts[path.parts[-3]].append(HeldOutUtterance(text.lower(), path.with_name(f"{name}.flac")))
    if not prompts:
        raise UserError(f"--speech: {speech} has no speech of {voices}")
    return prompts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    voices = ("espeak", "speechocean762", "kathleen", "librispeech")
    parser.add_argument("--voices", choices=voices, required=True)
    parser.add_argument("--sentences", choices=("dev", "test"), required=True, help="dev for choices, test for figures")
    parser.add_argument("--speech", type=Path, help="folder of the real corpora, each in its own layout")
    parser.add_argument("--output_dir", type=Path, required=True, help="for list.txt, and espeak-ng's audio")
    flags = parser.parse_args()
    if flags.voices != "espeak" and flags.speech is None:
        parser.error(f"--voices {flags.voices} needs --speech")
    sentences = lines_of(HERE / f"sentences_{flags.sentences}.txt")
    try:
        if flags.voices == "espeak":
            lines = espeak_lines(sentences, flags.output_dir)
        else:
            lines = real_lines(sentences, prompts_of(flags.voices, flags.speech.resolve()))
        with atomic_write(flags.output_dir / "list.txt") as path:
            path.write_text("".join(lines), encoding="utf-8")
    except (UserError, OSError) as error:
        sys.exit(f"test_list: {error}")
    print(f"{flags.output_dir / 'list.txt'}: {len(lines)} lines")


if __name__ == "__main__":
    main()
