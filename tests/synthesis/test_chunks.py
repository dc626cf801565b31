"""Streams in chunks: the codes and the length of unstreamed speech, and nearly its sound."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.contract import Generation
from models.valle.valle import VALLE
from processors.codecs.base import Codec
from processors.codecs.encodec import Encodec, build_encodec
from processors.codecs.mel_rvq import MelRVQ
from processors.codecs.speech_rvq import SpeechRVQ
from processors.frontends.graphemes import GraphemePhonemizer
from processors.symbols import SymbolTable
from processors.text import TextTokenizer
from synthesis.chunks import SpeechChunks
from synthesis.long_texts import LongText, next_batch, synthesize_parts
from synthesis.synthesizer import Request, Synthesizer
from tests.conftest import tiny_infer, tiny_model
from tests.support.long_texts import RATE, TEXT, build_speaker, speak
from tests.support.tiny_codec import tiny_speech_net
from utils.prompts import Prompt

TABLE = SymbolTable.from_phones("abcdefghijklmnopqrstuvwxyz_.,;:!?")
FIRST_FRAMES = 20


@pytest.fixture(scope="module")
def learned() -> SpeechRVQ:
    """Its decoder reads 11 frames before and after each, more than are known when a chunk is decoded."""
    return SpeechRVQ(*tiny_speech_net([torch.rand(16000, generator=torch.Generator().manual_seed(1)) - 0.5], 16000))


def build(codec: Codec, group_size: int = 1, **infer) -> Synthesizer:
    """Greedy speech of 0.2 s for each phone."""
    torch.manual_seed(0)
    sizes = {"num_quantizers": codec.num_codebooks, "audio_token_num": codec.codebook_size, "text_token_num": 64}
    tokenizer = TextTokenizer(GraphemePhonemizer, TABLE, add_blank=False)
    limits = {"min_seconds_per_phone": 0.19, "max_seconds_per_phone": 0.2, "top_k": 1}
    model = VALLE(tiny_model(**sizes, group_size=group_size))
    return Synthesizer(model, codec, tokenizer, tiny_infer(**limits, **infer), torch.device("cpu"))


def request(codec: Codec, text: str = "one more thing", num_codes: int = 24, **changes) -> Request:
    generator = torch.Generator().manual_seed(len(text))
    codes = torch.randint(codec.codebook_size, (num_codes, codec.num_codebooks), generator=generator)
    return Request(text, "so it was.", torch.zeros(0), codes, **changes)


def sender(codec: Codec, first_frames: int = FIRST_FRAMES) -> tuple[SpeechChunks, list[Tensor]]:
    blocks: list[Tensor] = []
    return SpeechChunks(blocks.append, first_frames, codec.frame_rate_hz, codec.sample_rate_hz), blocks


def difference(found: Tensor, true: Tensor) -> float:
    """The largest difference, relative to the largest sample."""
    assert found.shape == true.shape
    return float((found - true).abs().max() / true.abs().max())


@pytest.mark.parametrize(("group_size", "decoding"), [(1, "greedy"), (2, "expected"), (3, "expected")])
def test_a_stream_has_the_codes_of_the_ar_and_nearly_the_sound(learned, group_size: int, decoding: str) -> None:
    synthesizer = build(learned, group_size, nar_decoding=decoding)
    chunks, blocks = sender(learned)
    [whole], [streamed] = (synthesizer.synthesize([request(learned, chunks=one)]) for one in (None, chunks))
    assert torch.equal(streamed.codes[:, 0], whole.codes[:, 0])
    rest = streamed.audio[len(chunks.audio) :]
    assert len(blocks) == 3 and torch.equal(torch.cat([*blocks, rest]), streamed.audio) and len(rest)
    # An untrained NAR finds all codes about equally likely, so that some flip; where they do, the means change less.
    assert (streamed.codes == whole.codes).float().mean() > 0.5
    assert difference(streamed.audio, whole.audio) < (0.4 if decoding == "expected" else 1)
    assert (streamed.stop_reason, streamed.seconds, streamed.num_tries) == (whole.stop_reason, whole.seconds, 1)


@pytest.mark.parametrize(("name", "bound"), [("learned", 1e-2), ("encodec", 1e-4)])
def test_the_chunks_of_a_codec_are_nearly_those_of_the_whole(name: str, bound: float, learned: SpeechRVQ) -> None:
    """EnCodec's decoder is causal, so that all of its frames sound as in the whole."""
    torch.manual_seed(0)
    codec = learned if name == "learned" else Encodec(build_encodec())
    codes = torch.randint(codec.codebook_size, (40, codec.num_codebooks))
    [whole] = codec.decode(codes[None], torch.tensor([40]))[0]
    chunks, blocks = sender(codec)
    for num_frames in (20, 30, 40):
        if chunks.is_due(num_frames):
            [audio] = codec.decode(codes[None, :num_frames], torch.tensor([num_frames]))[0]
            chunks.send(Generation(codes[:num_frames], "eos"), audio, num_frames)
    assert len(blocks) == 2
    assert difference(chunks.finish(whole), whole) < bound


