"""What the learned codec costs: word errors and DNSMOS of speech through its first codebooks, beside the recordings.

    python -m egs.tts.VALLE.pretrained.recipe.judge_codec --codec speech_rvq.safetensors --list FILE --asr_model DIR

The list has a line `text<TAB>audio` for each clip.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import soundfile
import torch

from evaluation.dnsmos import build_dnsmos
from evaluation.measures import interval, word_errors
from evaluation.normalizers import build_normalizer
from evaluation.recognizers import RATE_HZ, build_recognizer
from processors.codecs.speech_rvq import SpeechRVQ
from utils.audio import read_audio
from utils.errors import UserError
from utils.log import progress_bar


def judge(flags: argparse.Namespace) -> None:
    codec = SpeechRVQ.load(flags.codec)
    rows = [line.split("\t") for line in flags.list.read_text(encoding="utf-8").splitlines()]
    recordings = [read_audio(Path(audio), codec.sample_rate_hz) for _, audio in rows]
    systems = {"recordings": recordings}
    for number in flags.codebooks:
        systems[f"{number} codebooks"] = [through(codec, audio, number) for audio in recordings]
    recognizer, normalize = build_recognizer("whisper", flags.asr_model, language="en"), build_normalizer("en")
    rater = build_dnsmos(flags.dnsmos_dir) if flags.dnsmos_dir else None
    print(f"{'':14s} {'WER %':>18s}" + (f" {'SIG':>6s} {'BAK':>6s} {'OVRL':>6s}" if rater else ""))
    for name, clips in systems.items():
        errors, ratings = [], []
        with progress_bar(total=len(clips), desc=name, unit="clip") as bar:
            for i, (clip, (text, _)) in enumerate(zip(clips, rows, strict=True)):
                audio = clip.numpy()
                errors.append(word_errors(normalize(text), normalize(recognizer.transcribe(audio))))
                ratings.append(rater.rate(audio)[:3] if rater else ())
                if flags.output_dir:
                    folder = flags.output_dir / name.replace(" ", "_")
                    folder.mkdir(parents=True, exist_ok=True)
                    soundfile.write(folder / f"{i:03d}.wav", audio, RATE_HZ)
                bar.update()
        mean, low, high = (100 * value for value in interval(errors))
        shown = "".join(f" {value:6.2f}" for value in np.mean(ratings, axis=0)) if rater else ""
        print(f"{name:14s} {mean:5.1f} ({low:4.1f}-{high:5.1f})" + shown, flush=True)


def through(codec: SpeechRVQ, audio: torch.Tensor, num_codebooks: int) -> torch.Tensor:
    """A waveform (N,) as the codec gives it back from its first codebooks."""
    codes, lens = codec.encode(audio[None], torch.tensor([len(audio)]))
    return codec.decode(codes[..., :num_codebooks], lens)[0][0, : len(audio)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--codec", type=Path, required=True, help="weights of SpeechRVQ")
    parser.add_argument("--list", type=Path, required=True, help="lines of text<TAB>audio")
    parser.add_argument("--codebooks", type=int, nargs="+", default=[1, 2, 4, 8], help="how many are used, in turn")
    parser.add_argument("--asr_model", help="Whisper: a folder or a name (default large-v3)")
    parser.add_argument("--dnsmos_dir", type=Path, help="folder with DNSMOS's networks")
    parser.add_argument("--output_dir", type=Path, help="also write the audio here")
    try:
        judge(parser.parse_args())
    except (UserError, OSError) as error:
        sys.exit(f"judge_codec: {error}")


if __name__ == "__main__":
    main()
