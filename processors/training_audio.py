"""Audio of training utterances, to fit a codec on."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from config.schema import PreprocessSettings
from processors.manifest import SourceUtterance
from utils.audio import read_audio
from utils.errors import UserError


def training_audio(settings: PreprocessSettings, rows: Sequence[SourceUtterance]) -> Iterator[Tensor]:
    """Waveforms (N,) of randomly chosen training utterances, until there are `fit_frames` frames.

    Unreadable utterances are skipped. If a corpus has no training split, all of it is used. Raises UserError if no
    utterance can be read.
    """
    candidates = [row for row in rows if row.split == "train"] or list(rows)
    random.Random(settings.split_seed).shuffle(candidates)
    wanted_seconds = settings.mel_rvq.fit_frames / settings.mel_rvq.frame_rate_hz
    reasons: Counter[str] = Counter()
    has_audio = False
    for row in candidates:
        try:
            if row.problem is not None:
                raise UserError(row.problem)
            audio = read_audio(Path(row.audio_path), settings.sample_rate, row.start_seconds, row.duration_seconds)
        except (UserError, OSError, ValueError) as error:
            # Stage 1 will list this utterance in failures.jsonl.
            reasons[str(error)] += 1
            continue
        has_audio = True
        yield audio
        wanted_seconds -= len(audio) / settings.sample_rate
        if wanted_seconds <= 0:
            return
    if not has_audio and reasons:
        [(reason, _)] = reasons.most_common(1)
        raise UserError(
            f"none of {len(candidates)} training utterances has audio that can be read; for example, {reason}"
        )