def test_chunks_come_when_the_frames_have_doubled(codec: MelRVQ) -> None:
    chunks, blocks = sender(codec, 0)
    hop = codec.hop_samples
    due = []
    for num_frames in range(1, 100):
        if chunks.is_due(num_frames):
            due.append(num_frames)
            chunks.send(Generation(torch.zeros(num_frames, 8), "eos"), torch.zeros(num_frames * hop), num_frames)
    # The first has more frames than are kept back: 4 of 40 ms.
    assert due == [5, 10, 20, 40, 80]
    assert [len(block) // hop for block in blocks] == [1, 5, 10, 20, 40]


def test_speech_that_ends_before_its_first_chunk_is_that_of_no_stream(codec: MelRVQ) -> None:
    synthesizer = build(codec)
    chunks, blocks = sender(codec, 10_000)
    [whole], [streamed] = (synthesizer.synthesize([request(codec, chunks=one)]) for one in (None, chunks))
    assert torch.equal(streamed.audio, whole.audio) and torch.equal(streamed.codes, whole.codes) and not blocks


def test_streams_beside_others_are_each_as_alone(codec: MelRVQ) -> None:
    synthesizer = build(codec)
    texts = ("one more thing", "go home now, you said", "a dog", "one more thing to say")
    senders = [sender(codec) if number != 1 else (None, []) for number in range(4)]
    requests = [request(codec, text, chunks=one) for text, (one, _) in zip(texts, senders, strict=True)]
    for item, together, (chunks, blocks) in zip(requests, synthesizer.synthesize(requests), senders, strict=True):
        one, alone_blocks = (None, []) if chunks is None else sender(codec)
        [alone] = synthesizer.synthesize([replace(item, chunks=one)])
        assert torch.equal(together.audio, alone.audio) and torch.equal(together.codes, alone.codes)
        assert torch.equal(torch.cat([*blocks, torch.zeros(0)])[:1], torch.cat([*alone_blocks, torch.zeros(0)])[:1])
    assert [len(blocks) > 0 for _, blocks in senders] == [True, False, True, True]


def test_a_try_of_which_audio_was_sent_is_the_last(codec: MelRVQ) -> None:
    """All tries are cut off."""
    synthesizer = build(codec).with_settings(top_k=0, max_tries=3)
    with torch.no_grad():
        synthesizer.model.ar.predict_layer.weight[synthesizer.model.ar.eos_id].fill_(0)
    for first_frames, num_tries in ((FIRST_FRAMES, 1), (10_000, 3)):
        chunks, blocks = sender(codec, first_frames)
        [speech] = synthesizer.synthesize([request(codec, chunks=chunks)])
        assert (speech.stop_reason, speech.num_tries, len(blocks) > 0) == ("cap", num_tries, num_tries == 1)
        assert speech.failure is not None and len(speech.audio) == len(speech.codes) * codec.hop_samples


def test_those_who_get_audio_may_change_it(codec: MelRVQ) -> None:
    chunks, blocks = sender(codec)
    build(codec).synthesize([request(codec, chunks=chunks)])
    for block in blocks:
        block.mul_(2)


@pytest.fixture
def prompt() -> Prompt:
    return Prompt(torch.rand(RATE, generator=torch.Generator().manual_seed(5)) - 0.5, "so it was.", 1.0)


def stream(synthesizer: Synthesizer, said: str, prompt: Prompt) -> tuple[LongText, list[Tensor]]:
    text, blocks = LongText(synthesizer, said, prompt), []
    text.send_chunks(blocks.append)
    while batch := next_batch([text], 4):
        blocks += [audio for _, audio, _ in synthesize_parts(synthesizer, batch)]
    return text, blocks


@pytest.mark.parametrize("lead", ["", "[pause 0.3s] "])
def test_the_first_part_of_a_long_text_comes_in_chunks_and_the_others_as_without(
    codec: MelRVQ, prompt: Prompt, lead: str
) -> None:
    whole_text, whole, _ = speak(build_speaker(codec), lead + TEXT, prompt)
    text, blocks = stream(build_speaker(codec, stream_first_frames=6), lead + TEXT, prompt)
    num_parts = len(whole_text.parts)
    assert len(text.parts) == num_parts and num_parts < len(blocks) <= num_parts + 3
    assert text.num_samples == sum(len(block) for block in blocks)
    # What follows the first part and its pause is the same.
    after = sum(len(block) for block in blocks[len(blocks) - num_parts + 1 :])
    assert torch.equal(torch.cat(blocks)[-after:], whole[-after:])
    num_lead = round(text.lead_seconds * RATE)
    assert not torch.cat(blocks)[:num_lead].any() and bool(num_lead) == bool(lead)


@pytest.mark.parametrize(
    "changes",
    [
        {"stream_first_frames": 0},
        {"stream_first_frames": None},
        {"speed": 1.2},
        {"loudness_lufs": -20.0},
        {"num_candidates": 2},
    ],
    ids=str,
)
def test_whole_parts_are_sent_where_the_settings_need_them(codec: MelRVQ, prompt: Prompt, changes) -> None:
    synthesizer = build_speaker(codec, **{"stream_first_frames": 6, **changes})
    _, blocks = stream(synthesizer, TEXT, prompt)
    _, whole, _ = speak(synthesizer, TEXT, prompt)
    assert torch.equal(torch.cat(blocks), whole)
