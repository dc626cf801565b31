"""The demo's corpus: a voice that the pretrained pair has never heard, and the sentences to evaluate it with."""

import json
import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from egs.tts.VALLE.pretrained.recipe.corpus import HERE, excluded, lines_of, may_train_on, write_clip
from processors.demo_sentences import SHORT_TEMPLATES, fill, sentences
from processors.espeak_speech import Voice, espeak_synthesizer
from utils.errors import UserError
from utils.log import progress_bar
from utils.paths import ROOT

SHORT_SHARE, DOUBLE_SHARE = 0.12, 0.2
"""Shares of texts that are a few words, and of those that are two sentences."""
SHORTEST_PROMPT_SECONDS, LONGEST_PROMPT_SECONDS = 2.5, 4.0


@dataclass(frozen=True)
class Line:
    """A line of the test list; `name` is that of its output, without the suffix."""

    name: str
    text: str
    text_prompt: str
    audio_prompt: Path
    recording: Path


def new_voice() -> Voice:
    """The voice that the recipe of the pretrained pair excludes from its training."""
    return Voice("new_voice", "", **excluded()["espeak_voice"], pitch_range=40)


def evaluation_sentences(num: int) -> list[str]:
    return lines_of(HERE / "sentences_dev.txt")[:num]


def training_texts(seed: int) -> Iterator[str]:
    """Endless texts that share no five consecutive words with an evaluation sentence."""
    choice, source = random.Random(seed), sentences(seed)
    while True:
        draw = choice.random()
        if draw < SHORT_SHARE:
            text = fill(choice.choice(SHORT_TEMPLATES), choice)
        else:
            text = next(source)
            if draw > 1 - DOUBLE_SHARE:
                text += f" {next(source)}"
        if may_train_on(text):
            yield text


def write_corpus(folder: Path, minutes: float, num_sentences: int, seed: int = 0) -> None:
    """Write about this many minutes of the voice as a `custom` corpus, and its renderings of the evaluation sentences.

    The folder has `metadata.jsonl`, whose test split is one prompt for each sentence, and `recordings/`. It gets its
    name when it is complete, and replaces an earlier one.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    voice, total_seconds = new_voice(), 0.0
    rows: list[dict[str, str]] = []
    full_seconds = round(60 * minutes)
    missing = {"test": num_sentences, "valid": -(-num_sentences // 2)}
    with (
        espeak_synthesizer() as espeak,
        progress_bar(total=full_seconds, desc="corpus", unit="s of speech") as bar,
    ):
        for number, sentence in enumerate(evaluation_sentences(num_sentences)):
            if write_clip(partial / "recordings" / f"{number:02d}.flac", espeak, sentence, voice) is None:
                raise UserError(f"sentence {number + 1} of {HERE / 'sentences_dev.txt'} is too short or too long")
        for text in training_texts(seed):
            if total_seconds >= full_seconds and not any(missing.values()):
                break
            audio = f"audio/{len(rows):05d}.flac"
            seconds = write_clip(partial / audio, espeak, text, voice)
            if seconds is None:
                continue
            is_prompt = missing["test"] and SHORTEST_PROMPT_SECONDS <= seconds <= LONGEST_PROMPT_SECONDS
            split = "test" if is_prompt else "valid" if missing["valid"] else "train"
            if split in missing:
                missing[split] -= 1
            rows.append({"audio": audio, "text": text, "speaker": voice.speaker, "split": split})
            total_seconds += seconds
            bar.update(min(round(total_seconds), full_seconds) - bar.n)
    (partial / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def evaluation_lines(corpus: Path, num_sentences: int) -> list[Line]:
    """The evaluation sentences, each with a prompt of the voice that no training uses, and with its recording."""
    rows = map(json.loads, lines_of(corpus / "metadata.jsonl"))
    prompts = [row for row in rows if row["split"] == "test"]
    lines = []
    for number, (text, row) in enumerate(zip(evaluation_sentences(num_sentences), prompts, strict=True)):
        prompt = corpus / row["audio"]
        recording = corpus / "recordings" / f"{number:02d}.flac"
        lines.append(Line(f"batch/{number + 1}_{prompt.stem}", text, row["text"], prompt, recording))
    return lines


def write_test_list(path: Path, lines: list[Line]) -> None:
    """Write a test list for stages 3 and 4, with the recording of each text as its reference."""
    rows = []
    for line in lines:
        prompt, recording = (os.path.relpath(audio, ROOT) for audio in (line.audio_prompt, line.recording))
        rows.append(f"{line.text}|{line.text_prompt}|{prompt}|{recording}\n")
    path.write_text("".join(rows), encoding="utf-8")
