"""Speaker embeddings of UniSpeech's WavLM and UTMOS: seeded weights in their formats, against plain formulas."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from evaluation.build import build_measures
from evaluation.measures import Clip, Target
from evaluation.recognizers import CPU, RATE_HZ
from evaluation.speakers import build_embedder
from evaluation.utmos import build_utmos
from tests.support.hostile import saved, tone
from utils.errors import UserError

WIDTH, INNER, HEADS, LAYERS, CONV, BUCKETS = 64, 32, 4, 2, 8, 320
KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
CHANNELS, WIDE, EMBEDDING, BOTTLENECK = 32, 24, 6, 8
Weights = dict[str, Tensor]


def draw(shapes: Mapping[str, tuple[int, ...]], seed: int) -> Weights:
    """Random weights; norms' variances are positive."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        weight = torch.randn(shape, generator=generator) / math.sqrt(max(1, math.prod(shape[1:])))
        weights[name] = weight.abs() + 0.5 if "running_var" in name or name.endswith("weight_g") else weight
    return weights


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def batch_norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return norm(name, width) | {f"{name}.running_mean": (width,), f"{name}.running_var": (width,)}


def linear(name: str, inputs: int, outputs: int, *kernel: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs, *kernel), f"{name}.bias": (outputs,)}


