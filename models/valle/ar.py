"""The autoregressive model: codebook 0 from text (VALL-E, section 4.2.1)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from config.schema import ValleSettings
from modules.embedding import SinePosition, TokenEmbedding
from modules.masks import padding_mask, prefix_lm_mask
from modules.packing import Packing
from modules.prenet import AudioPrenet, NoPrenet, TextPrenet
from modules.transformer import Transformer


class AR(nn.Module):
    """Models codebook 0 one frame at a time: `p(c_t | c_<t, text)` (equation 1). A prompt is the first frames of c.

    Text (bos, phones, eos) and audio are one sequence. Text attends to all text; audio attends to all text and to
    audio up to itself. Positions restart at 0 for audio.
    """

    def __init__(self, settings: ValleSettings) -> None:
        super().__init__()
        width, dropout, has_prenet = settings.decoder_dim, settings.dropout, settings.add_prenet
        self.num_audio_tokens = settings.audio_token_num
        self.prepend_bos = settings.prepend_bos
        # The optimizer state in a checkpoint follows the order of the parameters, so modules keep their order.
        self.text_embedding = TokenEmbedding(width, settings.text_token_num)
        self.audio_embedding = TokenEmbedding(width, settings.audio_token_num + 1 + int(settings.prepend_bos))
        self.text_prenet = TextPrenet(width) if has_prenet else NoPrenet()
        self.audio_prenet = AudioPrenet(width) if has_prenet else NoPrenet()
        self.text_position = SinePosition(width, dropout, learned_scale=True)
        self.audio_position = SinePosition(width, dropout, learned_scale=True)
        self.decoder = Transformer(width, settings.nhead, settings.num_decoder_layers, dropout, settings.norm_first)
        self.predict_layer = nn.Linear(width, settings.audio_token_num + 1, bias=False)

    @property
    def eos_id(self) -> int:
        """End of speech, an output only."""
        return self.num_audio_tokens

    @property
    def mask_id(self) -> int:
        """Replaces a dropped input. It shares the end of speech's embedding row, which no other input uses."""
        return self.num_audio_tokens

    @property
    def bos_id(self) -> int:
        """Begin of speech, an input only, with `prepend_bos`."""
        return self.num_audio_tokens + 1

    def forward(
        self, text: Tensor, text_lens: Tensor, codes: Tensor, codes_lens: Tensor, longest: int | None = None
    ) -> Tensor:
        """Teacher-forced logits (B, T, V+1) for text (B, S) and codes (B, T): position t predicts frame t+1.

        With `prepend_bos` they are (B, T+1, V+1), and position t predicts frame t. `longest` is the number of phones
        and codes in the longest row; without it, finding that number forces a GPU sync.
        """
        x, may_attend, packing = self.sequence(text, text_lens, codes, codes_lens, longest)
        hidden = self.decoder(x, may_attend)
        return self.predict_layer(packing.unpack_audio(hidden, codes.shape[1] + int(self.prepend_bos)))

    def sequence(
        self, text: Tensor, text_lens: Tensor, codes: Tensor, codes_lens: Tensor, longest: int | None = None
    ) -> tuple[Tensor, Tensor, Packing]:
        """The decoder's input (B, L, D), `may_attend` (B, 1, L, L), and where text and audio lie in a row."""
        if self.prepend_bos:
            codes, codes_lens = F.pad(codes, (1, 0), value=self.bos_id), codes_lens + 1
            longest = None if longest is None else longest + 1
        packing = Packing.from_lengths(text_lens, codes_lens, longest)
        is_pad = padding_mask(text_lens, text.shape[1])
        embedded = self.text_position(self.text_prenet(self.text_embedding(text), is_pad))
        x = packing.pack(embedded, self.embed_audio(codes))
        return x, prefix_lm_mask(text_lens, packing.length), packing

    def embed_audio(self, codes: Tensor, first: Tensor | None = None) -> Tensor:
        """codes (B, T) to (B, T, D), positions added; `first` (B,) is the position of each row's first frame."""
        return self.audio_position(self.audio_prenet(self.audio_embedding(codes)), first)

    def targets(self, codes: Tensor, codes_lens: Tensor, ignored: int) -> Tensor:
        """Targets for the logits of `forward`: the codes (B, T), one end of speech after them, then `ignored`."""
        targets = F.pad(codes, (0, 1))
        index = torch.arange(targets.shape[1], device=codes.device)
        targets = targets.masked_fill(index == codes_lens.unsqueeze(1), self.eos_id)
        targets = targets.masked_fill(index > codes_lens.unsqueeze(1), ignored)
        # Without a begin symbol nothing predicts the first frame.
        return targets if self.prepend_bos else targets[:, 1:]

    def attention_maps(self, text: Tensor, codes: Tensor) -> list[Tensor]:
        """Each layer's attention of audio on text (T, S), averaged over heads, for one row of text and codes."""
        text_lens, codes_lens = (torch.tensor([x.shape[1]], device=x.device) for x in (text, codes))
        x, may_attend, _ = self.sequence(text, text_lens, codes, codes_lens)
        num_text = text.shape[1]
        return [weights[0, num_text:, :num_text] for weights in self.decoder.attention_maps(x, may_attend)]
