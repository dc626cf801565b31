"""A prompt and a text get the same ids in training's samples, in stage 3 and on the page."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.valle.collate import PrefixMode
from models.valle.valle import VALLE
from processors.frontends.graphemes import GraphemePhonemizer
from processors.manifest import Utterance
from processors.symbols import SymbolTable, join_phones, language_symbol
from processors.text import TextTokenizer
from processors.text_to_phones import MultilingualReaders, TextToPhones
from synthesis.synthesizer import Request, Synthesizer
from tests.conftest import tiny_infer, tiny_model
from tests.support.reference import SilentCodec
from training.samples import SampleLogger

LANGUAGES = ("de", "en-us")
TABLE = SymbolTable.from_phones([*"abcdefghijklmnopqrstuvwxyz_.,!?", *map(language_symbol, LANGUAGES)])
WORDS = st.lists(st.text("abcxyz", min_size=1, max_size=4), min_size=1, max_size=4)
TEXTS = st.builds(lambda words, mark: " ".join(words) + mark, WORDS, st.sampled_from(["", ".", "!", ", a?"]))


def read_in(language: str) -> TextToPhones:
    return TextToPhones(GraphemePhonemizer(), language, has_symbol=True)


def utterance(name: str, text: str, language: str) -> Utterance:
    reader = read_in(language) if language else GraphemePhonemizer()
    [phones] = reader.phonemize([text])
    return Utterance(name, text, tuple(phones), "speaker", np.zeros((40, 8), np.int16))


class NoCodes(SilentCodec):
    def encode(self, audio, audio_lens):
        return torch.zeros(len(audio), 40, 8, dtype=torch.long), torch.full((len(audio),), 40)


def build(prefix_mode: int, add_blank: bool, has_languages: bool) -> Synthesizer:
    model = VALLE(tiny_model(num_quantizers=8, audio_token_num=1024, text_token_num=64, prefix_mode=prefix_mode))
    load_readers = partial(MultilingualReaders, read_in) if has_languages else GraphemePhonemizer
    tokenizer = TextTokenizer(load_readers, TABLE, add_blank)
    return Synthesizer(model, NoCodes(), tokenizer, tiny_infer(), torch.device("cpu"))


@pytest.mark.parametrize("prefix_mode", [0, 1, 2, 4])
@pytest.mark.parametrize("add_blank", [False, True])
@pytest.mark.parametrize("has_languages", [False, True])
def test_samples_training_and_inference_read_the_same_ids(
    prefix_mode: int, add_blank: bool, has_languages: bool
) -> None:
    synthesizer = build(prefix_mode, add_blank, has_languages)
    tokenizer = synthesizer.tokenizer
    language = st.sampled_from(LANGUAGES if has_languages else ("",))

    @settings(max_examples=20, deadline=None)
    @given(prompt=TEXTS, text=TEXTS, text_language=language, prompt_language=language)
    def check(prompt: str, text: str, text_language: str, prompt_language: str) -> None:
        languages = {"language": text_language, "prompt_language": prompt_language}
        [at_inference] = synthesizer.tokenize([Request(text, prompt, torch.ones(24000), **languages)], continual=False)
        target, own = utterance("target", text, text_language), utterance("prompt", prompt, prompt_language)
        sample = SampleLogger(synthesizer, [target, own], writer=None)._prompted()
        assert (sample.ids, sample.target_start) == (at_inference.ids, at_inference.target_start)
        assert sample.num_lead == at_inference.num_lead
        assert sample.num_target_phones == at_inference.num_target_phones
        # Models train on joined utterances and, in modes 2 and 4, on a target without the prompt's text.
        assert list(at_inference.ids) == tokenizer.ids(join_phones(own.phones, target.phones))
        has_segment = prefix_mode in (PrefixMode.SEGMENT, PrefixMode.OTHER_SEGMENT)
        shown = target.phones if has_segment else join_phones(own.phones, target.phones)
        assert list(synthesizer.model.nar_ids(at_inference)) == tokenizer.ids(shown)
        # A symbol stands after <bos>, and again only where the language changes.
        symbols = [symbol for symbol in tokenizer.ids([language_symbol(name) for name in LANGUAGES]) if symbol > 2]
        found = [symbol for symbol in at_inference.ids if symbol in symbols]
        assert len(found) == (0 if not has_languages else 1 if text_language == prompt_language else 2)
        assert at_inference.ids[2 if add_blank else 1] in symbols or not has_languages

    check()
