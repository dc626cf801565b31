"""How short and how long the speech of a text may be."""

import math
from collections.abc import Callable

from config.schema import InferSettings
from models.contract import TokenizedRequest

FrameLimits = Callable[[TokenizedRequest], tuple[int, int]]
"""Gives the minimum and the maximum number of new frames for a request."""

# Wide limits, for experiments whose corpus was not measured.
UNMEASURED_SECONDS_PER_PHONE = (0.02, 0.4)


def limits_by_phones(request: TokenizedRequest, settings: InferSettings, frame_rate_hz: float) -> tuple[int, int]:
    """The `FrameLimits` of our own experiments, by the number of phones to synthesize.

    A short text takes longer per phone than a sentence does, so `min_seconds` and `slack_seconds` count once a text.
    """
    shortest, longest = UNMEASURED_SECONDS_PER_PHONE
    if settings.min_seconds_per_phone is not None:
        shortest = settings.min_seconds_per_phone
    if settings.max_seconds_per_phone is not None:
        longest = settings.max_seconds_per_phone
    num_phones = request.num_target_phones
    least = max(1, int(frame_rate_hz * max(settings.min_seconds, num_phones * shortest)))
    return least, max(least, math.ceil(frame_rate_hz * (settings.slack_seconds + num_phones * longest)))