def encoder_shapes(is_wavlm: bool) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"mask_emb": (WIDTH,)}
    for i, kernel in enumerate(KERNELS):
        shapes[f"feature_extractor.conv_layers.{i}.0.weight"] = (CONV, 1 if i == 0 else CONV, kernel)
        if is_wavlm:
            shapes |= norm(f"feature_extractor.conv_layers.{i}.2.1", CONV)
        elif i == 0:
            shapes |= norm("feature_extractor.conv_layers.0.2", CONV)
    shapes |= norm("layer_norm", CONV) | linear("post_extract_proj", CONV, WIDTH)
    shapes |= {"encoder.pos_conv.0.bias": (WIDTH,), "encoder.pos_conv.0.weight_g": (1, 1, 16)}
    shapes |= {"encoder.pos_conv.0.weight_v": (WIDTH, WIDTH // 4, 16)} | norm("encoder.layer_norm", WIDTH)
    for i in range(LAYERS):
        layer = f"encoder.layers.{i}"
        for part in "qkv":
            shapes |= linear(f"{layer}.self_attn.{part}_proj", WIDTH, WIDTH)
        shapes |= linear(f"{layer}.self_attn.out_proj", WIDTH, WIDTH)
        shapes |= norm(f"{layer}.self_attn_layer_norm", WIDTH) | norm(f"{layer}.final_layer_norm", WIDTH)
        shapes |= linear(f"{layer}.fc1", WIDTH, INNER) | linear(f"{layer}.fc2", INNER, WIDTH)
        if is_wavlm:
            shapes |= linear(f"{layer}.self_attn.grep_linear", WIDTH // HEADS, 8)
            shapes[f"{layer}.self_attn.grep_a"] = (1, HEADS, 1, 1)
    if is_wavlm:
        shapes["encoder.layers.0.self_attn.relative_attention_bias.weight"] = (BUCKETS, HEADS)
    return shapes


def speaker_shapes() -> dict[str, tuple[int, ...]]:
    """The names of UniSpeech's ECAPA-TDNN, with its encoder's and the classifier of training."""
    shapes = {f"feature_extract.model.{name}": shape for name, shape in encoder_shapes(True).items()}
    shapes |= {"feature_weight": (LAYERS + 1,), "loss_calculator.projection.weight": (5, EMBEDDING)}
    shapes |= linear("layer1.conv", WIDTH, CHANNELS, 5) | batch_norm("layer1.bn", CHANNELS)
    for number in (2, 3, 4):
        block = f"layer{number}"
        for part in ("Conv1dReluBn1", "Conv1dReluBn2"):
            shapes |= linear(f"{block}.{part}.conv", CHANNELS, CHANNELS, 1)
            shapes |= batch_norm(f"{block}.{part}.bn", CHANNELS)
        for i in range(7):
            shapes |= linear(f"{block}.Res2Conv1dReluBn.convs.{i}", CHANNELS // 8, CHANNELS // 8, 3)
            shapes |= batch_norm(f"{block}.Res2Conv1dReluBn.bns.{i}", CHANNELS // 8)
        shapes |= linear(f"{block}.SE_Connect.linear1", CHANNELS, BOTTLENECK)
        shapes |= linear(f"{block}.SE_Connect.linear2", BOTTLENECK, CHANNELS)
    shapes |= linear("conv", 3 * CHANNELS, WIDE, 1) | linear("pooling.linear1", WIDE, BOTTLENECK, 1)
    shapes |= linear("pooling.linear2", BOTTLENECK, WIDE, 1) | batch_norm("bn", 2 * WIDE)
    return shapes | linear("linear", 2 * WIDE, EMBEDDING)


def utmos_shapes() -> dict[str, tuple[int, ...]]:
    """The names of SpeechMOS."""
    shapes = {f"wav2vec2.{name}": shape for name, shape in encoder_shapes(False).items()}
    shapes |= {"domain_emb": (1, 3), "judge_emb": (1, 5)}
    for ending in ("", "_reverse"):
        shapes |= {f"blstm.weight_ih_l0{ending}": (40, WIDTH + 8), f"blstm.weight_hh_l0{ending}": (40, 10)}
        shapes |= {f"blstm.bias_ih_l0{ending}": (40,), f"blstm.bias_hh_l0{ending}": (40,)}
    return shapes | linear("projection.0", 20, 7) | linear("projection.2", 7, 1)


def speaker_weights() -> Weights:
    """Random, with an attention that is sharp enough for embeddings to follow the audio."""
    weights = draw(speaker_shapes(), 1)
    return {name: 10 * weight if "pooling" in name else weight for name, weight in weights.items()}


def save_speaker(path: Path) -> Path:
    counts = {name: torch.tensor(1) for name in speaker_shapes() if name.endswith("running_var")}
    counts = {name.replace("running_var", "num_batches_tracked"): count for name, count in counts.items()}
    torch.save({"model": speaker_weights() | counts, "best_valid_eer": 100.0}, path)
    return path


def save_utmos(path: Path) -> Path:
    torch.save(draw(utmos_shapes(), 2), path)
    return path


def apply_linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].squeeze(-1).T + w[f"{name}.bias"]


def apply_layer_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scale = (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    return centred / scale * w[f"{name}.weight"] + w[f"{name}.bias"]


def apply_batch_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    """Of (T, C)."""
    scale = (w[f"{name}.running_var"] + 1e-5).sqrt()
    return (x - w[f"{name}.running_mean"]) / scale * w[f"{name}.weight"] + w[f"{name}.bias"]


def apply_conv(w: Weights, name: str, x: Tensor, dilation: int = 1) -> Tensor:
    """Of (T, C), with as many outputs as inputs in time, as a sum over the kernel's positions."""
    kernel = w[f"{name}.weight"]
    reach = kernel.shape[2] // 2 * dilation
    padded = functional.pad(x, (0, 0, reach, reach))
    parts = [padded[i * dilation : i * dilation + len(x)] @ kernel[:, :, i].T for i in range(kernel.shape[2])]
    return sum(parts) + w[f"{name}.bias"]


def buckets_of(num_frames: int) -> Tensor:
    """The bucket of each pair of positions (T, T): half for each direction, exact below 80, then logarithmic."""
    rows = []
    for query in range(num_frames):
        row = []
        for key in range(num_frames):
            distance, half = abs(key - query), BUCKETS // 2
            if distance >= half // 2:
                growth = math.log(distance / (half // 2)) / math.log(800 / (half // 2))
                distance = min(half - 1, half // 2 + int(growth * (half - half // 2)))
            row.append(distance + (half if key > query else 0))
        rows.append(row)
    return torch.tensor(rows)


def attend(w: Weights, name: str, x: Tensor, bias: Tensor | None) -> Tensor:
    """Of (T, D). `bias` (H, T, T) is gated by the queries' inputs, as in WavLM's equations."""
    outputs, width = [], WIDTH // (HEADS if bias is not None else WIDTH // 64)
    queries, keys, values = (apply_linear(w, f"{name}.{part}_proj", x) for part in "qkv")
    for head in range(WIDTH // width):
        part = slice(head * width, (head + 1) * width)
        scores = queries[:, part] @ keys[:, part].T / math.sqrt(width)
        if bias is not None:
            gates = apply_linear(w, f"{name}.grep_linear", x[:, part])
            update, reset = gates[:, :4].sum(1).sigmoid(), gates[:, 4:].sum(1).sigmoid()
            gate = update * (reset * w[f"{name}.grep_a"][0, head] - 1) + 2
            scores = scores + gate.reshape(-1, 1) * bias[head]
        outputs.append(scores.softmax(1) @ values[:, part])
    return apply_linear(w, f"{name}.out_proj", torch.cat(outputs, dim=1))


def encode(w: Weights, audio: np.ndarray, is_wavlm: bool) -> list[Tensor]:
    """The inputs of all layers and the last output, (T, D) each."""
    x = torch.from_numpy(audio).double()
    if is_wavlm:
        x = (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt()
    x = x[:, None]
    for i, stride in enumerate(STRIDES):
        kernel = w[f"feature_extractor.conv_layers.{i}.0.weight"]
        windows = x.unfold(0, kernel.shape[2], stride)
        x = torch.einsum("tck,ock->to", windows, kernel)
        if is_wavlm:
            x = apply_layer_norm(w, f"feature_extractor.conv_layers.{i}.2.1", x)
        elif i == 0:
            x = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()
            x = x * w["feature_extractor.conv_layers.0.2.weight"] + w["feature_extractor.conv_layers.0.2.bias"]
        x = functional.gelu(x)
    x = apply_linear(w, "post_extract_proj", apply_layer_norm(w, "layer_norm", x))
    direction = w["encoder.pos_conv.0.weight_v"]
    kernel = direction / direction.pow(2).sum((0, 1), keepdim=True).sqrt() * w["encoder.pos_conv.0.weight_g"]
    position = functional.conv1d(x.T[None], kernel, w["encoder.pos_conv.0.bias"], padding=8, groups=4)[0, :, :-1]
    x = x + functional.gelu(position.T)
    bias = None
    if is_wavlm:
        table = w["encoder.layers.0.self_attn.relative_attention_bias.weight"]
        bias = table[buckets_of(len(x))].permute(2, 0, 1)
    else:
        x = apply_layer_norm(w, "encoder.layer_norm", x)
    states = []
    for i in range(LAYERS):
        states.append(x)
        layer = f"encoder.layers.{i}"

        def feed(x: Tensor, layer: str = layer) -> Tensor:
            return apply_linear(w, f"{layer}.fc2", functional.gelu(apply_linear(w, f"{layer}.fc1", x)))

        if is_wavlm:
            x = x + attend(w, f"{layer}.self_attn", apply_layer_norm(w, f"{layer}.self_attn_layer_norm", x), bias)
            x = x + feed(apply_layer_norm(w, f"{layer}.final_layer_norm", x))
        else:
            x = apply_layer_norm(w, f"{layer}.self_attn_layer_norm", x + attend(w, f"{layer}.self_attn", x, None))
            x = apply_layer_norm(w, f"{layer}.final_layer_norm", x + feed(x))
    return [*states, apply_layer_norm(w, "encoder.layer_norm", x) if is_wavlm else x]


def embed(w: Weights, audio: np.ndarray) -> Tensor:
    """The embedding of a clip by UniSpeech's ECAPA-TDNN."""
    encoder = {name.removeprefix("feature_extract.model."): weight for name, weight in w.items()}
    layers = encode(encoder, audio, is_wavlm=True)
    x = sum(share * layer for share, layer in zip(w["feature_weight"].softmax(0), layers, strict=True)) + 1e-6
    x = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()
    x = apply_batch_norm(w, "layer1.bn", apply_conv(w, "layer1.conv", x).relu())
    outputs = []
    for number in (2, 3, 4):
        block = f"layer{number}"
        y = apply_batch_norm(w, f"{block}.Conv1dReluBn1.bn", apply_linear(w, f"{block}.Conv1dReluBn1.conv", x).relu())
        groups, previous = list(y.split(CHANNELS // 8, dim=1)), torch.zeros(())
        for i in range(7):
            inner = f"{block}.Res2Conv1dReluBn"
            convolved = apply_conv(w, f"{inner}.convs.{i}", groups[i] + previous, dilation=number).relu()
            groups[i] = previous = apply_batch_norm(w, f"{inner}.bns.{i}", convolved)
        y = apply_linear(w, f"{block}.Conv1dReluBn2.conv", torch.cat(groups, dim=1)).relu()
        y = apply_batch_norm(w, f"{block}.Conv1dReluBn2.bn", y)
        gate = apply_linear(w, f"{block}.SE_Connect.linear1", y.mean(0)[None]).relu()
        x = x + y * apply_linear(w, f"{block}.SE_Connect.linear2", gate).sigmoid()
        outputs.append(x)
    x = apply_linear(w, "conv", torch.cat(outputs, dim=1)).relu()
    shares = apply_linear(w, "pooling.linear2", apply_linear(w, "pooling.linear1", x).tanh()).softmax(0)
    mean = (shares * x).sum(0)
    deviation = ((shares * x**2).sum(0) - mean**2).clamp(min=1e-9).sqrt()
    pooled = apply_batch_norm(w, "bn", torch.cat([mean, deviation])[None])
    return apply_linear(w, "linear", pooled)[0]


def rate(w: Weights, audio: np.ndarray) -> float:
    """UTMOS of a clip, with the LSTM written out."""
    encoder = {name.removeprefix("wav2vec2."): weight for name, weight in w.items()}
    frames = encode(encoder, audio, is_wavlm=False)[-1]
    context = torch.cat([w["domain_emb"], w["judge_emb"]], dim=1).expand(len(frames), -1)
    inputs = torch.cat([frames, context], dim=1)
    directions = []
    for ending, order in (("", range(len(frames))), ("_reverse", reversed(range(len(frames))))):
        hidden = cell = torch.zeros(10, dtype=torch.float64)
        outputs = {}
        for t in order:
            gates = w[f"blstm.weight_ih_l0{ending}"] @ inputs[t] + w[f"blstm.bias_ih_l0{ending}"]
            gates = gates + w[f"blstm.weight_hh_l0{ending}"] @ hidden + w[f"blstm.bias_hh_l0{ending}"]
            enter, forget, new, leave = gates.chunk(4)
            cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
            outputs[t] = hidden = leave.sigmoid() * cell.tanh()
        directions.append(torch.stack([outputs[t] for t in range(len(frames))]))
    ratings = apply_linear(w, "projection.2", apply_linear(w, "projection.0", torch.cat(directions, dim=1)).relu())
    return float(3 + 2 * ratings.mean())


def exact(weights: Weights) -> Weights:
    return {name: weight.double() for name, weight in weights.items()}


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    """More than the 80 frames after which relative positions are not exact."""
    return np.random.default_rng(0).normal(0.05, 0.1, 2 * RATE_HZ).astype(np.float32)


def test_an_embedding_of_unispeechs_wavlm_is_that_of_its_equations(tmp_path: Path, noise: np.ndarray) -> None:
    embedder = build_embedder(str(save_speaker(tmp_path / "wavlm.pth")))
    assert embedder.name == "wavlm.pth" and "WavLM" in embedder.kind
    found = []
    for audio in (noise, np.sin(np.arange(len(noise)) ** 1.5).astype(np.float32)):
        expected = embed(exact(speaker_weights()), audio)
        found.append(embedder.embed(audio))
        assert found[-1] == pytest.approx((expected / expected.norm()).numpy(), abs=2e-5)
    assert abs(found[1] - found[0]).max() > 1e-3
    # Loudness and an offset are taken out.
    assert embedder.embed(0.5 * noise + 0.2) == pytest.approx(found[0], abs=2e-5)


def test_a_rating_of_utmos_is_that_of_its_equations(tmp_path: Path, noise: np.ndarray) -> None:
    utmos = build_utmos(save_utmos(tmp_path / "utmos.pt"), CPU)
    ratings = [utmos.rate(audio) for audio in (noise, 0.5 * np.sign(noise))]
    expected = [rate(exact(draw(utmos_shapes(), 2)), audio) for audio in (noise, 0.5 * np.sign(noise))]
    assert ratings == pytest.approx(expected, abs=1e-4) and abs(ratings[0] - ratings[1]) > 1e-4


def test_clips_have_the_similarity_and_the_rating(tmp_path: Path) -> None:
    saved(tone(1.0, 24000), 24000)(tmp_path / "prompt.wav")
    prompt = Clip(tmp_path / "prompt.wav")
    speaker, utmos = save_speaker(tmp_path / "wavlm.pth"), save_utmos(tmp_path / "utmos.pt")
    measures, missing = build_measures("en-us", "none", None, str(speaker), None, utmos=utmos)
    assert missing.keys() == {"WER and CER", "DNSMOS"}
    values, _ = measures.measure(prompt, Target("hello", prompt, None, None))
    assert values["sim_o"].mean == pytest.approx(1, abs=1e-5) and np.isfinite(values["utmos"].mean)


def without(weights: Weights, name: str) -> Weights:
    return {key: weight for key, weight in weights.items() if key != name}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("feature_extract.model.encoder.layers.1.fc1.weight", "WavLMModel"),
        ("feature_extract.model.encoder.pos_conv.0.weight_v", "no encoder of wav2vec 2.0 or WavLM"),
        ("pooling.linear1.weight", "no ECAPA-TDNN head"),
        ("layer3.Res2Conv1dReluBn.convs.4.bias", "EcapaTdnn .*layer3.split.convs.4.bias"),
    ],
)
def test_a_speaker_model_without_some_weights_is_one_line(tmp_path: Path, name: str, words: str) -> None:
    path = tmp_path / "wavlm.pth"
    torch.save({"model": without(speaker_weights(), name)}, path)
    with pytest.raises(UserError, match=f"{path}: .*{words}.*--speaker_model") as raised:
        build_embedder(str(path))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda weights: {"x": print}, "no checkpoint of tensors alone"),
        (lambda weights: [1], "no dictionary"),
        (lambda weights: {}, "no encoder of wav2vec 2.0"),
        (lambda weights: without(weights, "judge_emb"), "no head of UTMOS's strong learner"),
        (lambda weights: without(weights, "projection.2.bias"), "Head .*projection.2.bias"),
        (lambda weights: weights | {"more": torch.zeros(1)}, "Head .*more"),
    ],
)
def test_a_file_that_is_no_utmos_is_one_line(tmp_path: Path, spoil: Callable[[Weights], object], words: str) -> None:
    path = tmp_path / "utmos.pt"
    torch.save(spoil(draw(utmos_shapes(), 2)), path)
    with pytest.raises(UserError, match=f"{path}: .*{words}.*--utmos") as raised:
        build_utmos(path, CPU)
    assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match="--utmos FILE"):
        build_utmos(None, CPU)
