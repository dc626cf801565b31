"""The codec of stage 1: MelRVQ is fitted on training audio first."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from config.schema import PreprocessSettings
from processors.codecs import build_codec
from processors.codecs.base import Codec
from processors.codecs.mel_rvq import MelRVQ
from processors.manifest import SourceUtterance
from utils.audio import read_audio
from utils.config import resolve_path
from utils.errors import UserError
from utils.log import log


def prepare_codec(
    settings: PreprocessSettings,
    processed_dir: Path,
    root: Path,
    rows: Sequence[SourceUtterance],
    device: torch.device,
) -> Codec:
    """The codec that the settings name; MelRVQ's codebooks are kept in `processed_dir`.

    They come from `preprocess.codec_checkpoint` where it is set; else they are fitted when they are not there, or
    were fitted with other settings.
    """
    if settings.acoustic_token_extractor != "MelRVQ":
        return build_codec(settings, None, root, device)
    path = processed_dir / "mel_rvq.safetensors"
    if settings.codec_checkpoint is not None:
        MelRVQ.load(resolve_path(settings.codec_checkpoint, root)).save(path)
    elif not _is_fitted(path, settings):
        log.info("fitting the codebooks of MelRVQ: %s", path)
        MelRVQ.fit(_training_audio(settings, rows), settings.mel_rvq, settings.sample_rate).save(path)
    return build_codec(settings, path, root, device)


def _is_fitted(path: Path, settings: PreprocessSettings) -> bool:
    if not path.is_file():
        return False
    try:
        fitted = MelRVQ.load(path)
    except UserError:
        return False  # Of another version, or damaged: it is made anew.
    wanted = settings.mel_rvq.model_copy(update={"griffin_lim_iterations": fitted.settings.griffin_lim_iterations})
    return fitted.settings == wanted and fitted.sample_rate_hz == settings.sample_rate


def _training_audio(settings: PreprocessSettings, rows: Sequence[SourceUtterance]) -> Iterator[Tensor]:
    """Audio of randomly chosen training utterances, until there are enough frames; unreadable ones are skipped.

    A corpus without a training split is one to try things on: then all of it counts.
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
            # Stage 1 names it in failures.jsonl when it comes to this utterance.
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
            f"none of {len(candidates)} training utterances has audio that can be read; for example {reason}"
        )
