"""VALL-E (arXiv 2301.02111): an AR and a NAR model that are trained, saved and used together."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from config.schema import ValleSettings
from models.contract import CodecLM, Generation, LossSums, OnFrames, Reading, TokenizedRequest
from models.valle.ar import AR
from models.valle.collate import IGNORED, Collator, PrefixMode, ValleBatch, pad
from models.valle.generate import ARGenerator
from models.valle.nar import NAR
from modules.embedding import init_from_vectors
from modules.precision import Bf16Linear, Int8Linear, SplitLinear, replace_linears
from modules.sampling import TokenSampler

MAX_PROMPT_SECONDS = 3
"""The longest prompt of the NAR in training (VALL-E, section 4.2.2)."""


class VALLE(CodecLM):
    """The AR predicts codebook 0, the NAR the others. The experiment of an AR model has no NAR.

    `ar_trains` and `nar_trains` decide which of the two `forward` computes losses of.
    """

    settings_class = ValleSettings
    train_stages = frozenset({0, 1, 2})
    pretrained_stages = frozenset({2})
    free_settings = frozenset({"dropout", "prefix_mode"})
    reads_codes = True
    supports_guidance = True
    free_pretrained_settings = frozenset(
        {"nar_scale_factor", "nar_num_decoder_layers", "share_embedding", "num_quantizers"}
    )

    def __init__(self, settings: ValleSettings, train_stage: int | None = None) -> None:
        """Train stage 1 trains an AR, 2 a NAR beside a frozen AR, and 0 both; None is for inference with both."""
        super().__init__(settings, train_stage)
        self.num_quantizers = settings.num_quantizers
        self.prefix_mode = PrefixMode(settings.prefix_mode)
        self.frames_per_step = settings.group_size
        self.ar = AR(settings)
        self.nar: NAR | None = None if train_stage == 1 else NAR(settings)
        self.ar_trains = train_stage in (0, 1)
        self.nar_trains = train_stage in (0, 2)
        self.ar.requires_grad_(train_stage != 2)
        self.generator = ARGenerator(self.ar)
        self._codec_vectors: Tensor | None = None

    def forward(
        self, batch: ValleBatch, audio_token_dropout: float = 0.0, condition_dropout: float = 0.0
    ) -> dict[str, LossSums]:
        """Losses of the models that train: "ar", and "nar_<stage>" for each stage in the batch.

        Both dropouts are the AR's: the NAR is not guided.
        """
        losses = {}
        if self.ar_trains:
            losses["ar"] = self._ar_loss(batch, audio_token_dropout, condition_dropout)
        if self.nar_trains and self.nar is not None:
            for nar in batch.nar:
                text = batch.text, batch.text_lens
                logits = self.nar(*text, nar.codes, nar.codes_lens, nar.is_prompt, nar.stage, nar.longest)
                losses[f"nar_{nar.stage}"] = loss_sums("nar", logits, nar.targets, nar.num_targets)
        return losses

    def _ar_loss(self, batch: ValleBatch, audio_token_dropout: float, condition_dropout: float) -> LossSums:
        codes, text, text_lens = batch.codes[..., 0], batch.text, batch.text_lens
        # Dropout hides inputs only, so the targets come from the full codes.
        targets = self.ar.targets(codes, batch.codes_lens, IGNORED)
        if audio_token_dropout and self.training:
            is_dropped = codes.new_empty(codes.shape).bernoulli_(audio_token_dropout).bool()
            codes = codes.masked_fill(is_dropped, self.ar.mask_id)
        if condition_dropout and self.training:
            is_emptied = text_lens.new_empty(text_lens.shape).bernoulli_(condition_dropout).bool()
            text, text_lens = self.ar.drop_text(text, text_lens, is_emptied)
        logits = self.ar(text, text_lens, codes, batch.codes_lens, batch.longest)
        return loss_sums("ar", logits, targets, self._num_ar_targets(batch))

    def num_targets(self, batch: ValleBatch) -> dict[str, int]:
        counts = {"ar": self._num_ar_targets(batch)} if self.ar_trains else {}
        return counts | ({"nar": sum(nar.num_targets for nar in batch.nar)} if self.nar_trains else {})

    def _num_ar_targets(self, batch: ValleBatch) -> int:
        # Each row's frames and its end of speech, without those at the start that nothing predicts.
        return sum(max(0, num_frames + 1 - self.ar.num_unpredicted) for num_frames in batch.num_frames)

    @property
    def loss_names(self) -> dict[str, str]:
        names = {"ar": "ar"} if self.ar_trains else {}
        if self.nar_trains and self.nar is not None:
            names |= {f"nar_{stage}": "nar" for stage in range(1, self.nar.num_quantizers)}
        return names

    def decode_expected(self, vectors: Tensor) -> None:
        self._codec_vectors = vectors

    def init_codes(self, vectors: Tensor) -> None:
        if self.ar_trains:
            tables = [self.ar.audio_embedding.weight, self.ar.predict_layer.weight]
            init_from_vectors(tables, vectors[[0, 0]])
        if self.nar_trains and self.nar is not None:
            self.nar.init_codes(vectors)

    def init_from_pretrained(self) -> None:
        if self.ar_trains and self.nar_trains:
            raise ValueError("only a NAR that trains alone can begin with a trained AR; use --model_train_stage 2")
        if self.nar is not None:
            self.nar.init_from_ar(self.ar)

    def collate(self, frame_rate_hz: float) -> Collator:
        return Collator(
            num_quantizers=self.num_quantizers,
            prefix_mode=self.prefix_mode,
            max_prompt_frames=int(MAX_PROMPT_SECONDS * frame_rate_hz),
            for_nar=self.nar_trains,
            group_size=self.ar.group_size,
        )

    @classmethod
    def skips_parameters(cls, train_stage: int) -> bool:
        """Heads of NAR stages that were not drawn get no gradient."""
        return train_stage != 1

    def prepare_inference(self, precision: Literal["fp32", "bf16", "int8"], device: torch.device) -> None:
        """With int8 the NAR gets bf16: it is bound by arithmetic, and int8 weights only reduce memory traffic."""
        if precision != "fp32":
            replace_linears(self.ar, Int8Linear if precision == "int8" else Bf16Linear)
            if self.nar is not None:
                replace_linears(self.nar, Bf16Linear)
        elif device.type == "cpu":
            # Only the AR multiplies few rows at a time.
            replace_linears(self.ar, SplitLinear)
        self.to(device)

    def generate(
        self,
        requests: Sequence[TokenizedRequest],
        sampler: TokenSampler,
        seeds: Sequence[int],
        min_frames: Tensor,
        max_frames: Tensor,
        on_frames: OnFrames | None = None,
    ) -> list[Generation]:
        """Codebook 0 by the AR, then the others by the NAR; without a NAR only codebook 0 (T, 1).

        Raises ValueError if a prompt is not a multiple of `frames_per_step`.
        """
        return self.complete(
            requests, self.draft(requests, sampler, seeds, min_frames, max_frames, on_frames=on_frames)
        )

    def draft(
        self,
        requests: Sequence[TokenizedRequest],
        sampler: TokenSampler,
        seeds: Sequence[int],
        min_frames: Tensor,
        max_frames: Tensor,
        on_frames: OnFrames | None = None,
    ) -> list[Generation]:
        """Codebook 0 (T, 1) by the AR."""
        if any(len(request.codes) % self.frames_per_step for request in requests):
            raise ValueError(f"the frames of a prompt must be a multiple of {self.frames_per_step}")
        device = self.device
        text, text_lens = _padded([torch.tensor(request.ids) for request in requests], device)
        prompt, prompt_lens = _padded([request.codes[:, 0] for request in requests], device)
        limits = min_frames.to(device), max_frames.to(device)
        return self.generator.generate(text, text_lens, prompt, prompt_lens, sampler, seeds, *limits, on_frames)

    def complete(self, requests: Sequence[TokenizedRequest], drafts: Sequence[Generation]) -> list[Generation]:
        """Add the other codebooks to codebook 0 (T, 1) of each request by the NAR, if there is one."""
        if self.nar is None:
            return list(drafts)
        # The NAR's input (P + T, Q): the prompt in full, then the new frames, of which only codebook 0 is known.
        rows = []
        for request, draft in zip(requests, drafts, strict=True):
            codes = F.pad(request.codes, (0, 0, 0, len(draft.codes)))
            codes[len(request.codes) :, 0] = draft.codes[:, 0]
            rows.append(codes)
        codes, codes_lens = _padded(rows, self.device)
        prompt_lens = torch.tensor([len(request.codes) for request in requests], device=self.device)
        text, text_lens = _padded([torch.tensor(self.nar_ids(request)) for request in requests], self.device)
        is_prompt = torch.arange(codes.shape[1], device=self.device) < prompt_lens.unsqueeze(1)
        read_whole_prompt = self.prefix_mode != PrefixMode.NONE
        filled, means = self.nar.generate(
            text, text_lens, codes, codes_lens, is_prompt, read_whole_prompt, self._codec_vectors
        )
        generations = []
        for row, (request, draft) in enumerate(zip(requests, drafts, strict=True)):
            # Drop the prompt and the padding.
            new = slice(len(request.codes), len(request.codes) + len(draft.codes))
            vectors = None if means is None else means[row, new].cpu()
            generations.append(Generation(filled[row, new].cpu(), draft.stop_reason, vectors))
        return generations

    def nar_ids(self, request: TokenizedRequest) -> Sequence[int]:
        """The ids that the NAR reads: without the prompt's if it was trained on prompts without text."""
        if self.prefix_mode.has_segment:
            return [*request.ids[: request.num_lead], *request.ids[request.target_start :]]
        return request.ids

    @property
    def attention_heads(self) -> list[tuple[int, int]]:
        decoder = self.ar.decoder
        return [(layer, head) for layer in range(len(decoder.layers)) for head in range(decoder.num_heads)]

    @torch.inference_mode()
    def read_codes(
        self,
        requests: Sequence[TokenizedRequest],
        codes: Sequence[Tensor],
        heads: Sequence[tuple[int, int]],
    ) -> list[Reading]:
        """One teacher-forced pass of the AR over all rows."""
        text, text_lens = _padded([torch.tensor(request.ids) for request in requests], self.device)
        pairs = list(zip(requests, codes, strict=True))
        audio, audio_lens = _padded([torch.cat([one.codes[:, 0], row[:, 0].cpu()]) for one, row in pairs], self.device)
        logits, attention = self.ar.read(text, text_lens, audio, audio_lens, heads)
        readings = []
        for row, (request, new) in enumerate(pairs):
            # Where the prediction of the first new frame lies among the logits.
            start = len(request.codes) - self.ar.num_unpredicted
            of_row = logits[row, start : start + len(new) + 1].float().log_softmax(-1)
            num_frames = len(request.codes) + len(new)
            targets = F.pad(audio[row, len(request.codes) : num_frames], (0, 1), value=self.ar.eos_id)
            log_probabilities = of_row.gather(1, targets.unsqueeze(1)).squeeze(1)
            num_steps = -(-num_frames // self.frames_per_step)
            weights = attention[row, :, :num_steps, : len(request.ids)]
            readings.append(Reading(log_probabilities.cpu(), weights.cpu()))
        return readings

    def attention_maps(self, request: TokenizedRequest, codes: Tensor) -> list[Tensor]:
        text = torch.tensor([request.ids], device=self.device)
        audio = torch.cat([request.codes[:, 0], codes[:, 0]]).unsqueeze(0).to(self.device)
        return self.ar.attention_maps(text, audio)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @classmethod
    def weight_name(cls, name: str) -> str:
        """`ar.decoder.layers.0.self_attn.in_proj.weight` is `ar_decoder.layers.0.self_attn.in_proj_weight`."""
        model, rest = name.split(".", 1)
        return f"{model}_{rest}".replace(".in_proj.", ".in_proj_")

    @classmethod
    def part_of(cls, weight_name: str) -> str:
        return weight_name.partition("_")[0]

    @classmethod
    def missing_part(cls, weights: Mapping[str, Tensor], train_stage: int | None) -> str | None:
        is_whole = train_stage == 1 or any(cls.part_of(name) == "nar" for name in weights)
        return None if is_whole else "NAR"

    @classmethod
    def part_for(cls, weights: Mapping[str, Tensor], train_stage: int) -> dict[str, Tensor]:
        return cls.pretrained_part(weights) if train_stage == 1 else dict(weights)

    @classmethod
    def pretrained_part(cls, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value for name, value in weights.items() if cls.part_of(name) == "ar"}


def loss_sums(model: str, logits: Tensor, targets: Tensor, num_targets: int) -> LossSums:
    """Cross-entropy and top-10 hits of logits (B, T, V) on targets (B, T), without those that are `IGNORED`."""
    logits = logits.float()
    loss_sum = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
    is_scored = targets != IGNORED
    target_logits = logits.detach().gather(-1, targets.clamp(min=0).unsqueeze(-1))
    # Counting the codes above the target is cheaper than a top-k over all positions.
    num_better = (logits.detach() > target_logits).sum(-1)
    return LossSums(model, loss_sum, ((num_better < 10) & is_scored).sum(), num_targets)


def _padded(rows: Sequence[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows stacked into one tensor, zero where padded, and their lengths (B,)."""
    return pad(rows).to(device), torch.tensor([len(row) for row in rows], device=device)
