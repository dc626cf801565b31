"""The non-autoregressive model: codebooks 1 to Q-1, each in one pass (VALL-E, section 4.2.2)."""

from typing import cast

import torch
from torch import Tensor, nn

from config.schema import ValleSettings
from modules.embedding import SinePosition, TokenEmbedding, init_from_vectors
from modules.masks import full_attention_mask, padding_mask
from modules.packing import Packing
from modules.prenet import AudioPrenet, NoPrenet, TextPrenet
from modules.transformer import Transformer


class NAR(nn.Module):
    """Models all frames of a codebook at once: `p(c_i | c_<i, prompt, text)` for i from 1 to Q-1 (equation 2).

    Stage i predicts codebook i, and conditions every norm on its stage embedding. Attention is full.
    """

    def __init__(self, settings: ValleSettings) -> None:
        super().__init__()
        sizes = settings.decoder_dim, settings.nhead, settings.num_decoder_layers
        width, num_heads, num_layers = (int(size * settings.nar_scale_factor) for size in sizes)
        num_codes, dropout, has_prenet = settings.audio_token_num, settings.dropout, settings.add_prenet
        self.num_quantizers = settings.num_quantizers
        num_stages = self.num_quantizers - 1
        # The optimizer state in a checkpoint follows the order of the parameters, so modules keep their order.
        self.text_embedding = TokenEmbedding(width, settings.text_token_num)
        # Released checkpoints have a row for the AR's end of speech in table 0. No input uses it.
        embeddings = [TokenEmbedding(width, num_codes + int(codebook == 0)) for codebook in range(self.num_quantizers)]
        heads = [nn.Linear(width, num_codes, bias=False) for _ in range(num_stages)]
        if settings.share_embedding:
            # Head j predicts codebook j+1, and shares its weight with the table that reads codebook j+2.
            for head, embedding in zip(heads, embeddings[2:], strict=False):
                # Tied as an output head, a unit-variance table would start far above the loss of uniform guessing.
                nn.init.normal_(embedding.word_embeddings.weight, std=2 * width**-0.5)
                head.weight = embedding.word_embeddings.weight
        self.audio_embeddings = nn.ModuleList(embeddings)
        self.text_prenet = TextPrenet(width) if has_prenet else NoPrenet()
        self.audio_prenet = AudioPrenet(width) if has_prenet else NoPrenet()
        self.text_position = SinePosition(width, 0.0, learned_scale=False)
        self.audio_position = SinePosition(width, dropout, learned_scale=False)
        self.stage_embeddings = nn.ModuleList(TokenEmbedding(width, 1) for _ in range(num_stages))
        self.decoder = Transformer(width, num_heads, num_layers, dropout, settings.norm_first, adaptive=True)
        self.predict_layers = nn.ModuleList(heads)

    def init_codes(self, vectors: Tensor) -> None:
        """Initialize embeddings and heads from the codec's vectors (Q, V, W). Raises ValueError if they are tied."""
        heads = [cast(Tensor, head.weight) for head in self.predict_layers]
        embeddings = [cast(Tensor, embedding.weight) for embedding in self.audio_embeddings]
        if any(head is embedding for head in heads for embedding in embeddings):
            raise ValueError(
                "a head shares its weight with the embedding of the next codebook; set model.share_embedding to false"
            )
        init_from_vectors([*embeddings, *heads], torch.cat([vectors, vectors[1:]]))

    @torch.inference_mode()
    def generate(
        self,
        text: Tensor,
        text_lens: Tensor,
        codes: Tensor,
        codes_lens: Tensor,
        is_prompt: Tensor,
        read_whole_prompt: bool = True,
    ) -> Tensor:
        """Fill codebooks 1 to Q-1 of codes (B, T, Q) outside the prompt, greedily (section 4.3).

        Without `read_whole_prompt` (`prefix_mode` 0) a stage reads only the prompt's codebooks below it.
        """
        codes = codes.clone()
        is_read_whole = is_prompt if read_whole_prompt else torch.zeros_like(is_prompt)
        # Each stage reads the codebooks that earlier stages wrote into `codes`.
        for stage in range(1, self.num_quantizers):
            logits = self(text, text_lens, codes, codes_lens, is_read_whole, stage)
            codes[..., stage] = torch.where(is_prompt, codes[..., stage], logits.argmax(-1))
        return codes

    def forward(
        self,
        text: Tensor,
        text_lens: Tensor,
        codes: Tensor,
        codes_lens: Tensor,
        is_prompt: Tensor,
        stage: int,
        longest: int | None = None,
    ) -> Tensor:
        """Logits of codebook `stage` (B, T, V); those in the prompt are meaningless.

        text (B, S); codes (B, T, Q), whose codebooks from `stage` on are read only in the prompt; is_prompt (B, T).
        `longest` is the number of phones and frames in the longest row; without it, finding that number forces a GPU
        sync.
        """
        packing = Packing.from_lengths(text_lens, codes_lens, longest)
        is_pad = padding_mask(text_lens, text.shape[1])
        embedded = self.text_position(self.text_prenet(self.text_embedding(text), is_pad))
        x = packing.pack(embedded, self.embed_audio(codes, is_prompt, stage))
        may_attend = full_attention_mask(padding_mask(packing.lens, packing.length))
        hidden = self.decoder(x, may_attend, condition=self.stage_embeddings[stage - 1].weight)
        return self.predict_layers[stage - 1](packing.unpack_audio(hidden, codes.shape[1]))

    def embed_audio(self, codes: Tensor, is_prompt: Tensor, stage: int) -> Tensor:
        """codes (B, T, Q) to (B, T, D): the sum over codebooks below `stage`, and over all in the prompt (B, T)."""
        x = sum(self.audio_embeddings[codebook](codes[..., codebook]) for codebook in range(stage))
        for codebook in range(stage, self.num_quantizers):
            x = x + self.audio_embeddings[codebook](codes[..., codebook]) * is_prompt.unsqueeze(-1)
        return self.audio_position(self.audio_prenet(x))
