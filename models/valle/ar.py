"""The autoregressive model: codebook 0 from text (VALL-E, section 4.2.1; VALL-E 2, section 3.3.1)."""

from collections.abc import Sequence

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

    With a `group_size` G above 1 an audio position is a group of G frames (VALL-E 2, arXiv 2406.05370, section 3.3.1).
    Its input is a linear map of the group's embeddings, concatenated (equation 7). Its hidden state is mapped to G
    states, one for each frame of the next group, and `predict_layer` predicts the codes from them, independently of
    each other. The paper drops the first frames of an utterance until full groups are left. Here no frame is dropped:
    the last target group holds the remaining frames and the end of speech, and is filled up with ignored targets.
    """

    def __init__(self, settings: ValleSettings) -> None:
        super().__init__()
        width, dropout, has_prenet = settings.decoder_dim, settings.dropout, settings.add_prenet
        self.num_audio_tokens = settings.audio_token_num
        self.group_size = settings.group_size
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
        has_groups, grouped_width = settings.group_size > 1, settings.group_size * width
        self.group_embedding = nn.Linear(grouped_width, width, bias=False) if has_groups else nn.Identity()
        self.group_predict_layer = nn.Linear(width, grouped_width, bias=False) if has_groups else nn.Identity()

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
        """Begin of speech, an input only, with `prepend_bos`. A whole group of it begins the audio."""
        return self.num_audio_tokens + 1

    @property
    def num_unpredicted(self) -> int:
        """The frames at the start of a row that nothing predicts: the first group, without a begin symbol."""
        return 0 if self.prepend_bos else self.group_size

    def forward(
        self, text: Tensor, text_lens: Tensor, codes: Tensor, codes_lens: Tensor, longest: int | None = None
    ) -> Tensor:
        """Teacher-forced logits for text (B, S) and codes (B, T): (B, N*G, V+1) for the N = T // G full groups.

        Item t of the logits predicts frame t+G. With `prepend_bos` they are (B, (N+1)*G, V+1), and item t predicts
        frame t. `longest` is the number of phones and full groups in the longest row; without it, finding that number
        forces a GPU sync.
        """
        x, may_attend, packing = self.sequence(text, text_lens, codes, codes_lens, longest)
        num_groups = codes.shape[1] // self.group_size + int(self.prepend_bos)
        return self.predict(packing.unpack_audio(self.decoder(x, may_attend), num_groups))

    def predict(self, hidden: Tensor) -> Tensor:
        """Logits of the G codes after each group: hidden states (B, N, D) to (B, N*G, V+1)."""
        return self.predict_layer(self.group_predict_layer(hidden).unflatten(-1, (self.group_size, -1)).flatten(1, 2))

    def sequence(
        self, text: Tensor, text_lens: Tensor, codes: Tensor, codes_lens: Tensor, longest: int | None = None
    ) -> tuple[Tensor, Tensor, Packing]:
        """The decoder's input (B, L, D), `may_attend` (B, 1, L, L), and where text and audio lie in a row.

        Frames after the last full group of a row are no input.
        """
        if self.prepend_bos:
            codes, codes_lens = F.pad(codes, (self.group_size, 0), value=self.bos_id), codes_lens + self.group_size
            longest = None if longest is None else longest + 1
        packing = Packing.from_lengths(text_lens, codes_lens // self.group_size, longest)
        is_pad = padding_mask(text_lens, text.shape[1])
        embedded = self.text_position(self.text_prenet(self.text_embedding(text), is_pad))
        x = packing.pack(embedded, self.embed_audio(codes))
        return x, prefix_lm_mask(text_lens, packing.length), packing

    def embed_audio(self, codes: Tensor, first: Tensor | None = None) -> Tensor:
        """The full groups of codes (B, T) to (B, T // G, D), positions added; `first` (B,) is each row's first one."""
        num_groups = codes.shape[1] // self.group_size
        embedded = self.audio_embedding(codes[:, : num_groups * self.group_size])
        groups = self.group_embedding(embedded.unflatten(1, (num_groups, self.group_size)).flatten(2))
        return self.audio_position(self.audio_prenet(groups), first)

    def targets(self, codes: Tensor, codes_lens: Tensor, ignored: int) -> Tensor:
        """Targets for the logits of `forward`: the codes (B, T), one end of speech after them, then `ignored`."""
        # The frames after the last full group and the end of speech make one more group.
        targets = F.pad(codes, (0, self.group_size - codes.shape[1] % self.group_size))
        index = torch.arange(targets.shape[1], device=codes.device)
        targets = targets.masked_fill(index == codes_lens.unsqueeze(1), self.eos_id)
        return targets.masked_fill(index > codes_lens.unsqueeze(1), ignored)[:, self.num_unpredicted :]

    @staticmethod
    def drop_text(text: Tensor, text_lens: Tensor, is_dropped: Tensor) -> tuple[Tensor, Tensor]:
        """Leave the first and the last id, bos and eos, of the rows `is_dropped` (B,) of text (B, S)."""
        last = text.gather(1, text_lens.unsqueeze(1) - 1)
        # The ids after the new length are not read.
        emptied = torch.cat([text[:, :1], last, text[:, 2:]], dim=1)
        return torch.where(is_dropped.unsqueeze(1), emptied, text), text_lens.masked_fill(is_dropped, 2)

    def read(
        self, text: Tensor, text_lens: Tensor, codes: Tensor, codes_lens: Tensor, heads: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """The logits of `forward`, and the attention of K heads on text (B, K, N, S) when each group is predicted.

        Row n is that of the prediction of group n. Nothing predicts the first group without a begin symbol: it has the
        row of the second.
        """
        x, may_attend, packing = self.sequence(text, text_lens, codes, codes_lens)
        num_groups = codes.shape[1] // self.group_size + int(self.prepend_bos)
        is_text = ~padding_mask(text_lens, text.shape[1])
        hidden, weights = self.decoder.forward_with_weights(x, may_attend, is_text, heads)
        # As in `forward`, the audio of each row begins after its own text.
        rows = packing.unpack_audio(weights.transpose(1, 2).flatten(2), num_groups)
        attention = rows.unflatten(2, (len(heads), text.shape[1])).transpose(1, 2)
        if not self.prepend_bos:
            attention = torch.cat([attention[:, :, :1], attention], dim=2)
        return self.predict(packing.unpack_audio(hidden, num_groups)), attention

    def attention_maps(self, text: Tensor, codes: Tensor) -> list[Tensor]:
        """Each layer's attention of groups on text (N, S), averaged over heads, for one row of text and codes."""
        text_lens, codes_lens = (torch.tensor([x.shape[1]], device=x.device) for x in (text, codes))
        x, may_attend, _ = self.sequence(text, text_lens, codes, codes_lens)
        num_text = text.shape[1]
        return [weights[0, num_text:, :num_text] for weights in self.decoder.attention_maps(x, may_attend)]
