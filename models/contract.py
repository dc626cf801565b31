"""The contract of a codec language model: tensors in, tensors out. VALL-E is one; `models/__init__.py` lists them.

A model never sees a codec, a phonemizer, a path or a flag. `training` and `synthesis` know models by this contract
alone.
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from config.schema import ModelSettings, TrainSettings
from modules.sampling import TokenSampler
from modules.transformer import Transformer

DraftsSoFar = Callable[[], list[Tensor]]
"""Returns each row's codes (t, q) so far, as `draft` gives them; a row that has ended has fewer than the others."""
OnFrames = Callable[[int, DraftsSoFar], None]
"""Called with the number of frames generated so far, and with what reads them; starts again from 0 with each try."""
StopReason = Literal["eos", "floor", "cap"]
"""eos: the end was predicted; floor: it was predicted at the minimum length already; cap: cut at the maximum length."""
AnyBatch = TypeVar("AnyBatch", bound="Batch")


@dataclass(frozen=True)
class Example:
    """One utterance to train on: the ids of its text, its codes (T, Q) and, where the model asks for it, codes (T', Q)
    of another utterance of the speaker.
    """

    ids: tuple[int, ...]
    codes: np.ndarray
    other_codes: np.ndarray | None = None

    @property
    def num_tokens(self) -> int:
        """Phones and frames."""
        return len(self.ids) + len(self.codes)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What any model's batch has beside its own tensors. Counts are plain ints, so that none is read from a GPU."""

    num_tokens: int
    num_utterances: int

    def to(self: AnyBatch, device: torch.device) -> AnyBatch:
        moved: AnyBatch = _moved(self, device)
        return moved


