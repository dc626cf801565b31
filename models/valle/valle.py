"""The pair: what is trained together, saved together and speaks together."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from config.schema import ModelSettings, TrainSettings
from models.contract import LossSums
from models.valle.ar import AR
from models.valle.collate import IGNORED, Batch
from models.valle.nar import NAR
from modules.precision import Bf16Linear, Int8Linear, SplitLinear, replace_linears
from modules.transformer import Transformer


class VALLE(nn.Module):
    """AR and NAR; either may be absent: the experiment of an AR model has no NAR.

    `ar_trains` and `nar_trains` say which of them `forward` scores. This is the one place that decides.
    """

    def __init__(self, settings: ModelSettings, train_stage: int | None = None) -> None:
        """train_stage 1: an AR to train; 2: a NAR to train and a frozen AR; 0: both to train; None: both to use."""
        super().__init__()
        self.ar: AR = build_ar(settings)
        self.nar: NAR | None = None if train_stage == 1 else build_nar(settings)
        self.ar_trains = train_stage in (0, 1)
        self.nar_trains = train_stage in (0, 2)
        self.ar.requires_grad_(train_stage != 2)

    def forward(self, batch: Batch, audio_token_dropout: float = 0.0) -> dict[str, LossSums]:
        """Scores of the models that train: "ar", and "nar_<stage>" for each stage in the batch."""
        scores = {}
        if self.ar_trains:
            scores["ar"] = self._score_ar(batch, audio_token_dropout)
        if self.nar_trains and self.nar is not None:
            for nar in batch.nar:
                text = batch.text, batch.text_lens
                logits = self.nar(*text, nar.codes, nar.codes_lens, nar.is_prompt, nar.stage, nar.longest)
                scores[f"nar_{nar.stage}"] = loss_sums("nar", logits, nar.targets, nar.num_targets)
        return scores

    def _score_ar(self, batch: Batch, audio_token_dropout: float) -> LossSums:
        codes = batch.codes[..., 0]
        targets = self.ar.targets(codes, batch.codes_lens, IGNORED)
        if audio_token_dropout and self.training:
            hidden = codes.new_empty(codes.shape).bernoulli_(audio_token_dropout).bool()
            codes = codes.masked_fill(hidden, self.ar.mask_id)
        logits = self.ar(batch.text, batch.text_lens, codes, batch.codes_lens, batch.longest)
        return loss_sums("ar", logits, targets, self._num_ar_targets(batch))

    def set_up_inference(self, precision: Literal["fp32", "bf16", "int8"], device: torch.device) -> None:
        """Put linear layers in this precision, and all on this device; training and saving are over then.

        The NAR, which is bound by arithmetic, takes bf16 in place of int8.
        """
        if precision != "fp32":
            replace_linears(self.ar, Int8Linear if precision == "int8" else Bf16Linear)
            if self.nar is not None:
                replace_linears(self.nar, Bf16Linear)
        elif device.type == "cpu":
            replace_linears(self.ar, SplitLinear)
        self.to(device)

    def speed_up(self, settings: TrainSettings) -> None:
        """For training: compile the layers, or keep fewer activations, as the settings ask."""
        for module in self.modules():
            if isinstance(module, Transformer):
                module.recompute = settings.activation_checkpointing
                for layer in module.layers if settings.compile else ():
                    layer.compile(dynamic=True)

    def num_targets(self, batch: Batch) -> dict[str, int]:
        """How many targets each model that trains has in a batch."""
        counts = {"ar": self._num_ar_targets(batch)} if self.ar_trains else {}
        return counts | ({"nar": sum(nar.num_targets for nar in batch.nar)} if self.nar_trains else {})

    def _num_ar_targets(self, batch: Batch) -> int:
        """Frames and ends of speech; without a begin symbol nothing precedes the first frame, so it is no target."""
        return batch.num_frames + (len(batch.codes) if self.ar.prepend_bos else 0)

    @property
    def loss_names(self) -> dict[str, str]:
        """The names that `forward` may return losses under, each with its model."""
        names = {"ar": "ar"} if self.ar_trains else {}
        if self.nar_trains and self.nar is not None:
            names |= {f"nar_{stage}": "nar" for stage in range(1, self.nar.num_quantizers)}
        return names

    def named_weights(self) -> dict[str, Tensor]:
        """The state dict under the checkpoint format's names: `ar_...` and `nar_...`; of a tied pair one tensor."""
        own = self.state_dict(keep_vars=True)
        values = {id(value): value.detach() for value in own.values()}
        return {_outer_name(name): values[id(value)] for name, value in own.items()}

    def load_named_weights(self, weights: dict[str, Tensor], assign: bool = False) -> list[str]:
        """Load weights under those names; returns the names that are missing.

        With `assign` the model takes the tensors themselves, not a copy: one built on the meta device then costs no
        more memory than its weights. One of a tied pair is enough. Raises ValueError naming a weight that is unknown,
        of another shape, or not that of its tied pair.
        """
        own = {_outer_name(name): (name, value) for name, value in self.state_dict(keep_vars=True).items()}
        for name, value in weights.items():
            if name not in own:
                raise ValueError(f"unknown weight {name}")
            shape = own[name][1].shape
            if shape != value.shape:
                raise ValueError(f"weight {name} is {tuple(value.shape)}, the model's is {tuple(shape)}")
        given: dict[int, str] = {}
        for name, value in weights.items():
            other = given.setdefault(id(own[name][1]), name)
            if other != name and not value.equal(weights[other]):
                raise ValueError(f"weights {other} and {name} differ, and model.share_embedding makes them one")
        loaded = {
            inner: weights[given[id(value)]].to(value.dtype) for inner, value in own.values() if id(value) in given
        }
        self.load_state_dict(loaded, strict=False, assign=assign)
        return [name for name, (_, value) in own.items() if id(value) not in given]


def build_ar(settings: ModelSettings) -> AR:
    return AR(
        width=settings.decoder_dim,
        num_heads=settings.nhead,
        num_layers=settings.num_decoder_layers,
        num_text_tokens=settings.text_token_num,
        num_audio_tokens=settings.audio_token_num,
        norm_first=settings.norm_first,
        add_prenet=settings.add_prenet,
        prepend_bos=settings.prepend_bos,
        dropout=settings.dropout,
    )


def build_nar(settings: ModelSettings) -> NAR:
    scale = settings.nar_scale_factor
    return NAR(
        width=int(settings.decoder_dim * scale),
        num_heads=int(settings.nhead * scale),
        num_layers=int(settings.num_decoder_layers * scale),
        num_text_tokens=settings.text_token_num,
        num_audio_tokens=settings.audio_token_num,
        num_quantizers=settings.num_quantizers,
        norm_first=settings.norm_first,
        add_prenet=settings.add_prenet,
        share_embedding=settings.share_embedding,
        dropout=settings.dropout,
    )


def loss_sums(model: str, logits: Tensor, targets: Tensor, num_targets: int) -> LossSums:
    """Cross-entropy and top-10 hits of logits (B, T, V) on targets (B, T), `IGNORED` ones left out."""
    logits = logits.float()
    loss_sum = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
    is_scored = targets != IGNORED
    target_logits = logits.detach().gather(-1, targets.clamp(min=0).unsqueeze(-1))
    num_better = (logits.detach() > target_logits).sum(-1)
    return LossSums(model, loss_sum, ((num_better < 10) & is_scored).sum(), num_targets)


def _outer_name(name: str) -> str:
    model, rest = name.split(".", 1)
    return f"{model}_{rest}".replace(".in_proj.", ".in_proj_")
