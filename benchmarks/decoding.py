"""AR and NAR decoding: steps against their linear layers alone, with and without a cache, one text and batches."""

import statistics
import time
from typing import Literal

import torch
from torch import Tensor, nn

from benchmarks.measure import (
    Row,
    peak_memory,
    products_per_second,
    read_bytes_per_second,
    seconds_of,
    seconds_once,
    synchronize,
)
from config.schema import ValleSettings
from models.contract import DraftsSoFar, OnFrames
from models.valle.generate import ARGenerator
from models.valle.valle import VALLE
from modules.precision import Bf16Linear, Int8Linear, SplitLinear
from modules.sampling import TokenSampler

NUM_PHONES, FRAME_RATE_HZ, PROMPT_SECONDS, CLIP_SECONDS = 60, 75, 3, 4
Precision = Literal["fp32", "bf16", "int8"]
NUM_PROMPT, NUM_NEW = PROMPT_SECONDS * FRAME_RATE_HZ, CLIP_SECONDS * FRAME_RATE_HZ
LONG_CONTEXT = 1000
# Texts of a GPU row, all of different lengths.
NUM_LENGTHS = 11
GROUP_SIZES = (1, 2, 4)
GREEDY, DEFAULT_SAMPLING = TokenSampler(top_k=1), TokenSampler()


def rows(settings: ValleSettings, device: torch.device, full: bool) -> list[Row]:
    """All rows but those of group sizes are of one frame a step."""
    settings = settings.model_copy(update={"group_size": 1})
    if device.type == "cuda":
        return [*_gpu_rows(settings, device), *_group_rows(settings, "bf16", device)]
    found = []
    precisions: tuple[Precision, ...] = ("fp32", "bf16", "int8")
    for precision in precisions:
        model = build(settings, precision, device)
        if precision == "fp32":
            found.append(_cached_row(model, device, every_step=full))
        found += _step_rows(model, precision, device)
        if precision == "bf16":
            found += [_batch_row(model, device), _nar_row(model, [Texts(1, device)])]
    found += _group_rows(settings, "fp32", device)
    missing = (
        ("AR step, bf16, 1 text, GPU", "at most 0.6 ms"),
        ("AR and NAR, 1 text, GPU", "at most 0.06 of real time"),
        ("AR and NAR, 32 texts, GPU", "at least 100 times real time"),
    )
    return found + [Row(job, goal=goal, note="not measured") for job, goal in missing]


def build(settings: ValleSettings, precision: Precision, device: torch.device) -> VALLE:
    """An AR and a NAR model with random weights."""
    torch.manual_seed(0)
    model = VALLE(settings).requires_grad_(False).eval()
    model.prepare_inference(precision, device)
    return model


