"""A tiny model whose speech ends by itself, and texts of many parts for it."""

import torch
from torch import Tensor

from models.valle.valle import VALLE
from processors.codecs.mel_rvq import MelRVQ
from processors.frontends.graphemes import GraphemePhonemizer
from processors.symbols import SymbolTable
from processors.text import TextTokenizer
from synthesis.long_texts import LongText, ResultRow, next_batch, synthesize_parts
from synthesis.synthesizer import Synthesizer
from tests.conftest import tiny_infer, tiny_model
from utils.prompts import Prompt

RATE = 24000
TEXT = """So it was. They went home, and then the rain came; but who would have known that it rains on a day like this?
A dog barks.

The end of it, perhaps. Nobody said a word. [pause 0.2s] And yet it moves. It is not the end: there is more. Much more!
"""


def build_speaker(codec: MelRVQ, **infer) -> Synthesizer:
    """Parts of at most 30 phones, most of which end by themselves."""
    torch.manual_seed(0)
    table = SymbolTable.from_phones("abcdefghijklmnopqrstuvwxyz_.,;:!?")
    sizes = {"num_quantizers": 8, "audio_token_num": 1024, "text_token_num": 64}
    model = VALLE(tiny_model(**sizes, num_decoder_layers=1))
    with torch.no_grad():
        # The end of speech wins in about one of ten frames.
        model.ar.predict_layer.weight[model.ar.eos_id] *= 3
    limits = {"min_seconds": 0.52, "min_seconds_per_phone": 0.02, "max_seconds_per_phone": 0.05, "slack_seconds": 0.6}
    limits |= {"max_tries": 3, "seed": 7}
    # The prompt takes 1 s for 11 phones.
    limits |= {"max_part_seconds": 30 / 11, "max_total_seconds": 10}
    tokenizer = TextTokenizer(GraphemePhonemizer, table, add_blank=False)
    return Synthesizer(model, codec, tokenizer, tiny_infer(**{**limits, **infer}), torch.device("cpu"))


def speak(synthesizer: Synthesizer, said: str, prompt: Prompt) -> tuple[LongText, Tensor, list[ResultRow]]:
    """A text with its audio (N,) and the rows of its parts."""
    text = LongText(synthesizer, said, prompt)
    blocks, rows = [], []
    while batch := next_batch([text], synthesizer.settings.max_batch_size):
        for _, block, row in synthesize_parts(synthesizer, batch):
            blocks.append(block)
            rows.append(row)
    assert text.error is None
    return text, torch.cat(blocks), rows
