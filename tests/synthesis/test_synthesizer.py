"""From requests to speech: batches, prompts, the NAR's text, minimum and maximum lengths."""

import re
from dataclasses import replace

import pytest
import torch

from models.contract import TokenizedRequest
from models.valle.valle import VALLE
from processors.codecs.mel_rvq import MelRVQ
from processors.frontends.graphemes import GraphemePhonemizer
from processors.symbols import SymbolTable
from processors.text import TextTokenizer
from synthesis.limits import limits_by_phones
from synthesis.synthesizer import Request, Synthesizer
from tests.conftest import tiny_infer, tiny_model
from utils.errors import UserError

RATE = 24000
TABLE = SymbolTable.from_phones("abcdefghijklmnopqrstuvwxyz_.,!?")


def build(codec: MelRVQ, prefix_mode: int = 1, group_size: int = 1, **infer) -> Synthesizer:
    torch.manual_seed(0)
    sizes = {"num_quantizers": 8, "audio_token_num": 1024, "text_token_num": 64}
    settings = tiny_model(**sizes, prefix_mode=prefix_mode, group_size=group_size)
    tokenizer = TextTokenizer(GraphemePhonemizer, TABLE, add_blank=False)
    infer = {"max_seconds_per_phone": 0.1, "top_k": 1} | infer
    return Synthesizer(VALLE(settings), codec, tokenizer, tiny_infer(**infer), torch.device("cpu"))


@pytest.fixture
def requests() -> list[Request]:
    rows = [("go home.", "a dog", 0.7), ("one more thing to say", "so it was.", 1.3), ("hi!", "yes", 0.5)]
    return [Request(text, prompt, 0.5 * torch.rand(int(seconds * RATE)) - 0.25) for text, prompt, seconds in rows]


@pytest.mark.parametrize(
    ("mode", "top_k", "group_size"), [(0, 1, 1), (1, 1, 1), (2, 1, 1), (1, 0, 1), (1, 0, 2), (1, 1, 4)]
)
def test_a_batch_of_texts_equals_each_alone(codec, requests, mode: int, top_k: int, group_size: int) -> None:
    synthesizer = build(codec, mode, group_size, top_k=top_k)
    together = synthesizer.generate(synthesizer.tokenize(requests, continual=False))
    for request, generation in zip(requests, together, strict=True):
        [alone] = synthesizer.generate(synthesizer.tokenize([request], continual=False))
        assert torch.equal(generation.codes, alone.codes) and generation.stop_reason == alone.stop_reason
    parts = build(codec, mode, group_size, top_k=top_k, max_batch_size=2).synthesize(requests)
    whole = synthesizer.synthesize(requests)
    assert all(torch.equal(a.audio, b.audio) for a, b in zip(parts, whole, strict=True))
    assert all(speech.audio.abs().max() > 0 for speech in whole)


def test_expected_vectors_are_those_of_the_codes_where_the_nar_is_sure(codec, requests) -> None:
    synthesizer = build(codec, nar_decoding="expected")
    items = synthesizer.tokenize(requests, continual=False)
    unsure = synthesizer.generate(items)
    for item, generation in zip(items, unsure, strict=True):
        [alone] = synthesizer.generate([item])
        torch.testing.assert_close(generation.vectors, alone.vectors)
    with torch.no_grad():
        for head in synthesizer.model.nar.predict_layers:
            head.weight *= 1e5
    sure = synthesizer.generate(items)
    for generation, before in zip(sure, unsure, strict=True):
        torch.testing.assert_close(generation.vectors, codec.sum_vectors(generation.codes))
        assert not torch.allclose(before.vectors, codec.sum_vectors(before.codes), atol=0.1)


@pytest.mark.parametrize("continual", [False, True])
def test_expected_vectors_are_decoded_in_place_of_the_codes(codec, requests, continual: bool) -> None:
    settings = {"min_seconds_per_phone": 0.1, "continual_prompt_seconds": 0.3}
    greedy, expected = (build(codec, nar_decoding=how, **settings) for how in ("greedy", "expected"))
    for one, other in zip(
        greedy.synthesize(requests, continual), expected.synthesize(requests, continual), strict=True
    ):
        assert torch.equal(one.codes, other.codes) and len(one.audio) == len(other.audio)
        assert not torch.allclose(one.audio, other.audio, atol=1e-2)


def test_expected_vectors_need_a_nar_and_a_codec_with_vectors(codec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MelRVQ, "vectors", None)
    with pytest.raises(UserError, match=r"infer\.nar_decoding: MelRVQ has no vectors"):
        build(codec, nar_decoding="expected")