class Texts:
    """Inputs of a batch: by default 60 phones, a prompt of 3 s, and a clip of 4 s to decode, for each text."""

    def __init__(
        self,
        batch: int,
        device: torch.device,
        num_prompt: int = NUM_PROMPT,
        num_phones: int = NUM_PHONES,
        num_new: int = NUM_NEW,
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        self.text = torch.randint(3, 60, (batch, num_phones), generator=generator).to(device)
        self.codes = torch.randint(0, 1000, (batch, num_prompt, 8), generator=generator).to(device)
        self.text_lens = torch.full((batch,), num_phones, device=device)
        self.codes_lens = torch.full((batch,), num_prompt, device=device)
        self.num_new = num_new

    @property
    def length(self) -> int:
        """Number of positions in a row of the NAR's input."""
        return self.text.shape[1] + self.codes.shape[1] + self.num_new

    def decode(
        self,
        decoder: ARGenerator,
        num_frames: int,
        on_frames: OnFrames | None = None,
        sampler: TokenSampler = GREEDY,
    ) -> None:
        """Decode exactly `num_frames` frames, greedily by default."""
        exactly = torch.full_like(self.codes_lens, num_frames)
        inputs = (self.text, self.text_lens, self.codes[..., 0], self.codes_lens)
        decoder.generate(*inputs, sampler, [0] * len(self.codes), exactly, exactly, on_frames)

    def seconds_of_steps(self, decoder: ARGenerator, num_steps: int) -> float:
        """Time `num_steps` steps within one generation, after its first frame: the prefill is not included."""
        times: list[float] = []

        def note(num_frames: int, drafts: DraftsSoFar) -> None:
            if num_frames in (1, 1 + num_steps):
                synchronize()
                times.append(time.perf_counter())

        # `on_frames` is not called after the last frame.
        self.decode(decoder, num_steps + 2, note)
        return times[1] - times[0]

    def fill(self, model: VALLE) -> None:
        """Run all passes of the NAR for the clip after the prompt."""
        assert model.nar is not None
        codes = nn.functional.pad(self.codes, (0, 0, 0, self.num_new))
        is_prompt = torch.arange(codes.shape[1], device=codes.device)[None] < self.codes.shape[1]
        is_prompt = is_prompt.expand(len(codes), -1)
        model.nar.generate(self.text, self.text_lens, codes, self.codes_lens + self.num_new, is_prompt)


def texts_of_many_lengths(batch: int, device: torch.device, first: int = 0) -> list[Texts]:
    """Batches whose lengths all differ, around the default ones: a GPU may prepare kernels for each new shape.

    Two lists with different `first`, below `NUM_LENGTHS`, have no length in common.
    """
    found = []
    for index in range(NUM_LENGTHS):
        # A permutation of -n..n, so that the lengths are in no order.
        step = (index * 7 + 3) % NUM_LENGTHS - NUM_LENGTHS // 2
        offset = step * NUM_LENGTHS + first
        lengths = (NUM_PROMPT + offset, max(3, NUM_PHONES + offset // 4), NUM_NEW + offset)
        found.append(Texts(batch, device, *lengths))
    return found


def step_seconds(model: VALLE, texts: Texts, num_frames: int = 25) -> float:
    """Time of one AR step after the texts' prompts."""
    decoder = ARGenerator(model.ar)
    texts.decode(decoder, 2)
    return statistics.median(texts.seconds_of_steps(decoder, num_frames) for _ in range(3)) / num_frames


@torch.inference_mode()
def linear_seconds(model: VALLE, batch: int) -> float:
    """Time of the linear layers of an AR step alone, with torch's plain functions."""
    linears = [
        module for module in model.ar.modules() if isinstance(module, nn.Linear | SplitLinear | Bf16Linear | Int8Linear)
    ]
    dtype = torch.bfloat16 if linears[0].weight.dtype != torch.float32 else torch.float32
    inputs: dict[int, Tensor] = {}
    for linear in linears:
        width = int(linear.weight.shape[1])
        inputs[width] = torch.randn(batch, width, dtype=dtype, device=linear.weight.device)

    def products() -> None:
        for linear in linears:
            x, weight = inputs[int(linear.weight.shape[1])], linear.weight
            if isinstance(linear, Int8Linear):
                torch._weight_int8pack_mm(x, weight, linear.scale)
            else:
                nn.functional.linear(x, weight, linear.bias)

    return seconds_of(products, repeats=15)


def _step_rows(model: VALLE, precision: str, device: torch.device) -> list[Row]:
    num_bytes = sum(
        value.numel() * value.element_size()
        for name, value in model.ar.decoder.state_dict().items()
        if name.endswith("weight") and value.ndim == 2
    )
    found = []
    for context in (NUM_PHONES + NUM_PROMPT, LONG_CONTEXT):
        texts = Texts(1, device, num_prompt=context - NUM_PHONES)
        with peak_memory() as peak:
            seconds = step_seconds(model, texts)
        floor = linear_seconds(model, 1)
        read = num_bytes / read_bytes_per_second(device)
        goal = f"at most 1.25 x its linear layers ({1000 * floor:.1f} ms; reading their weights {1000 * read:.1f} ms)"
        job = f"AR step, {precision}, context of {context} positions"
        ratio = seconds / floor
        found.append(Row(job, seconds, 1 / seconds, "frame/s", peak.mib, None, ratio, goal, ratio <= 1.25))
    return found


def _cached_row(model: VALLE, device: torch.device, every_step: bool) -> Row:
    texts, decoder = Texts(1, device), ARGenerator(model.ar)
    texts.decode(decoder, 2)
    with peak_memory() as peak:
        cached = seconds_once(lambda: texts.decode(decoder, NUM_NEW))

    @torch.inference_mode()
    def uncached_step(step: int) -> None:
        codes = torch.zeros(1, NUM_PROMPT + step, dtype=torch.long, device=device)
        hidden, may_attend, packing = model.ar.sequence(texts.text, texts.text_lens, codes, texts.codes_lens + step)
        model.ar.predict_layer(packing.last_positions(model.ar.decoder(hidden, may_attend))).argmax(-1)

    # The time grows smoothly with the step, so a sample of the steps is enough.
    steps = range(0, NUM_NEW, 1 if every_step else 50)
    uncached_step(0)
    seconds = sum(seconds_once(lambda step=step: uncached_step(step)) for step in steps)  # type: ignore[misc]
    uncached = seconds * NUM_NEW / len(steps)
    job, ratio = f"AR, fp32, {CLIP_SECONDS} s clip, cached", uncached / cached
    goal = f"at least 25 x without a cache ({uncached:.0f} s)"
    return Row(job, cached, NUM_NEW / cached, "frame/s", peak.mib, ratio, None, goal, ratio >= 25)


def _group_rows(settings: ValleSettings, precision: Precision, device: torch.device) -> list[Row]:
    """A clip decoded with `group_size` frames a step, prefill and sampling included; speedups are over one frame."""
    found: list[Row] = []
    for group_size in GROUP_SIZES:
        model = build(settings.model_copy(update={"group_size": group_size}), precision, device)
        texts, decoder = Texts(1, device, num_prompt=NUM_PROMPT // group_size * group_size), ARGenerator(model.ar)
        with peak_memory() as peak:
            seconds = seconds_of(
                lambda texts=texts, decoder=decoder: texts.decode(decoder, NUM_NEW, sampler=DEFAULT_SAMPLING),  # type: ignore[misc]
                repeats=1,
            )
        ratio = (found[0].seconds or seconds) / seconds if found else None
        steps = f"{NUM_NEW / CLIP_SECONDS / group_size:g} steps a second of audio"
        job = f"AR, {precision}, {CLIP_SECONDS} s clip, sampled, group_size {group_size}: {steps}"
        found.append(Row(job, seconds, NUM_NEW / seconds, "frame/s", peak.mib, ratio))
    return found


def _batch_row(model: VALLE, device: torch.device) -> Row:
    alone = step_seconds(model, Texts(1, device))
    with peak_memory() as peak:
        together = step_seconds(model, Texts(8, device))
    ratio = 8 * alone / together
    goal = "at least 4 x the frames of 1 text"
    floor = together / linear_seconds(model, 8)
    return Row("AR step, bf16, 8 texts", together, 8 / together, "frame/s", peak.mib, ratio, floor, goal, ratio >= 4)


def _nar_row(model: VALLE, clips: list[Texts]) -> Row:
    """Time the NAR: one clip after a warm-up, or several clips of different lengths, each the first time it is seen."""
    assert model.nar is not None
    nar, device = model.nar, clips[0].text.device

    def fill(clips: list[Texts]) -> None:
        for texts in clips:
            texts.fill(model)

    with peak_memory() as peak:
        if len(clips) == 1:
            seconds = seconds_of(lambda: fill(clips), repeats=1)
        else:
            Texts(1, device, NUM_PROMPT, NUM_PHONES, NUM_NEW).fill(model)
            seconds = seconds_once(lambda: fill(clips))
    width, num_layers = nar.decoder.width, len(nar.decoder.layers)
    # A layer has 12 D^2 weights, and each position attends to L keys and values.
    products = sum(
        2 * texts.length * num_layers * (12 * width**2 + 2 * texts.length * width) * (nar.num_quantizers - 1)
        for texts in clips
    )
    ratio = seconds * products_per_second(device, torch.bfloat16) / products
    goal, job = "at most 1.3 x its products", f"NAR, bf16, 7 passes, {CLIP_SECONDS} s clip"
    num_frames = sum(texts.num_new for texts in clips)
    return Row(job, seconds / len(clips), num_frames / seconds, "frame/s", peak.mib, None, ratio, goal, ratio <= 1.3)


def _gpu_rows(settings: ValleSettings, device: torch.device) -> list[Row]:
    model = build(settings, "bf16", device)
    with peak_memory() as peak:
        step = _step_seconds_of_many_lengths(model, device)
    floor = linear_seconds(model, 1)
    goal = "at most 0.6 ms"
    found = [
        Row("AR step, bf16, 1 text, GPU", step, 1 / step, "frame/s", peak.mib, None, step / floor, goal, step <= 6e-4)
    ]
    for batch, limit, goal in ((1, 0.06, "at most 0.06 of real time"), (32, 0.01, "at least 100 times real time")):
        decoder, clips = ARGenerator(model.ar), texts_of_many_lengths(batch, device)

        def synthesize(clips: list[Texts], decoder: ARGenerator = decoder) -> None:
            for texts in clips:
                texts.decode(decoder, texts.num_new)
                texts.fill(model)

        synthesize([Texts(batch, device, NUM_PROMPT, NUM_PHONES, NUM_NEW)])
        with peak_memory() as peak:
            seconds = seconds_once(lambda clips=clips: synthesize(clips))  # type: ignore[misc]
        factor = seconds * FRAME_RATE_HZ / (batch * sum(texts.num_new for texts in clips))
        seconds /= len(clips)
        job = f"AR and NAR, bf16, {batch} text{'s' if batch > 1 else ''}, GPU"
        found.append(Row(job, seconds, 1 / factor, "x real time", peak.mib, None, None, goal, factor <= limit))
    return [*found, _nar_row(model, texts_of_many_lengths(1, device))]


def _step_seconds_of_many_lengths(model: VALLE, device: torch.device) -> float:
    """Time of an AR step over texts of many lengths, each seen for the first time."""
    decoder, num_frames = ARGenerator(model.ar), NUM_NEW // 2
    Texts(1, device, NUM_PROMPT, NUM_PHONES, NUM_NEW).decode(decoder, 2)
    clips = texts_of_many_lengths(1, device, first=1)
    return sum(texts.seconds_of_steps(decoder, num_frames) for texts in clips) / (NUM_LENGTHS * num_frames)
