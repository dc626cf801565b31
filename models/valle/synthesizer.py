"""From a text and a prompt to speech: AR, NAR and codec, for several texts together."""

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from config.schema import InferSettings
from models.valle.batch import pad
from models.valle.decoder import Decoder, Generated
from models.valle.interfaces import Codec, Tokenizer
from models.valle.valle import VALLE
from modules.sampling import Sampler
from utils.device import memory_advice
from utils.errors import UserError

OnFrames = Callable[[int], None]
"""Hears how many frames are decoded so far; a second try begins anew."""


@dataclass(frozen=True)
class Request:
    """A text to say in the voice of a prompt: its text and its audio (N,) at the codec's rate."""

    text: str
    prompt_text: str
    prompt_audio: Tensor


@dataclass(frozen=True)
class Prompted:
    """A request in tokens: ids of prompt and target together, the NAR's ids, the prompt's codes (P, Q)."""

    ids: Sequence[int]
    nar_ids: Sequence[int]
    codes: Tensor
    num_target_phones: int


class FrameLimits(Protocol):
    """The least and the most frames that the AR may make for a row."""

    def __call__(self, item: Prompted) -> tuple[int, int]: ...


@dataclass(frozen=True)
class SecondsPerPhone:
    """Limits by the phones that are to be said."""

    least_seconds: float
    most_seconds: float
    frame_rate_hz: float

    def __call__(self, item: Prompted) -> tuple[int, int]:
        frames_per_second = item.num_target_phones * self.frame_rate_hz
        least = max(1, int(frames_per_second * self.least_seconds))
        return least, max(least, math.ceil(frames_per_second * self.most_seconds))


@dataclass(frozen=True)
class FramesPerId:
    """Limits by the ids that the model reads, bos, eos and the prompt's among them; a begin symbol is a frame."""

    most_frames: int
    prepend_bos: bool

    def __call__(self, item: Prompted) -> tuple[int, int]:
        return 1, self.most_frames * len(item.ids) + int(not self.prepend_bos)


@dataclass(frozen=True)
class Spoken:
    """Codes (T, Q) behind the prompt, or (T, 1) where there is no NAR, how they ended, and if that was a second try."""

    codes: Tensor
    ended: str
    is_retried: bool


@dataclass(frozen=True)
class Speech:
    """Audio (N,), how the generation ended ("eos", "floor" or "cap"), if it was tried twice, and what it cost."""

    audio: Tensor
    ended: str
    is_retried: bool
    seconds: float
    real_time_factor: float


