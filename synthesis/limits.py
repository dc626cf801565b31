"""How short and how long the speech of a text may be, and how long a part of a text."""

import math
from collections.abc import Callable

from config.schema import InferSettings
from models.contract import TokenizedRequest

FrameLimits = Callable[[TokenizedRequest], tuple[int, int]]
"""Gives the minimum and the maximum number of new frames for a request."""

# Wide limits, for experiments whose corpus was not measured.
UNMEASURED_SECONDS_PER_PHONE = (0.02, 0.4)
# After a prompt that leaves no room, a part still gets this share of the longest sequence.
_LEAST_SHARE = 0.25


def limits_by_phones(request: TokenizedRequest, settings: InferSettings, frame_rate_hz: float) -> tuple[int, int]:
    """The `FrameLimits` of our own experiments, by the number of phones to synthesize.

    A short text takes longer per phone than a sentence does, so `min_seconds` and `slack_seconds` count once a text.
    """
    shortest, longest = _seconds_per_phone(settings)
    num_phones = request.num_target_phones
    least = max(1, int(frame_rate_hz * max(settings.min_seconds, num_phones * shortest)))
    return least, max(least, math.ceil(frame_rate_hz * (settings.slack_seconds + num_phones * longest)))


def phones_of_a_part(prompt_seconds: float, num_prompt_phones: int, settings: InferSettings) -> tuple[float, float]:
    """The most phones that a part of a text may have after a prompt, and the seconds that each is expected to take.

    The part is expected to be spoken as fast as the prompt. Without limits in the settings, it may have any length.
    """
    shortest, longest = _seconds_per_phone(settings)
    seconds_per_phone = min(max(prompt_seconds / max(1, num_prompt_phones), shortest), longest)
    part_seconds, total_seconds = settings.max_part_seconds or math.inf, settings.max_total_seconds or math.inf
    if settings.context == "previous":
        # The prompt may be another part, which is as long.
        part_seconds = min(part_seconds, total_seconds / 2)
    part_seconds = min(part_seconds, max(total_seconds - prompt_seconds, _LEAST_SHARE * total_seconds))
    return part_seconds / seconds_per_phone, seconds_per_phone


def _seconds_per_phone(settings: InferSettings) -> tuple[float, float]:
    """The lowest and the highest number of seconds that a phone takes."""
    shortest, longest = UNMEASURED_SECONDS_PER_PHONE
    if settings.min_seconds_per_phone is not None:
        shortest = settings.min_seconds_per_phone
    if settings.max_seconds_per_phone is not None:
        longest = settings.max_seconds_per_phone
    return shortest, longest
