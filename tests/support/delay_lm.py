"""A second model: one transformer that predicts all codebooks in a delay pattern (MusicGen, arXiv 2306.05284, 2.2).

At step s codebook q holds frame s - q. A step that is no frame of a codebook holds the id after the last code, which in
codebook 0 ends the speech.
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
    """text (B, S); delayed codes (B, L, Q) and their targets, -100 where padded."""

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
        # Behind a step of no frame at all, which the first one is predicted from.
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
    """Codes (T, Q) to (T + Q, Q), each codebook a step later than the one before; at least one end in each."""
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
        """Of each step's codes (B, L, Q, V+1), from the text and the steps up to the one before, which stand there."""
        packing = Packing.of(text_lens, steps_lens)
        audio = sum(embedding(steps[..., q]) for q, embedding in enumerate(self.embeddings))
        x = packing.pack(self.position(self.text_embedding(text)), self.position(audio))
        hidden = packing.audio_of(self.decoder(x, prefix_lm_mask(text_lens, packing.length)), steps.shape[1])
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
        seed: int,
        min_frames: Tensor,
        max_frames: Tensor,
        on_frames: OnFrames | None = None,
    ) -> list[Generation]:
        limits = zip(min_frames.tolist(), max_frames.tolist(), strict=True)
        return [self._generate(request, sampler, seed, *limit) for request, limit in zip(requests, limits, strict=True)]

    def _generate(
        self, request: TokenizedRequest, sampler: TokenSampler, seed: int, least: int, most: int
    ) -> Generation:
        """One request, without a cache: codebook 0 is drawn, the others are the likeliest."""
        text, prompt, end = torch.tensor([request.ids]), request.codes, self.num_codes
        num_prompt, num_codebooks = prompt.shape
        known = delayed(torch.cat([prompt, prompt.new_zeros(most, num_codebooks)]), end)
        noise, num_new, stop_reason = (
            iter(ExponentialNoise(sampler.num_draws, 1, end + 1, seed, text.device)),
            most,
            "cap",
        )
        step = num_prompt
        while step < num_prompt + num_new + num_codebooks - 1:
            before = F.pad(known[:step], (0, 0, 1, 0), value=end)[None]
            lens = torch.tensor([text.shape[1]]), torch.tensor([before.shape[1]])
            logits = self.logits(text, lens[0], before, lens[1])[0, -1]
            if step < num_prompt + num_new:
                logits[0, end] = -torch.inf if step - num_prompt < least else logits[0, end]
                drawn = sampler(logits[:1], known.new_full((1, 1), -1), next(noise))
                if int(drawn) == end:
                    num_new, stop_reason = step - num_prompt, "floor" if step - num_prompt == least else "eos"
                    continue
                known[step, 0] = drawn
            for codebook in range(1, num_codebooks):
                if num_prompt <= step - codebook < num_prompt + num_new:
                    known[step, codebook] = logits[codebook, :end].argmax()
            step += 1
        frames = torch.arange(num_prompt, num_prompt + num_new)
        codes = torch.stack([known[frames + codebook, codebook] for codebook in range(num_codebooks)], dim=1)
        return Generation(codes, stop_reason)
