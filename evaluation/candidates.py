"""Lends synthesis a speech recognizer, by which `infer.rank_by: "asr"` ranks candidates."""

from functools import cache

from torch import Tensor

from evaluation.recognizers import RATE_HZ, build_recognizer
from synthesis.synthesizer import Synthesizer
from utils.errors import UserError


def add_error_rate(synthesizer: Synthesizer) -> None:
    """Let a synthesizer rank candidates by recognition, if its settings ask for that. The recognizer is loaded now.

    Raises UserError with how to get the recognizer if it cannot be loaded.
    """
    settings = synthesizer.settings
    if settings.num_candidates == 1 or settings.rank_by != "asr":
        return
    names = settings.asr, settings.asr_model, synthesizer.device, synthesizer.languages[0]
    recognizer = build_recognizer(*names, model_key="infer.asr_model")
    try:
        from evaluation.measures import text_errors
        from evaluation.normalizers import build_normalizer

        normalizer = build_normalizer(synthesizer.languages[0])
    except ImportError as error:
        raise UserError(f"infer.rank_by: asr needs {error.name}: pip install 'vallet[eval]'") from error
    from torchaudio.transforms import Resample

    resampler = cache(lambda rate_hz: Resample(rate_hz, RATE_HZ))

    def error_rate(audio: Tensor, rate_hz: int, text: str) -> float:
        narrow = resampler(rate_hz)(audio.float()) if rate_hz != RATE_HZ else audio.float()
        # A text without words has no word errors.
        if not normalizer(text).split():
            return 0.0
        errors = text_errors(normalizer, text, recognizer.transcribe(narrow.numpy()))
        return errors.get("wer", errors["cer"]).mean

    synthesizer.error_rate = error_rate
