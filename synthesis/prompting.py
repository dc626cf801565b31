"""From the phones of a prompt and of a text to the ids that both models read."""

from collections.abc import Sequence
from typing import NamedTuple

from processors.symbols import join_phones
from processors.text import TextTokenizer


class PromptedIds(NamedTuple):
    """`ar`: bos, prompt, `_`, text, eos. `nar`: the same, or what the prefix mode shows the NAR of it."""

    ar: list[int]
    nar: list[int]


def prompted_ids(
    tokenizer: TextTokenizer,
    prompt_phones: Sequence[str],
    text_phones: Sequence[str],
    prefix_mode: int,
    keep_boundary: bool = False,
) -> PromptedIds:
    """The ids of a text behind its prompt; without a text (a continuation) those of the prompt's own text.

    In prefix modes 2 and 4 (VALL-E, section 4.2.2) the NAR's prompt is a segment of audio without its text, so that it
    is shown the target's text alone. `keep_boundary` leaves the `_` in front of it, which released models of the
    reference recipe were never trained with but always read.
    """
    ar = tokenizer.ids(join_phones(prompt_phones, text_phones))
    if prefix_mode not in (2, 4) or not text_phones:
        return PromptedIds(ar, ar)
    if keep_boundary:
        # The reference slices the joint ids right behind the prompt's last id.
        return PromptedIds(ar, ar[:1] + ar[len(tokenizer.ids(prompt_phones)) - 1 :])
    return PromptedIds(ar, tokenizer.ids(text_phones))
