"""The corpus that the pretrained pair and its codec are trained on: espeak-ng voices and real speakers.

    python -m egs.tts.VALLE.pretrained.recipe.corpus --text SENTENCES --speech FOLDER --output_dir FOLDER

It writes the audio and `metadata.jsonl`, which `dataset: ["custom"]` reads. `excluded.json` beside this file
names what no training may use: voices, speakers and whole corpora. Sentences that share five consecutive words with
an evaluation sentence are left out.
"""

import argparse
import json
import random
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import soundfile
import torch
from torchaudio.functional import resample

from processors.demo_sentences import SHORT_TEMPLATES, fill, sentences
from processors.espeak_speech import SAMPLE_RATE_HZ, EspeakSynthesizer, Voice, espeak_synthesizer
from utils.audio import read_audio
from utils.errors import UserError
from utils.files import atomic_write
from utils.log import progress_bar

HERE = Path(__file__).resolve().parent
SHARED_WORDS = 5
"""An evaluation sentence may share fewer consecutive words than this with a training text."""
SHORTEST_SECONDS, LONGEST_SECONDS = 0.6, 14.0
# A rendering is written at the codec's rate: resampling again would only cost time.
RATE_HZ = 16000

# Per cent of the recordings' own speed.
SPEEDS = (100, 90, 111)

# The ten variants of espeak-ng that a recognizer understands best; half of the rendered speech is theirs.
CLEAR_VOICES = tuple(
    Voice(f"clear_{variant}", gender, variant, pitch, words_per_minute, 40)
    for variant, gender, pitch, words_per_minute in (
        ("victor", "M", 45, 160),
        ("Gene", "M", 50, 165),
        ("m3", "M", 40, 168),
        ("f5", "F", 58, 165),
        ("m8", "M", 50, 160),
        ("f2", "F", 50, 165),
        ("f3", "F", 50, 170),
        ("m1", "M", 45, 165),
        ("quincy", "M", 40, 162),
        ("adam", "M", 50, 168),
    )
)
# Variants that are understood less well, but are still speech. Those of klatt synthesis use the C library's random
# state, and whispers, robots and variants with echo are not voices that anyone imitates.
OTHER_VARIANTS = (
    *("Alex", "Alicia", "Andrea", "Annie", "Denis", "Gene2", "Henrique", "Hugo", "Jacky", "Lee", "Marco", "Mario"),
    *("Michael", "Mike", "Reed", "anika", "announcer", "antonio", "aunty", "belinda", "benjamin", "caleb", "david"),
    *("ed", "edward", "edward2", "f1", "f4", "gustave", "ian", "iven", "iven2", "iven3", "iven4", "john", "kaukovalta"),
    *("linda", "m2", "m4", "m5", "m6", "m7", "marcelo", "max", "michel", "miguel", "mike2", "norbert", "pablo", "paul"),
    *("pedro", "rob", "robert", "sandro", "steph", "steph2", "steph3", "travis", "victor", "zac"),
)


@cache
def excluded() -> dict[str, Any]:
    return json.loads((HERE / "excluded.json").read_text())


def evaluation_sentences() -> list[str]:
    """The sentences by which the pair is chosen, and those of the final figures."""
    return [line for name in ("dev", "test") for line in (HERE / f"sentences_{name}.txt").read_text().splitlines()]


def tokens(text: str) -> tuple[str, ...]:
    """The words of a text in lower case, without punctuation."""
    return tuple(re.findall(r"[a-z0-9']+", text.lower().replace("’", "'")))


def word_runs(text: str) -> set[tuple[str, ...]]:
    """All runs of `SHARED_WORDS` consecutive words."""
    words = tokens(text)
    return {words[i : i + SHARED_WORDS] for i in range(len(words) - SHARED_WORDS + 1)}


@cache
def evaluation_runs() -> frozenset[tuple[str, ...]]:
    return frozenset().union(*map(word_runs, evaluation_sentences()))


def may_train_on(text: str) -> bool:
    """Whether the text shares no run of words with an evaluation sentence."""
    return not (word_runs(text) & evaluation_runs())


def random_voice(choice: random.Random) -> Voice:
    """A voice of a random variant, pitch and rate. Its name has all three: each combination is a separate speaker."""
    variant = choice.choice(OTHER_VARIANTS)
    pitch, words_per_minute = choice.randrange(20, 80, 5), choice.randrange(140, 190, 5)
    return Voice(
        f"{variant}_{pitch}_{words_per_minute}", "", variant, pitch, words_per_minute, choice.choice((20, 40, 60))
    )


def is_excluded(voice: Voice) -> bool:
    held_out = excluded()["espeak_voice"]
    manner = held_out["pitch"], held_out["words_per_minute"]
    return voice.variant == held_out["variant"] or (voice.pitch, voice.words_per_minute) == manner