def _moved(value: Any, device: torch.device) -> Any:
    """Tensors on the device, in dataclasses and tuples of them, too."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, tuple):
        return tuple(_moved(item, device) for item in value)
    if hasattr(value, "__dataclass_fields__"):
        return type(value)(**{field.name: _moved(getattr(value, field.name), device) for field in fields(value)})
    return value


class Collate(Protocol):
    """Turns examples into a batch; can be pickled, as DataLoader workers call it."""

    @property
    def needs_other_codes(self) -> bool:
        """Whether examples must have `other_codes` where the speaker has another utterance."""
        ...

    def num_positions(self, num_ids: np.ndarray, num_frames: np.ndarray) -> np.ndarray:
        """The most positions (N,) that each example can take in a batch, from its ids and frames (N,).

        Batches are planned with it: `max_tokens` bounds the number of examples times the longest of them.
        """
        ...

    def __call__(self, examples: Sequence[Example], rng: random.Random | None) -> Batch:
        """With `rng` what is random is drawn; without it (validation) the batch is always the same."""
        ...


@dataclass(frozen=True)
class LossSums:
    """Sums over a batch's targets: cross-entropy, and how many targets are among the ten likeliest codes.

    Losses of one `model` are averaged over all of its targets together; those of different models are added up.
    """

    model: str
    loss_sum: Tensor
    num_top10: Tensor
    num_targets: int


@dataclass(frozen=True)
class TokenizedRequest:
    """A text to synthesize after a prompt, in tokens.

    `ids` are bos, the prompt's phones, a word boundary, the text's phones, eos; `ids[:num_lead] + ids[target_start:]`
    are those of the text alone, as bos and a language symbol stand for both. `codes` (P, Q) are the prompt's, and P is
    a multiple of the model's `frames_per_step`. `num_target_phones` of the ids are to be synthesized.
    """

    ids: Sequence[int]
    target_start: int
    codes: Tensor
    num_target_phones: int
    num_lead: int = 1


@dataclass(frozen=True)
class Generation:
    """New codes (T, Q) after the prompt, and why they end.

    A model that is not complete yet may give fewer codebooks. `vectors` (T, W), if there are any, are to be decoded in
    place of the sum of the codes' vectors.
    """

    codes: Tensor
    stop_reason: StopReason
    vectors: Tensor | None = None


@dataclass(frozen=True)
class Reading:
    """How a model predicts codes that are given.

    `log_probabilities` (T + 1,) are those of the T new codes of the first codebook and of the end of speech after
    them, under the model's own distribution. `attention` (K, N, S) is that of K heads on the S ids when each of the N
    steps of the prompt and the new codes is predicted; a row adds up to 1.
    """

    log_probabilities: Tensor
    attention: Tensor


class CodecLM(nn.Module, ABC):
    """A model that predicts codec codes from text and a prompt's codes."""

    settings_class: ClassVar[type[ModelSettings]]
    """The type of the `model` section."""
    train_stages: ClassVar[frozenset[int]]
    """What --model_train_stage may be."""
    pretrained_stages: ClassVar[frozenset[int]] = frozenset()
    """Stages that start from another experiment's model, given by --ar_model_ckpt_dir."""
    free_settings: ClassVar[frozenset[str]] = frozenset()
    """Keys of the `model` section that no weight depends on."""
    free_pretrained_settings: ClassVar[frozenset[str]] = frozenset()
    """Keys that no weight of the pretrained part depends on."""
    reads_codes: ClassVar[bool] = False
    """Whether the model has `read_codes`: what ranks candidates by likelihood, and finds the words in the speech."""
    supports_guidance: ClassVar[bool] = False
    """Whether `forward` takes `condition_dropout`, and generation follows the `guidance` of its sampler."""
    adapter_names: Mapping[str, str] | None = None
    """With an adapter (`models/adapter.py`): its weights by name, with their names in checkpoints, which hold only
    these.
    """
    frames_per_step: int = 1
    """The frames that a step of generation reads and writes. A prompt must have a multiple of them."""

    @abstractmethod
    def __init__(self, settings: Any, train_stage: int | None = None) -> None:
        """Without a stage the model is for use; with one it holds what that stage needs and trains."""
        super().__init__()

    @abstractmethod
    def collate(self, frame_rate_hz: float) -> Collate:
        """The collation of this model's training stage, for codes of a frame rate."""

    @abstractmethod
    def forward(self, batch: Any, audio_token_dropout: float = 0.0) -> dict[str, LossSums]:
        """Losses by name. `audio_token_dropout` is the share of audio inputs that training masks.

        A model with `supports_guidance` also takes `condition_dropout`, the probability that training hides a text.
        """

    @property
    @abstractmethod
    def loss_names(self) -> dict[str, str]:
        """The names that `forward` may return losses under, each with its model."""

    @abstractmethod
    def num_targets(self, batch: Any) -> dict[str, int]:
        """How many targets each model of `loss_names` has in a batch: plain ints, without a GPU sync."""

    @classmethod
    def skips_parameters(cls, train_stage: int) -> bool:
        """Whether a step of this stage may leave trainable parameters without a gradient."""
        return False

    def init_codes(self, vectors: Tensor) -> None:
        """Initialize embeddings and output layers from the codec's vectors (Q, V, W).

        Raises ValueError if the model, or its settings, cannot.
        """
        raise ValueError("this model cannot begin with the codec's vectors")

    def init_from_pretrained(self) -> None:
        """Initialize what a stage trains from the pretrained part, if the stage has one. That part is loaded.

        Raises ValueError if the model, or its settings, cannot.
        """
        raise ValueError("this model has no pretrained part")

    def configure_training(self, settings: TrainSettings) -> None:
        """Compile the layers, or keep fewer activations, as the settings ask."""
        for module in self.modules():
            if isinstance(module, Transformer):
                module.recompute = settings.activation_checkpointing
                for layer in module.layers if settings.compile else ():
                    layer.compile(dynamic=True)

    def prepare_inference(self, precision: Literal["fp32", "bf16", "int8"], device: torch.device) -> None:
        """Put linear layers in this precision, and all on this device; training and saving are over then."""
        self.to(device)

    def decode_expected(self, vectors: Tensor) -> None:
        """Give generations expected vectors for the codes that are not sampled, by the codec's vectors (Q, V, W).

        Raises ValueError if the model samples all codes.
        """
        raise ValueError("this model samples all codes, and so has no expected vectors; set it to greedy")

    @abstractmethod
    def generate(
        self,
        requests: Sequence[TokenizedRequest],
        sampler: TokenSampler,
        seeds: Sequence[int],
        min_frames: Tensor,
        max_frames: Tensor,
        on_frames: OnFrames | None = None,
    ) -> list[Generation]:
        """Generate all requests together; a request's codes do not depend on the others.

        Row i is sampled with `seeds[i]` and gets `min_frames[i]` to `max_frames[i]` frames.
        """

    def draft(
        self,
        requests: Sequence[TokenizedRequest],
        sampler: TokenSampler,
        seeds: Sequence[int],
        min_frames: Tensor,
        max_frames: Tensor,
        on_frames: OnFrames | None = None,
    ) -> list[Generation]:
        """What `generate` samples, to choose from before `complete`. By default whole generations."""
        return self.generate(requests, sampler, seeds, min_frames, max_frames, on_frames)

    def complete(self, requests: Sequence[TokenizedRequest], drafts: Sequence[Generation]) -> list[Generation]:
        """The generations of drafts: `generate` is `draft`, then `complete`."""
        return list(drafts)

    @property
    def attention_heads(self) -> Sequence[tuple[int, int]]:
        """All heads that may follow the text, each a layer and a head; none by default."""
        return ()

    def read_codes(
        self,
        requests: Sequence[TokenizedRequest],
        codes: Sequence[Tensor],
        heads: Sequence[tuple[int, int]],
    ) -> list[Reading]:
        """Read drafts or generations (T, Q), each after its request, in one pass, with the attention of `heads`.

        Only for a model with `reads_codes`. Rows do not depend on each other.
        """
        raise NotImplementedError(f"{type(self).__name__} has no read_codes")

    def attention_maps(self, request: TokenizedRequest, codes: Tensor) -> list[Tensor]:
        """Each layer's attention of audio on phones (N, S), for the codes (T, Q) after the prompt; none by default.

        N counts the model's audio positions, each of `frames_per_step` frames.
        """
        return []

    @classmethod
    def weight_name(cls, name: str) -> str:
        """The name that a tensor of the state dict has in checkpoints."""
        return name

    @classmethod
    def part_of(cls, weight_name: str) -> str:
        """The part of the model that a weight belongs to; a checkpoint may hold some parts alone."""
        return ""

    def named_weights(self, others: Mapping[int, Tensor] | None = None) -> dict[str, Tensor]:
        """The weights by checkpoint name. Tied weights are the same tensor.

        `others` are tensors to give in place of parameters, by the `id` of the parameter.
        """
        saved = self._saved_weights()
        values = {id(value): value.detach() for _, value in saved.values()} | dict(others or {})
        return {name: values[id(value)] for name, (_, value) in saved.items()}

    def _saved_weights(self) -> dict[str, tuple[str, Tensor]]:
        """The weights that a checkpoint holds, by their names there, each with its own name."""
        own = self.state_dict(keep_vars=True)
        if self.adapter_names is not None:
            return {saved: (name, own[name]) for name, saved in self.adapter_names.items()}
        return {self.weight_name(name): (name, value) for name, value in own.items()}

    def load_named_weights(self, weights: Mapping[str, Tensor], assign: bool = False) -> list[str]:
        """Load weights by checkpoint name; returns the names that are missing.

        With `assign` the model takes the tensors themselves instead of copies: a model built on the meta device then
        costs no more memory than its weights. Of tied weights one is enough. Raises ValueError for a name that is
        unknown, a wrong shape, or tied weights that differ.
        """
        expected = self._saved_weights()
        for name, value in weights.items():
            if name not in expected:
                raise ValueError(f"unknown weight {name}")
            shape = expected[name][1].shape
            if shape != value.shape:
                raise ValueError(f"weight {name} is {tuple(value.shape)}, the model's is {tuple(shape)}")
        # Tied weights are one tensor under several names. Where several are given, they must be equal.
        name_of_tensor: dict[int, str] = {}
        for name, value in weights.items():
            other = name_of_tensor.setdefault(id(expected[name][1]), name)
            if other != name and not value.equal(weights[other]):
                raise ValueError(f"weights {other} and {name} differ, and the model ties them")
        # All names of a tied tensor get the given value: with `assign` torch would untie them otherwise.
        loaded = {
            own_name: weights[name_of_tensor[id(value)]].to(value.dtype)
            for own_name, value in expected.values()
            if id(value) in name_of_tensor
        }
        self.load_state_dict(loaded, strict=False, assign=assign)
        return [name for name, (_, value) in expected.items() if id(value) not in name_of_tensor]

    @classmethod
    def missing_part(cls, weights: Mapping[str, Tensor], train_stage: int | None) -> str | None:
        """The part that weights lack for inference (None), or for starting a stage; None if they are complete."""
        return None

    @classmethod
    def part_for(cls, weights: Mapping[str, Tensor], train_stage: int) -> dict[str, Tensor]:
        """The weights of a checkpoint that a stage starts from."""
        return dict(weights)

    @classmethod
    def pretrained_part(cls, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of a checkpoint that `pretrained_stages` take as their pretrained part."""
        return dict(weights)