def test_the_nar_of_modes_2_and_4_does_not_get_the_prompts_text(codec, requests) -> None:
    for mode in (1, 2, 4):
        synthesizer = build(codec, mode)
        [item] = synthesizer.tokenize(requests[:1], continual=False)
        assert list(item.ids) == TABLE.encode([*"a", "_", *"dog", "_", *"go", "_", *"home."], False)
        target = TABLE.encode([*"go", "_", *"home."], False)
        assert list(synthesizer.model.nar_ids(item)) == (target if mode != 1 else list(item.ids))


@pytest.mark.parametrize("add_blank", [False, True])
def test_released_models_of_modes_2_and_4_keep_the_boundary_before_the_text(codec, requests, add_blank) -> None:
    synthesizer = build(codec, 2)
    synthesizer.tokenizer = TextTokenizer(GraphemePhonemizer, TABLE, add_blank)
    synthesizer.follow_reference(synthesizer.frame_limits)
    [item] = synthesizer.tokenize(requests[:1], continual=False)
    joint = [*"a", "_", *"dog", "_", *"go", "_", *"home."]
    assert list(item.ids) == TABLE.encode(joint, add_blank)
    behind = TABLE.encode(joint, add_blank)[len(TABLE.encode([*"a", "_", *"dog"], add_blank)) - 1 :]
    assert list(synthesizer.model.nar_ids(item)) == [TABLE.bos_id, *behind]


def test_a_batch_needs_one_call_of_the_phonemizer(codec, requests) -> None:
    calls = []

    class Counted(GraphemePhonemizer):
        def phonemize(self, texts):
            calls.append(len(texts))
            return super().phonemize(texts)

    synthesizer = build(codec, max_batch_size=8)
    synthesizer.tokenizer = TextTokenizer(Counted, TABLE, add_blank=False)
    synthesizer.synthesize(requests)
    assert calls == [2 * len(requests)]


def test_lengths_are_limited_by_the_phones_of_the_target(codec, requests) -> None:
    synthesizer = build(codec, min_seconds_per_phone=0.4, max_seconds_per_phone=0.4)
    [item] = synthesizer.tokenize(requests[:1], continual=False)
    [generation] = synthesizer.generate([item])
    assert item.num_target_phones == len("_go_home.")
    assert len(generation.codes) == 0.4 * 25 * len("_go_home.")
    assert generation.stop_reason == "cap"


def test_the_seed_determines_the_codes(codec, requests) -> None:
    def codes(seed: int) -> torch.Tensor:
        synthesizer = build(codec, top_k=0, seed=seed, min_seconds_per_phone=0.1)
        return synthesizer.generate(synthesizer.tokenize(requests[:1], continual=False))[0].codes

    assert torch.equal(codes(1), codes(1))
    assert not torch.equal(codes(1)[:, 0], codes(2)[:, 0])


def test_other_settings_share_the_model_and_callbacks_change_nothing(codec, requests) -> None:
    first = build(codec, top_k=0, min_seconds_per_phone=0.1)
    second = first.with_settings(seed=5, temperature=0.7)
    wanted = build(codec, top_k=0, min_seconds_per_phone=0.1, seed=5, temperature=0.7)
    [speech], [alike] = second.synthesize(requests[:1], on_frames=lambda *_: None), wanted.synthesize(requests[:1])
    assert torch.equal(speech.audio, alike.audio)
    assert first.settings.seed == 0


@pytest.mark.parametrize("group_size", [1, 2, 4])
def test_frames_are_reported_as_they_are_generated(codec, requests, group_size: int) -> None:
    reported: list[int] = []
    synthesizer = build(codec, group_size=group_size, min_seconds_per_phone=0.1)
    [generation] = synthesizer.generate(
        synthesizer.tokenize(requests[:1], continual=False), lambda num, _: reported.append(num)
    )
    # Those of the last step, at the maximum length, are not reported.
    assert reported == [*range(group_size, len(generation.codes), group_size)]


def test_failed_speech_is_tried_again_with_the_next_seeds(codec, requests) -> None:
    def build_with(seed: int, **infer) -> Synthesizer:
        synthesizer = build(codec, **{"top_k": 0, "seed": seed, "min_seconds_per_phone": 0, "max_tries": 1, **infer})
        with torch.no_grad():
            # Makes the end likely in about one of ten frames.
            synthesizer.model.ar.predict_layer.weight[synthesizer.model.ar.eos_id].fill_(0.4)
        return synthesizer

    single = [build_with(seed).synthesize(requests) for seed in range(12)]
    endings = {speech.stop_reason for speeches in single for speech in speeches}
    assert {"eos", "cap"} <= endings
    for seed in range(10):
        for row, found in enumerate(build_with(seed, max_tries=3).synthesize(requests)):
            tries = [single[seed + number][row] for number in range(3)]
            good = next((number for number in range(3) if tries[number].failure is None), None)
            wanted = tries[good or 0]
            assert torch.equal(found.audio, wanted.audio) and found.stop_reason == wanted.stop_reason
            assert found.num_tries == (3 if good is None else good + 1)
            assert (found.failure is None) == (good is not None)
    greedy = build_with(0, top_k=1, max_seconds_per_phone=1e-6, max_tries=3).synthesize(requests)
    assert all(row.stop_reason in ("cap", "floor") and row.num_tries == 1 and row.failure for row in greedy)


