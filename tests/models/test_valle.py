"""Properties of the AR and the NAR: padding, causality, the cache, batches, groups, stages, weights."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from models.contract import Example, TokenizedRequest
from models.valle.ar import AR
from models.valle.collate import IGNORED, pad
from models.valle.generate import ARGenerator, CachedStep
from models.valle.valle import VALLE
from modules.precision import Bf16Linear, Int8Linear, SplitLinear
from modules.sampling import TokenSampler
from tests.conftest import tiny_model

VARIANTS = [
    {},
    {"prepend_bos": True},
    {"norm_first": False},
    {"add_prenet": True},
    {"nar_scale_factor": 0.5, "share_embedding": False, "nar_num_decoder_layers": 1},
    {"group_size": 2},
    {"group_size": 4, "prepend_bos": True, "add_prenet": True},
]
TEXT_LENS, CODES_LENS = (5, 8, 3), (12, 7, 15)


@pytest.fixture(params=VARIANTS, ids=lambda changes: "-".join(changes) or "default")
def model(request) -> VALLE:
    model = VALLE(tiny_model(**request.param)).eval()
    for parameter in model.parameters():
        # Zero biases and unit scales would hide mistakes.
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.3)
    return model


@pytest.fixture
def rows() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [
        (torch.randint(3, 32, (text,)), torch.randint(0, 20, (frames, 4)))
        for text, frames in zip(TEXT_LENS, CODES_LENS, strict=True)
    ]


def padded(rows):
    text, codes = zip(*rows, strict=True)
    return pad(text), torch.tensor([len(x) for x in text]), pad(codes), torch.tensor([len(x) for x in codes])


@pytest.fixture
def prompted(model, rows) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The rows with codes that are full groups, as those of prompts are."""
    size = model.ar.group_size
    return [(text, codes[: len(codes) // size * size]) for text, codes in rows]


@torch.inference_mode()
def test_ar_padded_equals_unpadded(model, rows) -> None:
    text, text_lens, codes, codes_lens = padded(rows)
    together = model.ar(text, text_lens, codes[..., 0], codes_lens)
    for row, (own_text, own_codes) in enumerate(rows):
        lens = torch.tensor([len(own_text)]), torch.tensor([len(own_codes)])
        alone = model.ar(own_text[None], lens[0], own_codes[None, :, 0], lens[1])[0]
        assert torch.allclose(together[row, : len(alone)], alone, atol=1e-5)


@torch.inference_mode()
def test_nar_padded_equals_unpadded(model, rows) -> None:
    text, text_lens, codes, codes_lens = padded(rows)
    is_prompt = torch.arange(codes.shape[1]).expand(3, -1) < 4
    for stage in (1, 3):
        together = model.nar(text, text_lens, codes, codes_lens, is_prompt, stage)
        for row, (own_text, own_codes) in enumerate(rows):
            lens = torch.tensor([len(own_text)]), torch.tensor([len(own_codes)])
            own_prompt = is_prompt[row : row + 1, : len(own_codes)]
            alone = model.nar(own_text[None], lens[0], own_codes[None], lens[1], own_prompt, stage)[0]
            assert torch.allclose(together[row, : len(alone)], alone, atol=1e-5)


@torch.inference_mode()
def test_future_frames_never_change_past_logits(model, rows) -> None:
    text, codes = rows[0]
    lens = torch.tensor([len(text)]), torch.tensor([len(codes)])
    before = model.ar(text[None], lens[0], codes[None, :, 0], lens[1])[0]
    changed = codes.clone()
    changed[8:] = (changed[8:] + 1) % 20
    after = model.ar(text[None], lens[0], changed[None, :, 0], lens[1])[0]
    # Frame 8 is the first of a group, with groups of 1, 2 and 4 frames.
    first_changed = 8 + model.ar.group_size * int(model.ar.prepend_bos)
    assert torch.equal(before[:first_changed], after[:first_changed])
    assert not torch.allclose(before[first_changed:], after[first_changed:])


@torch.inference_mode()
def test_nar_stage_reads_later_codebooks_in_the_prompt_alone(model, rows) -> None:
    text, codes = rows[0]
    lens = torch.tensor([len(text)]), torch.tensor([len(codes)])
    is_prompt = torch.arange(len(codes))[None] < 4
    stage = 2

    def logits(codes):
        return model.nar(text[None], lens[0], codes[None], lens[1], is_prompt, stage)

    expected = logits(codes)
    later = codes.clone()
    later[4:, stage:] = (later[4:, stage:] + 1) % 20
    assert torch.equal(logits(later), expected)
    for frame, codebook in ((4, stage - 1), (0, stage), (0, 3)):
        other = codes.clone()
        other[frame, codebook] = (other[frame, codebook] + 1) % 20
        assert not torch.equal(logits(other), expected)


@torch.inference_mode()
def uncached(ar: AR, text: torch.Tensor, prompt: torch.Tensor, num: int) -> tuple[list[int], list[torch.Tensor]]:
    """Greedy codes and their logits, from the full sequence at each step."""
    codes, all_logits = prompt, []
    while True:
        lens = torch.tensor([len(text)]), torch.tensor([len(codes)])
        for logits in ar(text[None], lens[0], codes[None], lens[1])[0, -ar.group_size :]:
            all_logits.append(logits)
            if logits.argmax() == ar.eos_id:
                return codes[len(prompt) :].tolist(), all_logits
            codes = torch.cat([codes, logits.argmax()[None]])
            if len(all_logits) == num:
                return codes[len(prompt) :].tolist(), all_logits


@dataclass(frozen=True)
class Recorder(TokenSampler):
    """Keeps the logits and the history of each frame."""

    seen: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)

    def __call__(self, logits, history, noise):
        self.seen.append((logits.clone(), history.clone()))
        return super().__call__(logits, history, noise)


def test_cached_equals_uncached_alone_and_in_a_batch(model, prompted) -> None:
    text, text_lens, codes, codes_lens = padded(prompted)
    limits = torch.tensor([20, 9, 14])
    floor = torch.ones(3, dtype=torch.long)
    recorder = Recorder(top_k=1)
    seeds = [0, 0, 0]
    together = ARGenerator(model.ar).generate(
        text, text_lens, codes[..., 0], codes_lens, recorder, seeds, floor, limits
    )
    for row, (own_text, own_codes) in enumerate(prompted):
        wanted, all_logits = uncached(model.ar, own_text, own_codes[:, 0], int(limits[row]))
        assert together[row].codes[:, 0].tolist() == wanted
        assert together[row].stop_reason == ("cap" if len(wanted) == limits[row] else "eos")
        # The first logits differ on purpose: their end of speech is masked by the minimum length of 1.
        for step, logits in enumerate(all_logits[1:], start=1):
            assert torch.allclose(recorder.seen[step][0][row], logits, atol=1e-4)


def test_a_step_that_reads_every_slot_equals_one_that_reads_the_used_ones(model, prompted, monkeypatch) -> None:
    """A CUDA graph has fixed shapes: it reads all slots, of which the last batch filled some."""
    sampler, floor = TokenSampler(top_p=0.9), torch.ones(3, dtype=torch.long)

    def generate(generator: ARGenerator, chosen: slice, limits: list[int]) -> list[list[int]]:
        text, text_lens, codes, codes_lens = padded(prompted[chosen])
        arguments = (text, text_lens, codes[..., 0], codes_lens, sampler, [7, 8, 9][chosen], floor[chosen])
        return [row.codes[:, 0].tolist() for row in generator.generate(*arguments, torch.tensor(limits))]

    batches = (slice(0, 2), [20, 30]), (slice(1, 3), [9, 14]), (slice(0, 3), [12, 12, 12])
    expected = [generate(ARGenerator(model.ar), *batch) for batch in batches]

    def call(step: CachedStep, codes: torch.Tensor) -> torch.Tensor:
        step.codes.copy_(codes)
        return step._step(step.bias.shape[-1])

    monkeypatch.setattr(CachedStep, "__call__", call)
    generator = ARGenerator(model.ar)
    assert [generate(generator, *batch) for batch in batches] == expected


def test_generation_has_a_minimum_and_a_maximum_length(model, prompted) -> None:
    text, codes = prompted[0]
    lens = torch.tensor([len(text)]), torch.tensor([len(codes)])
    torch.nn.init.zeros_(model.ar.predict_layer.weight)

    def generate(floor: int, cap: int):
        arguments = (text[None], lens[0], codes[None, :, 0], lens[1], TokenSampler(top_k=1), [0])
        return ARGenerator(model.ar).generate(*arguments, torch.tensor([floor]), torch.tensor([cap]))[0]

    # All logits are equal, so the first code wins, never the end of speech.
    for cap in range(1, 10):
        assert (len(generate(1, cap).codes), generate(1, cap).stop_reason) == (cap, "cap")
    with torch.no_grad():
        model.ar.predict_layer.weight[model.ar.eos_id] = 1.0
        model.ar.decoder.layers[-1].linear2.bias.fill_(5.0)
        if model.ar.decoder.norm is not None:
            model.ar.decoder.norm.bias.fill_(5.0)
        for weight in model.ar.group_predict_layer.parameters():
            weight.fill_(0.1)
    for floor in range(1, 10):
        ended = generate(floor, 30)
        assert (len(ended.codes), ended.stop_reason) == (floor, "floor")


def test_sampled_batch_equals_each_alone(model, prompted) -> None:
    text, text_lens, codes, codes_lens = padded(prompted)
    sampler, floor, cap = TokenSampler(top_p=0.9, repetition_window=5), torch.tensor([1]), torch.tensor([12])
    together = ARGenerator(model.ar).generate(
        text, text_lens, codes[..., 0], codes_lens, sampler, [7, 8, 7], floor.expand(3), cap.expand(3)
    )
    for row, (own_text, own_codes) in enumerate(prompted):
        lens = torch.tensor([len(own_text)]), torch.tensor([len(own_codes)])
        [alone] = ARGenerator(model.ar).generate(
            own_text[None], lens[0], own_codes[None, :, 0], lens[1], sampler, [7 + row % 2], floor, cap
        )
        assert together[row].codes.tolist() == alone.codes.tolist()


def test_ar_targets_are_the_next_codes_then_one_end() -> None:
    codes = torch.tensor([[4, 5, 6], [7, 0, 0]])
    lens = torch.tensor([3, 1])
    plain, begun = VALLE(tiny_model()).ar, VALLE(tiny_model(prepend_bos=True)).ar
    assert plain.targets(codes, lens, IGNORED).tolist() == [[5, 6, 20], [20, IGNORED, IGNORED]]
    assert begun.targets(codes, lens, IGNORED).tolist() == [[4, 5, 6, 20], [7, 20, IGNORED, IGNORED]]


@pytest.mark.parametrize(
    ("group_size", "plain", "begun"),
    [
        (2, [[6, 20], [IGNORED, IGNORED]], [[4, 5, 6, 20], [7, 20, IGNORED, IGNORED]]),
        (3, [[20, IGNORED, IGNORED], [IGNORED] * 3], [[4, 5, 6, 20, IGNORED, IGNORED], [7, 20] + 4 * [IGNORED]]),
        (4, [[], []], [[4, 5, 6, 20], [7, 20, IGNORED, IGNORED]]),
    ],
)
def test_targets_of_groups_end_anywhere_in_a_group(group_size: int, plain, begun) -> None:
    codes = torch.tensor([[4, 5, 6], [7, 0, 0]])
    lens = torch.tensor([3, 1])
    for prepend_bos, expected in ((False, plain), (True, begun)):
        ar = VALLE(tiny_model(group_size=group_size, prepend_bos=prepend_bos)).ar
        assert ar.targets(codes, lens, IGNORED).tolist() == expected


@pytest.mark.parametrize("group_size", [1, 2, 4])
@pytest.mark.parametrize("prepend_bos", [False, True])
def test_the_loss_of_a_batch_is_the_sum_of_its_rows_of_any_length(group_size: int, prepend_bos: bool) -> None:
    """Every frame and the end of speech count once, but for the first group without a begin symbol."""
    model = VALLE(tiny_model(group_size=group_size, prepend_bos=prepend_bos), train_stage=1).eval()
    rng = np.random.default_rng(0)
    examples = [
        Example((1, *rng.integers(3, 30, 4).tolist(), 2), rng.integers(0, 20, (num_frames, 4)))
        for num_frames in range(1, 11)
    ]
    collate = model.collate(25.0)
    alone = [model(collate([example], random.Random(0)))["ar"] for example in examples]
    together = model(collate(examples, random.Random(0)))["ar"]
    num_first = 0 if prepend_bos else group_size
    assert [sums.num_targets for sums in alone] == [max(0, length + 1 - num_first) for length in range(1, 11)]
    assert together.num_targets == sum(sums.num_targets for sums in alone)
    assert int(together.num_top10) == sum(int(sums.num_top10) for sums in alone)
    torch.testing.assert_close(together.loss_sum, sum(sums.loss_sum for sums in alone))
    # A batch that has nothing to predict still has a gradient, as every rank must.
    alone[0].loss_sum.backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


@dataclass(frozen=True)
class Ending(Recorder):
    """Ends the speech before frame `end`."""

    end: int = 0

    def __call__(self, logits, history, noise):
        logits[:, -1] = torch.inf if len(self.seen) == self.end else -torch.inf
        return super().__call__(logits, history, noise)


@pytest.mark.parametrize("group_size", [1, 2, 4])
def test_speech_ends_at_any_frame_of_a_group(group_size: int, rows) -> None:
    """The codes before the end stay, and they are those of speech that goes on."""
    ar = VALLE(tiny_model(group_size=group_size)).eval().ar
    text, codes = rows[0]
    lens = torch.tensor([len(text)]), torch.tensor([len(codes)])

    def generate(end: int):
        reported: list[int] = []

        def note(num_frames: int, drafts: Callable[[], list[torch.Tensor]]) -> None:
            reported.append(num_frames)
            so_far.extend(drafts())

        so_far: list[torch.Tensor] = []
        arguments = (text[None], lens[0], codes[None, :, 0], lens[1], Ending(top_k=1, end=end), [0])
        [row] = ARGenerator(ar).generate(*arguments, torch.tensor([1]), torch.tensor([12]), note)
        assert all(torch.equal(part, row.codes[:num]) for num, part in zip(reported, so_far, strict=True))
        return row, reported

    whole, reported = generate(100)
    assert reported == [*range(group_size, 12, group_size)] and whole.stop_reason == "cap"
    for end in range(2, 11):
        ended, _ = generate(end)
        assert torch.equal(ended.codes, whole.codes[:end]) and ended.stop_reason == "eos"


def test_a_batch_may_be_generated_between_the_steps_of_another(model, prompted) -> None:
    *inputs, lens = padded(prompted)
    text, text_lens, codes = inputs
    inputs = [text, text_lens, codes[..., 0], lens, TokenSampler()]
    limits = torch.full((3,), 9), torch.full((3,), 12)
    expected = [ARGenerator(model.ar).generate(*inputs, seeds, *limits) for seeds in ([0, 1, 2], [3, 4, 5])]
    generator, between = ARGenerator(model.ar), []

    def generate_another(num_frames: int, drafts: Callable[[], list[torch.Tensor]]) -> None:
        if num_frames == 4:
            between.extend(generator.generate(*inputs, [3, 4, 5], *limits))

    # The second time, there are buffers of the right size to share.
    for _ in range(2):
        found = generator.generate(*inputs, [0, 1, 2], *limits, generate_another)
        for rows, wanted in ((found, expected[0]), (between[-3:], expected[1])):
            assert all(torch.equal(row.codes, one.codes) for row, one in zip(rows, wanted, strict=True))


def test_the_codes_of_a_group_see_those_before_them_in_the_repetition_window(model, prompted) -> None:
    text, text_lens, codes, codes_lens = padded(prompted)
    sampler = Recorder(repetition_window=3)
    limits = torch.ones(3, dtype=torch.long), torch.full((3,), 10)
    rows = ARGenerator(model.ar).generate(text, text_lens, codes[..., 0], codes_lens, sampler, [0, 0, 0], *limits)
    for row, generation in enumerate(rows):
        for frame in range(1, len(generation.codes)):
            _, history = sampler.seen[frame]
            assert history[row, 3:].tolist() == generation.codes[:frame, 0].tolist()


@pytest.mark.parametrize(("precision", "kind"), [("fp32", SplitLinear), ("bf16", Bf16Linear), ("int8", Int8Linear)])
def test_the_linear_layers_of_groups_are_decoded_in_every_precision(precision, kind, rows) -> None:
    model = VALLE(tiny_model(group_size=2)).eval()
    text, codes = rows[0]
    request = TokenizedRequest([1, *text.tolist(), 2], 1, codes, 5)
    [expected] = model.generate([request], TokenSampler(top_k=1), [0], torch.tensor([6]), torch.tensor([6]))
    model.prepare_inference(precision, torch.device("cpu"))
    assert isinstance(model.ar.group_embedding, kind) and isinstance(model.ar.group_predict_layer, kind)
    [found] = model.generate([request], TokenSampler(top_k=1), [0], torch.tensor([6]), torch.tensor([6]))
    assert found.codes.shape == (6, 4)
    if precision == "fp32":
        assert torch.equal(found.codes, expected.codes)


def test_a_prompt_must_consist_of_full_groups(rows) -> None:
    model = VALLE(tiny_model(group_size=2)).eval()
    request = TokenizedRequest([1, 5, 2], 1, rows[1][1], 1)
    with pytest.raises(ValueError, match="multiple of 2"):
        model.generate([request], TokenSampler(top_k=1), [0], torch.tensor([1]), torch.tensor([2]))


@torch.inference_mode()
def test_attention_maps_have_a_row_for_each_group(model, prompted) -> None:
    text, codes = prompted[0]
    size = model.ar.group_size
    new = torch.zeros(size + 1, 4, dtype=torch.long)
    maps = model.attention_maps(TokenizedRequest(text.tolist(), 1, codes, 1), new)
    num_groups = (len(codes) + len(new)) // size + int(model.ar.prepend_bos)
    assert [weights.shape for weights in maps] == [(num_groups, len(text))] * 2
    assert all((weights.sum(1) <= 1.0001).all() for weights in maps)


def test_only_groups_have_weights_of_their_own() -> None:
    names = [name for name in VALLE(tiny_model()).named_weights() if name.startswith("ar_") and "layers." not in name]
    plain = ["text_embedding.word_embeddings.weight", "audio_embedding.word_embeddings.weight"]
    plain += ["text_position.alpha", "audio_position.alpha", "decoder.norm.weight", "decoder.norm.bias"]
    assert names == [f"ar_{name}" for name in [*plain, "predict_layer.weight"]]
    one, two = (dict(VALLE(tiny_model(group_size=size)).named_weights()) for size in (1, 2))
    assert list(one) == [name for name in two if "group" not in name]
    assert {name: value.shape for name, value in two.items() if name not in one} == {
        "ar_group_embedding.weight": (32, 64),
        "ar_group_predict_layer.weight": (64, 32),
    }
    with pytest.raises(ValueError, match="unknown weight ar_group"):
        VALLE(tiny_model()).load_named_weights(two)
    assert "ar_group_embedding.weight" in VALLE(tiny_model(group_size=2)).load_named_weights(one)


def test_parameters_keep_the_order_that_optimizer_states_have() -> None:
    model = VALLE(tiny_model(add_prenet=True))
    names = [name.split(".") for name, _ in model.named_parameters()]
    text_and_audio = ["text_prenet", "audio_prenet", "text_position", "audio_position"]
    for part, expected in (
        ("ar", ["text_embedding", "audio_embedding", *text_and_audio, "decoder", "predict_layer"]),
        (
            "nar",
            ["text_embedding", "audio_embeddings", *text_and_audio, "stage_embeddings", "decoder", "predict_layers"],
        ),
    ):
        assert list(dict.fromkeys(name[1] for name in names if name[0] == part)) == expected


def test_one_of_a_tied_pair_is_enough() -> None:
    source = VALLE(tiny_model())
    weights = {name: value.clone() for name, value in source.named_weights().items()}
    for dropped in ("nar_predict_layers.0.weight", "nar_audio_embeddings.2.word_embeddings.weight"):
        target = VALLE(tiny_model())
        assert target.load_named_weights({name: value for name, value in weights.items() if name != dropped}) == []
        assert all(torch.equal(value, weights[name]) for name, value in target.named_weights().items())
    untied = VALLE(tiny_model(share_embedding=False))
    assert "nar_predict_layers.0.weight" in untied.load_named_weights({"ar_text_position.alpha": torch.ones(1)})
    with pytest.raises(ValueError, match="unknown weight nar_x"):
        source.load_named_weights({"nar_x": torch.ones(1)})
    with pytest.raises(ValueError, match=r"ar_text_position\.alpha"):
        source.load_named_weights({"ar_text_position.alpha": torch.ones(2)})