class Synthesizer:
    """Speaks with a trained pair. A text's speech does not depend on what is decoded beside it."""

    def __init__(
        self,
        model: VALLE,
        codec: Codec,
        tokenizer: Tokenizer,
        settings: InferSettings,
        prefix_mode: int,
        device: torch.device,
    ) -> None:
        self.model = model.eval()
        self.decoder = Decoder(model.ar)
        self.codec = codec
        self.tokenizer = tokenizer
        self.settings = settings
        self.prefix_mode = prefix_mode
        self.device = device
        self.frame_limits: FrameLimits = SecondsPerPhone(
            settings.min_seconds_per_phone, settings.max_seconds_per_phone, codec.frame_rate_hz
        )

    def with_settings(self, **changes: float) -> "Synthesizer":
        """The same model with other settings of sampling. The two share buffers: only one may speak at a time."""
        other = copy.copy(self)
        other.settings = self.settings.model_copy(update=changes)
        return other

    def speak(
        self, requests: Sequence[Request], continual: bool = False, on_frames: OnFrames | None = None
    ) -> list[Speech]:
        """Speech for each request, at most `max_batch_size` at a time.

        With `continual` the first seconds of a prompt's audio are kept, and the rest of its own text is said after
        them; the request's text is not used. Raises UserError for a text or a prompt with nothing in it.
        """
        size, speeches = self.settings.max_batch_size, []
        for first in range(0, len(requests), size):
            with memory_advice(f"lower infer.max_batch_size ({size}), or speak shorter texts"):
                speeches += self._speak_together(requests[first : first + size], continual, on_frames)
        return speeches

    def _speak_together(self, requests: Sequence[Request], continual: bool, on_frames: OnFrames | None) -> list[Speech]:
        started = time.perf_counter()
        prompted = self.tokens(requests, continual)
        spoken = self.generate(prompted, on_frames)
        whole = [
            torch.cat([item.codes.cpu(), new.codes]) if continual else new.codes
            for item, new in zip(prompted, spoken, strict=True)
        ]
        audio = self.decode(whole)
        elapsed = time.perf_counter() - started
        total = sum(len(row) for row in audio) / self.codec.sample_rate_hz
        return [
            Speech(row, new.ended, new.is_retried, len(row) / self.codec.sample_rate_hz, elapsed / total)
            for row, new in zip(audio, spoken, strict=True)
        ]

    def check(self, request: Request, continual: bool) -> None:
        """Raises UserError when there is nothing to speak, or nothing to go on from."""
        kept_seconds = self.settings.continual_prompt_seconds
        if continual and len(request.prompt_audio) <= kept_seconds * self.codec.sample_rate_hz:
            raise UserError(
                f"--continual keeps {kept_seconds:g} s of the prompt, and it is no longer than that; take a longer "
                "one, or lower infer.continual_prompt_seconds"
            )
        texts = {"prompt's text": request.prompt_text} | ({} if continual else {"text": request.text})
        for name, phones in zip(texts, self.tokenizer.phones(list(texts.values())), strict=True):
            if not any(phone.isalnum() for phone in phones):
                raise UserError(f"the {name} {texts[name]!r} has nothing that can be spoken")

    def copy(self, audio: Tensor) -> Tensor:
        """Audio (N,) through the codec and back."""
        codes, _ = self.codec.encode(audio.unsqueeze(0), torch.tensor([len(audio)]))
        return self.decode([codes[0]])[0][: len(audio)]

    def decode(self, codes: Sequence[Tensor]) -> list[Tensor]:
        """Codes, each (T, Q), to audio, each (N,)."""
        audio, lens = self.codec.decode(pad(codes).to(self.device), torch.tensor([len(row) for row in codes]))
        return [row[:length].cpu() for row, length in zip(audio, lens.tolist(), strict=True)]

    @torch.inference_mode()
    def generate(self, prompted: Sequence[Prompted], on_frames: OnFrames | None = None) -> list[Spoken]:
        """Codes for each row, all decoded together.

        What is cut off at its cap, or ends as soon as it may, is drawn once more with the next seed, and kept as it
        was where that fails too. Greedy decoding would say the same again.
        """
        generated = self._first_codebook(prompted, self.settings.seed, on_frames)
        failed = [index for index, row in enumerate(generated) if row.ended != "eos"]
        is_retried = bool(failed) and self._sampler.num_draws > 0
        if is_retried:
            again = self._first_codebook([prompted[index] for index in failed], self.settings.seed + 1, on_frames)
            for index, row in zip(failed, again, strict=True):
                generated[index] = row if row.ended == "eos" else generated[index]
        retried = [is_retried and index in failed for index in range(len(prompted))]
        if self.model.nar is None:
            return [
                Spoken(row.codes.unsqueeze(1), row.ended, again) for row, again in zip(generated, retried, strict=True)
            ]
        rows = []
        for item, row in zip(prompted, generated, strict=True):
            new = item.codes.new_zeros(len(row.codes), item.codes.shape[1])
            new[:, 0] = row.codes
            rows.append(torch.cat([item.codes, new]))
        codes, codes_lens = self._padded(rows)
        text, text_lens = self._padded([torch.tensor(item.nar_ids) for item in prompted])
        prompt_lens = torch.tensor([len(item.codes) for item in prompted], device=self.device)
        is_prompt = torch.arange(codes.shape[1], device=self.device) < prompt_lens.unsqueeze(1)
        filled = self.model.nar.generate(
            text, text_lens, codes, codes_lens, is_prompt, read_whole_prompt=self.prefix_mode != 0
        ).cpu()
        return [
            Spoken(filled[index, len(item.codes) : len(item.codes) + len(row.codes)], row.ended, retried[index])
            for index, (item, row) in enumerate(zip(prompted, generated, strict=True))
        ]

    def _first_codebook(
        self, prompted: Sequence[Prompted], seed: int, on_frames: OnFrames | None = None
    ) -> list[Generated]:
        min_frames, max_frames = torch.tensor([self.frame_limits(item) for item in prompted], device=self.device).T
        text, text_lens = self._padded([torch.tensor(item.ids) for item in prompted])
        prompt, prompt_lens = self._padded([item.codes[:, 0] for item in prompted])
        inputs = (text, text_lens, prompt, prompt_lens)
        return self.decoder.generate(*inputs, self._sampler, seed, min_frames, max_frames, on_frames)

    @property
    def _sampler(self) -> Sampler:
        settings = self.settings
        return Sampler(
            top_k=settings.top_k,
            top_p=settings.top_p,
            temperature=settings.temperature,
            repetition_window=settings.repetition_window,
            repetition_threshold=settings.repetition_threshold,
        )

    def _padded(self, rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        lens = torch.tensor([len(row) for row in rows], device=self.device)
        return pad(rows).to(self.device), lens

    def tokens(self, requests: Sequence[Request], continual: bool) -> list[Prompted]:
        """Requests in tokens. Raises UserError for a text or a prompt's text with nothing that can be spoken."""
        prompt_texts = [request.prompt_text.strip() for request in requests]
        prompt_phones = self.tokenizer.phones(prompt_texts)
        joint_phones = prompt_phones
        if not continual:
            texts = [f"{prompt} {request.text.strip()}" for prompt, request in zip(prompt_texts, requests, strict=True)]
            joint_phones = self.tokenizer.phones(texts)
        prompted = []
        for request, before, joint, codes in zip(
            requests, prompt_phones, joint_phones, self._prompt_codes(requests, continual), strict=True
        ):
            num_target = len(joint) - (0 if continual else len(before))
            if not before or num_target < 1:
                raise UserError(f"nothing that can be spoken in {(request.text if before else request.prompt_text)!r}")
            ids = self.tokenizer.ids(joint)
            nar_ids = ids
            if self.prefix_mode in (2, 4) and not continual:
                # Trained on the target's text alone, the NAR is not shown the prompt's.
                nar_ids = ids[:1] + ids[len(self.tokenizer.ids(before)) - 1 :]
            prompted.append(Prompted(ids, nar_ids, codes, num_target))
        return prompted

    def _prompt_codes(self, requests: Sequence[Request], continual: bool) -> list[Tensor]:
        audio = [request.prompt_audio for request in requests]
        if continual:
            num_samples = round(self.settings.continual_prompt_seconds * self.codec.sample_rate_hz)
            audio = [row[:num_samples] for row in audio]
        lens = torch.tensor([len(row) for row in audio])
        codes, codes_lens = self.codec.encode(pad(audio).to(self.device), lens)
        return [row[:length].cpu() for row, length in zip(codes, codes_lens.tolist(), strict=True)]
