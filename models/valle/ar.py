"""The autoregressive model: codebook 0 from text (VALL-E, section 4.2.1)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modules.embedding import SinePosition, TokenEmbedding
from modules.kv_cache import KVCache
from modules.masks import padding_mask, prefix_lm_mask
from modules.prenet import AudioPrenet, TextPrenet
from modules.sampling import Sampler
from modules.transformer import Transformer


@dataclass(frozen=True)
class Generated:
    """One row's new codes of codebook 0 (T,), and whether it ended by itself ("eos") or at its cap ("cap")."""

    codes: Tensor
    ended: str


class AR(nn.Module):
    """Predicts the next code of codebook 0 from all text and the codes before it.

    Sequence: text (bos, phones, eos), then audio. Text sees all text; audio sees all text and earlier audio.
    Positions restart at 0 for audio.
    """

    def __init__(
        self,
        *,
        width: int,
        num_heads: int,
        num_layers: int,
        num_text_tokens: int,
        num_audio_tokens: int,
        norm_first: bool,
        add_prenet: bool,
        prepend_bos: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.num_audio_tokens = num_audio_tokens
        self.prepend_bos = prepend_bos
        self.text_embedding = TokenEmbedding(width, num_text_tokens)
        self.audio_embedding = TokenEmbedding(width, num_audio_tokens + 1 + int(prepend_bos))
        self.text_prenet = TextPrenet(width) if add_prenet else None
        self.audio_prenet = AudioPrenet(width) if add_prenet else None
        self.text_position = SinePosition(width, dropout, learned_scale=True)
        self.audio_position = SinePosition(width, dropout, learned_scale=True)
        self.decoder = Transformer(width, num_heads, num_layers, dropout, norm_first)
        self.predict_layer = nn.Linear(width, num_audio_tokens + 1, bias=False)

    @property
    def eos_id(self) -> int:
        """End of speech, an output only."""
        return self.num_audio_tokens

    @property
    def mask_id(self) -> int:
        """Stands for a hidden input: the end of speech's row, as that is never an input."""
        return self.num_audio_tokens

    @property
    def bos_id(self) -> int:
        """Begin of speech, an input only, with `prepend_bos`."""
        return self.num_audio_tokens + 1

    def embed_text(self, text: Tensor, is_pad: Tensor) -> Tensor:
        """text (B, S) to (B, S, D), positions added."""
        x = self.text_embedding(text)
        if self.text_prenet is not None:
            x = self.text_prenet(x, is_pad)
        return self.text_position(x)

    def embed_audio(self, codes: Tensor, first: Tensor | None = None) -> Tensor:
        """codes (B, T) to (B, T, D), positions added; `first` (B,) is the position of each row's first frame."""
        x = self.audio_embedding(codes)
        if self.audio_prenet is not None:
            x = self.audio_prenet(x)
        return self.audio_position(x, first)

    def inputs(self, codes: Tensor) -> Tensor:
        """Codes (B, T) as the model reads them: behind the begin symbol where there is one."""
        return nn.functional.pad(codes, (1, 0), value=self.bos_id) if self.prepend_bos else codes

    def forward(self, text: Tensor, text_lens: Tensor, codes: Tensor, codes_lens: Tensor) -> Tensor:
        """Teacher-forced logits (B, T, V+1): position t predicts frame t+1.

        With `prepend_bos` they are (B, T+1, V+1), and position t predicts frame t.
        """
        x, may_attend = self._sequence(text, text_lens, self.inputs(codes), codes_lens)
        return self.predict_layer(self.decoder(x, may_attend)[:, text.shape[1] :])

    def targets(self, codes: Tensor, codes_lens: Tensor, ignored: int) -> Tensor:
        """What `forward` shall predict: the codes, then the end of speech once; `ignored` elsewhere."""
        targets = nn.functional.pad(codes, (0, 1))
        index = torch.arange(targets.shape[1], device=codes.device)
        targets = targets.masked_fill(index == codes_lens.unsqueeze(1), self.eos_id)
        targets = targets.masked_fill(index > codes_lens.unsqueeze(1), ignored)
        return targets if self.prepend_bos else targets[:, 1:]

    def attention_maps(self, text: Tensor, codes: Tensor) -> list[Tensor]:
        """For one utterance, each layer's attention of audio on text, averaged over heads: (T, S)."""
        lens = [torch.tensor([x.shape[1]], device=x.device) for x in (text, codes)]
        x, may_attend = self._sequence(text, lens[0], self.inputs(codes), lens[1])
        num_text = text.shape[1]
        return [weights[0, num_text:, :num_text] for weights in self.decoder.attention_maps(x, may_attend)]

    def _sequence(self, text: Tensor, text_lens: Tensor, inputs: Tensor, codes_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Text and audio inputs as one sequence (B, S+T, D), and who may attend to whom."""
        text_is_pad = padding_mask(text_lens, text.shape[1])
        audio_is_pad = padding_mask(codes_lens + int(self.prepend_bos), inputs.shape[1])
        x = torch.cat([self.embed_text(text, text_is_pad), self.embed_audio(inputs)], dim=1)
        return x, prefix_lm_mask(text_is_pad, audio_is_pad)

    @torch.inference_mode()
    def generate(
        self,
        text: Tensor,
        text_lens: Tensor,
        prompt: Tensor,
        prompt_lens: Tensor,
        sampler: Sampler,
        seed: int,
        min_frames: Tensor,
        max_frames: Tensor,
    ) -> list[Generated]:
        """Continue each row's prompt (B, P) until the end of speech wins or is drawn, or `max_frames` (B,).

        Keys and values are cached: each step costs one position. A row's codes do not depend on its neighbours.
        The end of speech cannot come before `min_frames` (B,), at least 1.
        """
        device, batch, num_text = text.device, text.shape[0], text.shape[1]
        inputs, next_position = self.inputs(prompt), prompt_lens + int(self.prepend_bos)
        limit = int(max_frames.max())
        self.audio_position.reserve(inputs.shape[1] + limit)
        x, may_attend = self._sequence(text, text_lens, inputs, prompt_lens)
        cache = self.decoder.new_cache(batch, x.shape[1] + limit, like=self.text_embedding.weight)
        slots = torch.arange(x.shape[1], device=device).expand(batch, -1)
        hidden = self.decoder(x, may_attend, cache=cache.at(slots, x.shape[1]))
        rows = torch.arange(batch, device=device)
        logits = self.predict_layer(hidden[rows, num_text + next_position - 1])

        generators = [torch.Generator().manual_seed(seed) for _ in range(batch)]
        history = torch.full((batch, sampler.repetition_window + limit), -1, device=device)
        lens = torch.zeros(batch, dtype=torch.long, device=device)
        is_done = torch.zeros(batch, dtype=torch.bool, device=device)
        hit_cap = torch.zeros_like(is_done)
        for step in range(limit):
            logits[:, self.eos_id].masked_fill_(min_frames > step, -torch.inf)
            codes = sampler(logits, history[:, : sampler.repetition_window + step], generators)
            is_done = is_done | (codes == self.eos_id) | (logits.argmax(-1) == self.eos_id)
            lens = lens + ~is_done
            history[:, sampler.repetition_window + step] = torch.where(is_done, -1, codes)
            at_cap = ~is_done & (lens >= max_frames)
            is_done, hit_cap = is_done | at_cap, hit_cap | at_cap
            if bool(is_done.all()):
                break
            end = x.shape[1] + step + 1
            logits = self._next_logits(codes.masked_fill(is_done, 0), text_lens, num_text, next_position, cache, end)
            next_position = next_position + 1
        new = history[:, sampler.repetition_window :].cpu()
        return [Generated(new[row, : int(lens[row])], "cap" if bool(hit_cap[row]) else "eos") for row in range(batch)]

    def _next_logits(
        self, codes: Tensor, text_lens: Tensor, num_text: int, position: Tensor, cache: KVCache, end: int
    ) -> Tensor:
        """Feed one code a row (B,) at its position (B,); returns the logits after it (B, V+1).

        `end` is the number of cache slots that are in use by any row.
        """
        slot = torch.arange(end, device=codes.device)
        own_slot = (num_text + position).unsqueeze(1)
        is_text = slot < text_lens.unsqueeze(1)
        is_audio = (slot >= num_text) & (slot <= own_slot)
        x = self.embed_audio(codes.unsqueeze(1), position)
        hidden = self.decoder(x, (is_text | is_audio)[:, None, None, :], cache=cache.at(own_slot, end))
        return self.predict_layer(hidden[:, 0])
