"""A second model: one transformer predicts all codebooks in a delay pattern (MusicGen, arXiv 2306.05284, section 2.2).

Step s holds frame s - q of codebook q. Where there is no such frame it holds the id after the last code, which in
codebook 0 is the end of speech.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from config.schema import ModelSettings
from models.contract import Batch, CodecLM, Example, Generation, LossSums, OnFrames, TokenizedRequest
from modules.embedding import SinePosition, TokenEmbedding
from modules.masks import prefix_lm_mask
from modules.packing import Packing
from modules.sampling import ExponentialNoise, TokenSampler
from modules.transformer import Transformer


class DelaySettings(ModelSettings):
    width: int
    num_heads: int
    num_layers: int


@dataclass(frozen=True, kw_only=True)
class DelayBatch(Batch):
    """text (B, S); input steps (B, L, Q) and the steps that they predict as targets, -100 where padded."""

    text: Tensor
    text_lens: Tensor
    steps: Tensor
    steps_lens: Tensor
    targets: Tensor


@dataclass(frozen=True)
class DelayCollator:
    num_codes: int
    num_codebooks: int
    needs_other_codes: bool = False

    def num_positions(self, num_ids: np.ndarray, num_frames: np.ndarray) -> np.ndarray:
        return num_ids + num_frames + self.num_codebooks

    def __call__(self, examples: Sequence[Example], rng: random.Random | None) -> DelayBatch:
        steps = [delayed(torch.from_numpy(example.codes).long(), self.num_codes) for example in examples]
        text = [torch.tensor(example.ids) for example in examples]
        # The input is shifted by one step: the first step is predicted from one without any frame.
        inputs = [F.pad(row[:-1], (0, 0, 1, 0), value=self.num_codes) for row in steps]
        return DelayBatch(
            text=nn.utils.rnn.pad_sequence(text, batch_first=True),
            text_lens=torch.tensor([len(ids) for ids in text]),
            steps=nn.utils.rnn.pad_sequence(inputs, batch_first=True),
            steps_lens=torch.tensor([len(row) for row in steps]),
            targets=nn.utils.rnn.pad_sequence(steps, batch_first=True, padding_value=-100),
            num_tokens=sum(example.num_tokens for example in examples),
            num_utterances=len(examples),
        )


def delayed(codes: Tensor, no_frame: int) -> Tensor:
    """Codes (T, Q) to steps (T + Q, Q), each codebook one step later than the one before, padded with `no_frame`."""
    num_frames, num_codebooks = codes.shape
    steps = codes.new_full((num_frames + num_codebooks, num_codebooks), no_frame)
    for codebook in range(num_codebooks):
        steps[codebook : codebook + num_frames, codebook] = codes[:, codebook]
    return steps


class DelayLM(CodecLM):
    settings_class = DelaySettings
    train_stages = frozenset({1})

    def __init__(self, settings: DelaySettings, train_stage: int | None = None) -> None:
        super().__init__(settings, train_stage)
        self.num_codes, width = settings.audio_token_num, settings.width
        self.text_embedding = TokenEmbedding(width, settings.text_token_num)
        self.embeddings = nn.ModuleList(
            TokenEmbedding(width, self.num_codes + 1) for _ in range(settings.num_quantizers)
        )
        self.position = SinePosition(width, 0.0, learned_scale=True)
        self.decoder = Transformer(width, settings.num_heads, settings.num_layers, 0.0, norm_first=True)
        self.heads = nn.ModuleList(nn.Linear(width, self.num_codes + 1) for _ in range(settings.num_quantizers))

    def collate(self, frame_rate_hz: float) -> DelayCollator:
        return DelayCollator(self.num_codes, len(self.embeddings))

    @property
    def loss_names(self) -> dict[str, str]:
        return {"delay": "delay"}

    def num_targets(self, batch: DelayBatch) -> dict[str, int]:
        return {"delay": int((batch.targets != -100).sum())}

    def logits(self, text: Tensor, text_lens: Tensor, steps: Tensor, steps_lens: Tensor) -> Tensor:
        """Logits of the targets (B, L, Q, V+1), from text (B, S) and input steps (B, L, Q)."""
        packing = Packing.from_lengths(text_lens, steps_lens)
        audio = sum(embedding(steps[..., q]) for q, embedding in enumerate(self.embeddings))
        x = packing.pack(self.position(self.text_embedding(text)), self.position(audio))
        hidden = packing.unpack_audio(self.decoder(x, prefix_lm_mask(text_lens, packing.length)), steps.shape[1])
        return torch.stack([head(hidden) for head in self.heads], dim=2)

    def forward(self, batch: DelayBatch, audio_token_dropout: float = 0.0) -> dict[str, LossSums]:
        logits = self.logits(batch.text, batch.text_lens, batch.steps, batch.steps_lens).float().flatten(0, 2)
        targets = batch.targets.flatten()
        loss_sum = F.cross_entropy(logits, targets, ignore_index=-100, reduction="sum")
        top10 = logits.topk(10).indices == targets.unsqueeze(1)
        return {"delay": LossSums("delay", loss_sum, top10.sum(), self.num_targets(batch)["delay"])}

    @torch.inference_mode()
    def generate(
        self,
        requests: Sequence[TokenizedRequest],
        sampler: TokenSampler,
        seeds: Sequence[int],
        min_frames: Tensor,
        max_frames: Tensor,
        on_frames: OnFrames | None = None,
    ) -> list[Generation]:
        limits = zip(min_frames.tolist(), max_frames.tolist(), strict=True)
        rows = zip(requests, seeds, limits, strict=True)
        return [self._generate(request, sampler, seed, *limit) for request, seed, limit in rows]

    def _generate(
        self, request: TokenizedRequest, sampler: TokenSampler, seed: int, min_frames: int, max_frames: int
    ) -> Generation:
        """One request, without a cache: codebook 0 is sampled, the others are greedy."""
        text, prompt, end = torch.tensor([request.ids]), request.codes, self.num_codes
        num_prompt, num_codebooks = prompt.shape
        steps = delayed(torch.cat([prompt, prompt.new_zeros(max_frames, num_codebooks)]), end)
        noise = iter(ExponentialNoise(sampler.num_draws, end + 1, [seed], text.device))
        num_new, stop_reason = max_frames, "cap"
        step = num_prompt
        # The last frame of the last codebook is num_codebooks - 1 steps later than that of the first.
        while step < num_prompt + num_new + num_codebooks - 1:
            before = F.pad(steps[:step], (0, 0, 1, 0), value=end)[None]
            text_lens, steps_lens = torch.tensor([text.shape[1]]), torch.tensor([before.shape[1]])
            logits = self.logits(text, text_lens, before, steps_lens)[0, -1]
            if step < num_prompt + num_new:
                logits[0, end] = -torch.inf if step - num_prompt < min_frames else logits[0, end]
                drawn = sampler(logits[:1], steps.new_full((1, 1), -1), next(noise))
                if int(drawn) == end:
                    # Codebook 0 is complete: run this step again for the delayed codebooks alone.
                    num_new = step - num_prompt
                    stop_reason = "floor" if num_new == min_frames else "eos"
                    continue
                steps[step, 0] = drawn
            for codebook in range(1, num_codebooks):
                if num_prompt <= step - codebook < num_prompt + num_new:
                    steps[step, codebook] = logits[codebook, :end].argmax()
            step += 1
        frames = torch.arange(num_prompt, num_prompt + num_new)
        codes = torch.stack([steps[frames + codebook, codebook] for codebook in range(num_codebooks)], dim=1)
        return Generation(codes, stop_reason)