def texts(path: Path, choice: random.Random) -> Iterator[str]:
    """Endless texts: three of four from the file, in another order each time, the others from templates."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if may_train_on(line)]
    templates = sentences(choice.randrange(1 << 30))
    while True:
        for line in choice.sample(lines, len(lines)):
            yield line
            draw = choice.random()
            if draw < 0.1:
                yield fill(choice.choice(SHORT_TEMPLATES), choice)
            elif draw < 0.33:
                yield next(templates)


def render_espeak(folder: Path, text_file: Path, hours: float, seed: int) -> Iterator[dict[str, str]]:
    """Render about so many hours, and yield a row of the manifest for each clip."""
    choice = random.Random(seed)
    source, voices = texts(text_file, choice), [voice for voice in CLEAR_VOICES if not is_excluded(voice)]
    seconds, number = 0.0, 0
    with espeak_synthesizer() as espeak, progress_bar(total=round(hours * 3600), desc="espeak-ng", unit="s") as bar:
        while seconds < hours * 3600:
            voice = choice.choice(voices) if choice.random() < 0.5 else random_voice(choice)
            if is_excluded(voice):
                continue
            # One voice speaks a few texts in a row, so that every speaker has several utterances.
            for _ in range(4):
                text = next(source)
                path = folder / "espeak" / f"{number // 1000:03d}" / f"{number:06d}.flac"
                duration = write_clip(path, espeak, text, voice)
                if duration is None:
                    continue
                yield {"audio": str(path.relative_to(folder)), "text": text, "speaker": voice.speaker}
                seconds, number = seconds + duration, number + 1
                bar.update(round(seconds) - bar.n)


def write_clip(path: Path, espeak: EspeakSynthesizer, text: str, voice: Voice) -> float | None:
    """Write the text in this voice; returns its seconds, or None if it is too short or too long."""
    audio = espeak.speak(text, voice)
    seconds = len(audio) / SAMPLE_RATE_HZ
    if not SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS:
        return None
    write_flac(path, resample(torch.from_numpy(audio), SAMPLE_RATE_HZ, RATE_HZ))
    return seconds


def write_flac(path: Path, audio: torch.Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio.numpy().clip(-1, 1), RATE_HZ, subtype="PCM_16")


def copy_real(rows: list[dict[str, str]], folder: Path) -> Iterator[dict[str, str]]:
    """Copy real speech at its own speed and at two others, and yield a row of the manifest for each copy.

    Another speed changes the pitch and the formants, so the copy counts as another speaker.
    """
    with progress_bar(total=len(SPEEDS) * len(rows), desc="real speech", unit="clip") as bar:
        for number, row in enumerate(rows):
            audio = read_audio(Path(row["audio"]), RATE_HZ)
            for speed in SPEEDS:
                path = folder / "real" / f"{number // 1000:03d}" / f"{number:06d}_{speed}.flac"
                write_flac(path, resample(audio, round(RATE_HZ * speed / 100), RATE_HZ))
                speaker = row["speaker"] if speed == 100 else f"{row['speaker']}_{speed}"
                yield {"audio": str(path.relative_to(folder)), "text": row["text"], "speaker": speaker}
                bar.update()


def real_speech(speech: Path) -> Iterator[dict[str, str]]:
    """Rows of the real corpora that the folder has, without what is excluded."""
    ocean, lj = speech / "Speechocean762", speech / "LJSpeech-1.1"
    for row in map(json.loads, lines_of(ocean / "all.jsonl")):
        if row["speaker"] not in excluded()["speechocean762_speakers"]:
            speaker = f"speechocean762_{row['speaker']}"
            yield {"audio": str(ocean / row["audio"]), "text": row["text"], "speaker": speaker}
    for line in lines_of(lj / "metadata.csv"):
        name, *_, text = line.split("|")
        yield {"audio": str(lj / "wavs" / f"{name}.wav"), "text": text, "speaker": "lj"}
    for path in sorted((speech / "VCTK-Corpus-0.92" / "txt").rglob("*.txt")):
        clips = speech / "VCTK-Corpus-0.92" / "wav48_silence_trimmed" / path.parent.name
        audio, speaker = clips / f"{path.stem}_mic2.flac", f"vctk_{path.parent.name}"
        yield {"audio": str(audio), "text": path.read_text().strip(), "speaker": speaker}
    for path in sorted((speech / "LibriTTS").rglob("*.normalized.txt")):
        audio = path.with_name(path.name.replace(".normalized.txt", ".wav"))
        yield {"audio": str(audio), "text": path.read_text().strip(), "speaker": f"libritts_{path.name.split('_')[0]}"}


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def write_corpus(text_file: Path, speech: Path, folder: Path, hours: float, seed: int) -> None:
    """Write the audio, `real.jsonl`, `espeak.jsonl`, and both of them as `metadata.jsonl`."""
    real = [row for row in real_speech(speech.resolve()) if may_train_on(row["text"])]
    if not real:
        raise UserError(f"--speech: {speech} has none of Speechocean762, LJSpeech-1.1, VCTK-Corpus-0.92 and LibriTTS")
    folder.mkdir(parents=True, exist_ok=True)
    rows = {"real": list(copy_real(real, folder)), "espeak": list(render_espeak(folder, text_file, hours, seed))}
    for name, part in (*rows.items(), ("metadata", [*rows["real"], *rows["espeak"]])):
        with atomic_write(folder / f"{name}.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    print(f"{folder}: {len(rows['espeak'])} rendered and {len(rows['real'])} real utterances")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True, help="sentences to render, one a line")
    parser.add_argument("--speech", type=Path, required=True, help="folder of the real corpora, each in its own layout")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for metadata.jsonl and the audio")
    parser.add_argument("--hours", type=float, default=30, help="of rendered speech (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    try:
        write_corpus(arguments.text, arguments.speech, arguments.output_dir, arguments.hours, arguments.seed)
    except (UserError, OSError) as error:
        sys.exit(f"corpus: {error}")


if __name__ == "__main__":
    main()
