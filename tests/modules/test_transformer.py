"""The building blocks: masks, cache, norms and prenets."""

import torch
from torch import nn

from modules.attention import SelfAttention
from modules.embedding import SinePosition
from modules.masks import padding_mask, prefix_lm_mask
from modules.norm import AdaptiveLayerNorm
from modules.packing import Packing
from modules.prenet import TextPrenet
from modules.transformer import Transformer


def test_attention_equals_torch() -> None:
    ours = SelfAttention(16, 4, dropout=0.0).eval()
    theirs = nn.MultiheadAttention(16, 4, batch_first=True).eval()
    theirs.load_state_dict({name.replace("in_proj.", "in_proj_"): value for name, value in ours.state_dict().items()})
    x = torch.randn(2, 7, 16)
    is_pad = padding_mask(torch.tensor([7, 4]), 7)
    expected, weights = theirs(x, x, x, key_padding_mask=is_pad)
    may_attend = ~is_pad[:, None, None, :]
    assert torch.allclose(ours(x, may_attend), expected, atol=1e-6)
    assert torch.allclose(ours.weights(x, may_attend).mean(1), weights, atol=1e-6)


def test_prefix_mask_row_by_row() -> None:
    # Two phones, two frames, and a padded position that none of them attends to.
    rows = ["11000", "11000", "11100", "11110", "11111"]
    expected = torch.tensor([[column == "1" for column in row] for row in rows])
    assert torch.equal(prefix_lm_mask(torch.tensor([2]), 5)[0, 0], expected)


def test_packed_rows_are_text_then_audio_then_padding() -> None:
    text, audio = torch.tensor([[1, 2, 3], [4, 0, 0]])[..., None], torch.tensor([[5, 6], [7, 8]])[..., None]
    packing = Packing.from_lengths(torch.tensor([3, 1]), torch.tensor([1, 2]))
    packed = packing.pack(text, audio)[..., 0]
    assert packing.length == 4
    assert packed[0].tolist() == [1, 2, 3, 5] and packed[1, :3].tolist() == [4, 7, 8]
    assert packing.last_positions(packed[..., None])[:, 0].tolist() == [5, 8]
    unpacked = packing.unpack_audio(packed[..., None], 2)[..., 0]
    assert unpacked[0, 0] == 5 and unpacked[1].tolist() == [7, 8]
    assert torch.equal(Packing.from_lengths(packing.text_lens, packing.audio_lens, 4).pack(text, audio)[..., 0], packed)


def test_cache_in_pieces_equals_one_pass() -> None:
    for norm_first in (True, False):
        model = Transformer(16, 4, 3, dropout=0.0, norm_first=norm_first).eval()
        x = torch.randn(2, 9, 16)
        causal = torch.ones(9, 9, dtype=torch.bool).tril()
        expected = model(x, causal)
        cache = model.new_cache(2, 9, x.device)
        pieces = []
        for first, last in ((0, 4), (4, 5), (5, 9)):
            slots = torch.arange(first, last)
            pieces.append(model(x[:, first:last], causal[first:last, :last], cache=cache.view(slots, last)))
        assert torch.allclose(torch.cat(pieces, dim=1), expected, atol=1e-5)


def test_adaptive_norm_has_no_one_plus() -> None:
    norm = AdaptiveLayerNorm(8)
    nn.init.zeros_(norm.project_layer.weight)
    nn.init.zeros_(norm.project_layer.bias)
    assert norm(torch.randn(1, 3, 8), torch.randn(1, 8)).abs().max() == 0


def test_positions_interleave_and_restart() -> None:
    position = SinePosition(4, dropout=0.0, learned_scale=True)
    table = position(torch.zeros(1, 600, 4))[0]
    assert torch.allclose(table[3], torch.tensor([3.0, 3.0, 0.03, 0.03]).add(torch.tensor([0, torch.pi / 2] * 2)).sin())
    later = position(torch.zeros(2, 1, 4), first=torch.tensor([5, 599]))
    assert torch.equal(later[:, 0], table[[5, 599]])


def test_prenet_ignores_padding_also_in_its_statistics() -> None:
    x = torch.randn(1, 6, 8)
    padded = torch.cat([x, torch.full((1, 5, 8), 9.0)], dim=1)
    alone, beside = TextPrenet(8), TextPrenet(8)
    beside.load_state_dict(alone.state_dict())
    for prenet in (alone, beside):
        for part in prenet:
            if isinstance(part, nn.Dropout):
                part.p = 0.0
    expected = alone(x, padding_mask(torch.tensor([6]), 6))
    found = beside(padded, padding_mask(torch.tensor([6]), 11))
    assert torch.allclose(found[:, :6], expected, atol=1e-5)
    assert torch.allclose(alone[2].running_mean, beside[2].running_mean, atol=1e-6)
