"""Properties of the AR and the NAR: padding, causality, the cache, batches, stages, weights."""

import pytest
import torch

from models.valle.ar import AR
from models.valle.collate import IGNORED, pad
from models.valle.generate import ARGenerator
from models.valle.valle import VALLE
from modules.sampling import TokenSampler
from tests.conftest import tiny_model

VARIANTS = [
    {},
    {"prepend_bos": True},
    {"norm_first": False},
    {"add_prenet": True},
    {"nar_scale_factor": 0.5, "share_embedding": False},
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
    return pad(text), torch.tensor(TEXT_LENS), pad(codes), torch.tensor(CODES_LENS)


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
    first_changed = 8 + int(model.ar.prepend_bos)
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
    for _ in range(num):
        lens = torch.tensor([len(text)]), torch.tensor([len(codes)])
        logits = ar(text[None], lens[0], codes[None], lens[1])[0, -1]
        all_logits.append(logits)
        if logits.argmax() == ar.eos_id:
            break
        codes = torch.cat([codes, logits.argmax()[None]])
    return codes[len(prompt) :].tolist(), all_logits


SEEN: list[torch.Tensor] = []


class Recorder(TokenSampler):
    def __call__(self, logits, history, noise):
        SEEN.append(logits.clone())
        return super().__call__(logits, history, noise)


def test_cached_equals_uncached_alone_and_in_a_batch(model, rows) -> None:
    text, text_lens, codes, codes_lens = padded(rows)
    limits = torch.tensor([20, 9, 14])
    floor = torch.ones(3, dtype=torch.long)
    recorder = Recorder(top_k=1)
    SEEN.clear()
    together = ARGenerator(model.ar).generate(text, text_lens, codes[..., 0], codes_lens, recorder, 0, floor, limits)
    for row, (own_text, own_codes) in enumerate(rows):
        wanted, all_logits = uncached(model.ar, own_text, own_codes[:, 0], int(limits[row]))
        assert together[row].codes.tolist() == wanted
        assert together[row].stop_reason == ("cap" if len(wanted) == limits[row] else "eos")
        # The first logits differ on purpose: their end of speech is masked by the minimum length of 1.
        for step, logits in enumerate(all_logits[1:], start=1):
            assert torch.allclose(SEEN[step][row], logits, atol=1e-4)


def test_generation_has_a_minimum_and_a_maximum_length(model, rows) -> None:
    text, codes = rows[0]
    lens = torch.tensor([len(text)]), torch.tensor([len(codes)])
    torch.nn.init.zeros_(model.ar.predict_layer.weight)

    def generate(floor: int, cap: int):
        arguments = (text[None], lens[0], codes[None, :, 0], lens[1], TokenSampler(top_k=1), 0)
        return ARGenerator(model.ar).generate(*arguments, torch.tensor([floor]), torch.tensor([cap]))[0]

    # All logits are equal, so the first code wins, never the end of speech.
    assert (len(generate(1, 6).codes), generate(1, 6).stop_reason) == (6, "cap")
    with torch.no_grad():
        model.ar.predict_layer.weight[model.ar.eos_id] = 1.0
        model.ar.decoder.layers[-1].linear2.bias.fill_(5.0)
        if model.ar.decoder.norm is not None:
            model.ar.decoder.norm.bias.fill_(5.0)
    ended = generate(4, 30)
    assert (len(ended.codes), ended.stop_reason) == (4, "floor")


def test_sampled_batch_equals_each_alone(model, rows) -> None:
    text, text_lens, codes, codes_lens = padded(rows)
    sampler, floor, cap = TokenSampler(top_p=0.9, repetition_window=5), torch.tensor([1]), torch.tensor([12])
    together = ARGenerator(model.ar).generate(
        text, text_lens, codes[..., 0], codes_lens, sampler, 7, floor.expand(3), cap.expand(3)
    )
    for row, (own_text, own_codes) in enumerate(rows):
        lens = torch.tensor([len(own_text)]), torch.tensor([len(own_codes)])
        [alone] = ARGenerator(model.ar).generate(
            own_text[None], lens[0], own_codes[None, :, 0], lens[1], sampler, 7, floor, cap
        )
        assert together[row].codes.tolist() == alone.codes.tolist()


def test_ar_targets_are_the_next_codes_then_one_end() -> None:
    codes = torch.tensor([[4, 5, 6], [7, 0, 0]])
    lens = torch.tensor([3, 1])
    plain, begun = VALLE(tiny_model()).ar, VALLE(tiny_model(prepend_bos=True)).ar
    assert plain.targets(codes, lens, IGNORED).tolist() == [[5, 6, 20], [20, IGNORED, IGNORED]]
    assert begun.targets(codes, lens, IGNORED).tolist() == [[4, 5, 6, 20], [7, 20, IGNORED, IGNORED]]


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