def test_silence_is_a_failure_with_any_end(codec, requests, monkeypatch) -> None:
    synthesizer = build(codec, top_k=0, max_tries=2)
    monkeypatch.setattr(synthesizer, "decode", lambda codes: [torch.zeros(960 * len(row)) for row in codes])
    original = synthesizer.model.draft
    monkeypatch.setattr(
        synthesizer.model, "draft", lambda *given: [replace(row, stop_reason="eos") for row in original(*given)]
    )
    for speech in synthesizer.synthesize(requests):
        assert (speech.stop_reason, speech.num_tries) == ("silent", 2) and "silent" in speech.failure


def test_short_texts_may_last_longer_for_each_phone(codec) -> None:
    settings = tiny_infer(min_seconds_per_phone=0.06, max_seconds_per_phone=0.12, min_seconds=0.25, slack_seconds=1)
    items = [TokenizedRequest([], 1, torch.zeros(10, 8), num_phones) for num_phones in (2, 100)]
    limits = [limits_by_phones(item, settings, codec.frame_rate_hz) for item in items]
    assert limits == [(6, 31), (150, 325)]


@pytest.mark.parametrize("group_size", [1, 3])
def test_continual_keeps_the_start_of_the_prompt(codec, requests, group_size: int) -> None:
    synthesizer = build(codec, group_size=group_size, continual_prompt_seconds=0.4)
    [item] = synthesizer.tokenize(requests[:1], continual=True)
    assert list(item.ids) == TABLE.encode([*"a", "_", *"dog"], False) == list(synthesizer.model.nar_ids(item))
    assert len(item.codes) == (10 if group_size == 1 else 9)
    # 0.4 of 0.7 s are kept, so three of seven phones are left.
    assert item.num_target_phones == round(len("a_dog") * 3 / 7)
    [speech] = synthesizer.synthesize(requests[:1], continual=True)
    [generation] = synthesizer.generate([item])
    [whole] = synthesizer.decode([torch.cat([item.codes, generation.codes])])
    assert torch.equal(speech.audio, whole)


@pytest.mark.parametrize("group_size", [1, 2, 4, 8])
def test_a_prompt_is_cut_to_full_groups(codec, requests, group_size: int) -> None:
    """The AR, the NAR and what is decoded read the same codes: the first ones of the prompt."""
    synthesizer = build(codec, group_size=group_size)
    whole, cut = (synth.tokenize(requests, continual=False) for synth in (build(codec), synthesizer))
    for before, after in zip(whole, cut, strict=True):
        num = len(before.codes) // group_size * group_size
        assert len(after.codes) == num and torch.equal(after.codes, before.codes[:num])
    short = Request("go home.", "a dog", requests[0].prompt_audio[: RATE // 25 * (group_size - 1)])
    if group_size > 1:
        first, second = synthesizer.synthesize([short, requests[0]])
        assert isinstance(first, UserError)
        assert f"has {group_size - 1} frames, and the model reads {group_size} at once; take a longer" in str(first)
        [alone] = synthesizer.synthesize(requests[:1])
        assert torch.equal(second.audio, alone.audio)


def test_copy_is_the_codecs_reconstruction(codec, requests) -> None:
    audio = requests[0].prompt_audio
    copied = build(codec).copy(audio)
    codes, lens = codec.encode(audio[None], torch.tensor([len(audio)]))
    assert torch.equal(copied, codec.decode(codes, lens)[0][0, : len(audio)])


def test_a_request_that_fails_has_a_reason_and_does_not_affect_others(codec, requests) -> None:
    synthesizer = build(codec, continual_prompt_seconds=0.4)
    prompt, short = requests[0].prompt_audio, torch.ones(RATE // 5)
    bad = [
        (Request("", "a dog", prompt), False, "the text '' has nothing that can be spoken"),
        (Request("?!", "a dog", prompt), False, "the text '\\?!' has nothing"),
        (Request("go", " ", prompt), False, "the prompt's text ' ' has nothing"),
        (Request("", "a dog", short), True, "keeps 0.4 s of the prompt, and it is no longer"),
        (Request("", "?!", prompt), True, "the prompt's text '\\?!' has nothing"),
    ]
    for request, continual, words in bad:
        first, second = synthesizer.synthesize([request, requests[0]], continual)
        assert isinstance(first, UserError) and re.search(words, str(first))
        [alone] = synthesizer.synthesize(requests[:1], continual)
        assert torch.equal(second.audio, alone.audio)
