"""A prompt and a text get the same ids in training's samples, in stage 3 and on the page."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.valle.collate import PrefixMode
from models.valle.valle import VALLE
from processors.frontends.graphemes import GraphemePhonemizer
from processors.manifest import Utterance
from processors.symbols import SymbolTable, join_phones
from processors.text import TextTokenizer
from synthesis.synthesizer import Request, Synthesizer
from tests.conftest import tiny_infer, tiny_model
from tests.support.reference import SilentCodec
from training.samples import SampleLogger

TABLE = SymbolTable.from_phones("abcdefghijklmnopqrstuvwxyz_.,!?")
WORDS = st.lists(st.text("abcxyz", min_size=1, max_size=4), min_size=1, max_size=4)
TEXTS = st.builds(lambda words, mark: " ".join(words) + mark, WORDS, st.sampled_from(["", ".", "!", ", a?"]))


def utterance(name: str, text: str) -> Utterance:
    [phones] = GraphemePhonemizer().phonemize([text])
    return Utterance(name, text, tuple(phones), "speaker", np.zeros((40, 8), np.int16))


class NoCodes(SilentCodec):
    def encode(self, audio, audio_lens):
        return torch.zeros(len(audio), 40, 8, dtype=torch.long), torch.full((len(audio),), 40)


def build(prefix_mode: int, add_blank: bool) -> Synthesizer:
    model = VALLE(tiny_model(num_quantizers=8, audio_token_num=1024, text_token_num=64, prefix_mode=prefix_mode))
    tokenizer = TextTokenizer(GraphemePhonemizer, TABLE, add_blank)
    return Synthesizer(model, NoCodes(), tokenizer, tiny_infer(), torch.device("cpu"))


@pytest.mark.parametrize("prefix_mode", [0, 1, 2, 4])
@pytest.mark.parametrize("add_blank", [False, True])
def test_samples_training_and_inference_read_the_same_ids(prefix_mode: int, add_blank: bool) -> None:
    synthesizer = build(prefix_mode, add_blank)
    tokenizer = synthesizer.tokenizer

    @settings(max_examples=20, deadline=None)
    @given(prompt=TEXTS, text=TEXTS)
    def check(prompt: str, text: str) -> None:
        [at_inference] = synthesizer.tokenize([Request(text, prompt, torch.ones(24000))], continual=False)
        target, own = utterance("target", text), utterance("prompt", prompt)
        sample = SampleLogger(synthesizer, [target, own], writer=None)._prompted()
        assert (sample.ids, sample.target_start) == (at_inference.ids, at_inference.target_start)
        assert sample.num_target_phones == at_inference.num_target_phones
        # Models train on joined utterances and, in modes 2 and 4, on a target without the prompt's text.
        assert list(at_inference.ids) == tokenizer.ids(join_phones(own.phones, target.phones))
        has_segment = prefix_mode in (PrefixMode.SEGMENT, PrefixMode.OTHER_SEGMENT)
        shown = target.phones if has_segment else join_phones(own.phones, target.phones)
        assert list(synthesizer.model.nar_ids(at_inference)) == tokenizer.ids(shown)

    check()
