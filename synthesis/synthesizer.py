"""Text to speech: `Request` -> `TokenizedRequest` -> `Generation` -> `Speech`, for several texts at once."""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from config.schema import InferSettings
from models.contract import CodecLM, Generation, OnFrames, TokenizedRequest
from modules.sampling import TokenSampler
from processors.codecs.base import Codec
from processors.symbols import WORD_BOUNDARY, join_phones
from processors.text import TextTokenizer
from synthesis.limits import FrameLimits, limits_by_phones
from utils.device import memory_advice
from utils.errors import UserError
from utils.prompts import is_silent

# The factor by which the minimum length grows after a try that ended too early.
_LONGER_MINIMUM = 1.4


@dataclass(frozen=True)
class Request:
    """A text to synthesize in the voice of a prompt: its text, and its audio (N,) at the codec's rate.

    `prompt_codes` (P, Q) replace the audio if they are given. `seed` replaces that of the settings.
    """

    text: str
    prompt_text: str
    prompt_audio: Tensor
    prompt_codes: Tensor | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Speech:
    """Audio (N,) at `sample_rate_hz` and its codes (T, Q), how it ended, the number of tries, and the cost.

    `stop_reason` is that of `Generation`, or "silent". Only "eos" is a success.
    """

    audio: Tensor
    codes: Tensor
    sample_rate_hz: int
    stop_reason: str
    num_tries: int
    seconds: float
    real_time_factor: float

    @property
    def failure(self) -> str | None:
        """Why the audio is not speech of the text, and what to do; None if it is."""
        if self.stop_reason == "eos":
            return None
        reason = {
            "floor": f"the speech ended after {self.seconds:.2f} s, the minimum length",
            "cap": f"the speech did not end by itself, and was cut off at {self.seconds:.2f} s",
            "silent": "the speech is silent",
        }[self.stop_reason]
        tries = "1 try" if self.num_tries == 1 else f"each of {self.num_tries} tries"
        return f"{reason} ({tries}); choose another seed or prompt, or raise infer.max_tries"


class Synthesizer:
    """Synthesizes texts with a trained model. The speech of a text does not depend on the rest of the batch."""

    def __init__(
        self,
        model: CodecLM,
        codec: Codec,
        tokenizer: TextTokenizer,
        settings: InferSettings,
        device: torch.device,
    ) -> None:
        self.model = model.eval()
        self.codec = codec
        self.tokenizer = tokenizer
        self.settings = settings
        self.device = device
        self.language = ""
        self.is_reference = False
        self.frame_limits: FrameLimits = partial(limits_by_phones, settings=settings, frame_rate_hz=codec.frame_rate_hz)

    def follow_reference(self, frame_limits: FrameLimits) -> None:
        """Use the reference recipe's text processing and limits, as its released models expect."""
        self.is_reference = True
        self.frame_limits = frame_limits

    def with_settings(self, **changes: float) -> "Synthesizer":
        """The same model with other sampling settings. The two share buffers and must not run at the same time."""
        other = copy.copy(self)
        other.settings = self.settings.model_copy(update=changes)
        return other

    def synthesize(
        self, requests: Sequence[Request], continual: bool = False, on_frames: OnFrames | None = None
    ) -> list[Speech | UserError]:
        """Speech for each request, in batches of `max_batch_size`; a request that fails does not affect the others.

        With `continual`, the first seconds of a prompt's audio are kept and continued with the rest of the prompt's own
        text; the request's text is not used.
        """
        size, results = self.settings.max_batch_size, []
        for first in range(0, len(requests), size):
            results += self._synthesize_batch(requests[first : first + size], continual, on_frames)
        return results

    def _synthesize_batch(
        self, requests: Sequence[Request], continual: bool, on_frames: OnFrames | None
    ) -> list[Speech | UserError]:
        try:
            advice = f"lower infer.max_batch_size ({self.settings.max_batch_size}), or synthesize shorter texts"
            with memory_advice(advice):
                return self._try_batch(requests, continual, on_frames)
        except UserError as error:
            if len(requests) == 1:
                return [error]
            # What does not fit into memory together may fit one by one.
            return [
                result for request in requests for result in self._synthesize_batch([request], continual, on_frames)
            ]

    def _try_batch(
        self, requests: Sequence[Request], continual: bool, on_frames: OnFrames | None
    ) -> list[Speech | UserError]:
        """Synthesize all requests together, and those that fail again with the next seed, up to `max_tries` times.

        If all tries of a request fail, the first is kept.
        """
        started = time.perf_counter()
        tokenized = self.tokenize(requests, continual)
        results: list[Speech | UserError | None] = [item if isinstance(item, UserError) else None for item in tokenized]
        pending = [index for index, item in enumerate(tokenized) if isinstance(item, TokenizedRequest)]
        minimum_scale = dict.fromkeys(pending, 1.0)
        # Greedy decoding gives the same codes with any seed.
        max_tries = self.settings.max_tries if self._sampler.num_draws else 1
        first_seeds = [self.settings.seed if request.seed is None else request.seed for request in requests]
        for num_tries in range(1, max_tries + 1):
            if not pending:
                break
            items = [item for index in pending if isinstance(item := tokenized[index], TokenizedRequest)]
            scales = [minimum_scale[index] for index in pending]
            seeds = [first_seeds[index] + num_tries - 1 for index in pending]
            generations = self.generate(items, on_frames, seeds, scales)
            audio, new_audio = self._decode_all(items, generations, continual)
            elapsed = time.perf_counter() - started
            rate_hz = self.codec.sample_rate_hz
            real_time_factor = elapsed * rate_hz / sum(len(row) for row in audio)
            for index, row, new, whole in zip(pending, generations, new_audio, audio, strict=True):
                reason = "silent" if row.stop_reason == "eos" and is_silent(new, rate_hz) else row.stop_reason
                speech = Speech(whole, row.codes, rate_hz, reason, num_tries, len(whole) / rate_hz, real_time_factor)
                # A model that never saw such a short text may take it for the end of the prompt.
                if reason in ("floor", "silent"):
                    minimum_scale[index] *= _LONGER_MINIMUM
                # Of several failures, the first is kept.
                former = results[index]
                if speech.failure is not None and isinstance(former, Speech):
                    speech = replace(former, num_tries=num_tries)
                results[index] = speech
            pending = [i for i in pending if isinstance(found := results[i], Speech) and found.failure is not None]
        return [result for result in results if result is not None]

    def _decode_all(
        self, items: Sequence[TokenizedRequest], generations: Sequence[Generation], continual: bool
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The audio of each row, which in a continuation starts with the prompt, and the new part of it."""
        if not continual:
            audio = self.decode([row.codes for row in generations])
            return audio, audio
        pairs = zip(items, generations, strict=True)
        audio = self.decode([torch.cat([item.codes.cpu(), row.codes]) for item, row in pairs])
        hop = self.codec.sample_rate_hz / self.codec.frame_rate_hz
        return audio, [row[round(len(item.codes) * hop) :] for item, row in zip(items, audio, strict=True)]

    def copy(self, audio: Tensor) -> Tensor:
        """The codec's reconstruction of (N,) audio."""
        codes, _ = self.codec.encode(audio.unsqueeze(0), torch.tensor([len(audio)]))
        return self.decode([codes[0]])[0][: len(audio)]

    def decode(self, codes: Sequence[Tensor]) -> list[Tensor]:
        """Decode codes, each (T, Q), to audio, each (N,)."""
        audio, lens = self.codec.decode(
            pad_sequence(list(codes), batch_first=True).to(self.device), torch.tensor([len(row) for row in codes])
        )
        return [row[:length].cpu() for row, length in zip(audio, lens.tolist(), strict=True)]

    @torch.inference_mode()
    def generate(
        self,
        requests: Sequence[TokenizedRequest],
        on_frames: OnFrames | None = None,
        seeds: Sequence[int] | None = None,
        minimum_scales: Sequence[float] | None = None,
    ) -> list[Generation]:
        """Generate the codes of all requests together.

        `seeds`, one for each request, replace that of the settings. `minimum_scales` multiply each row's minimum
        length, to at most half of its maximum length.
        """
        limits = []
        for request, scale in zip(requests, minimum_scales or [1.0] * len(requests), strict=True):
            least, most = self.frame_limits(request)
            limits.append((max(least, min(int(least * scale), most // 2)), most))
        min_frames, max_frames = torch.tensor(limits).T
        seeds = [self.settings.seed] * len(requests) if seeds is None else seeds
        return self.model.generate(requests, self._sampler, seeds, min_frames, max_frames, on_frames)

    @property
    def _sampler(self) -> TokenSampler:
        settings = self.settings
        return TokenSampler(
            top_k=settings.top_k,
            top_p=settings.top_p,
            temperature=settings.temperature,
            repetition_window=settings.repetition_window,
            repetition_threshold=settings.repetition_threshold,
        )

    def tokenize(self, requests: Sequence[Request], continual: bool) -> list[TokenizedRequest | UserError]:
        """Each request in tokens, or the reason why it cannot be synthesized, with one phonemizer call for all."""
        prompts = [request.prompt_text.strip() for request in requests]
        texts = ["" if continual else request.text.strip() for request in requests]
        if self.is_reference and not continual:
            # The reference phonemizes prompt and text as one, and a word's phones may depend on its neighbours.
            texts = [f"{prompt} {text}" if text else "" for prompt, text in zip(prompts, texts, strict=True)]
        phones = self.tokenizer.phones([*prompts, *texts])
        before, after = phones[: len(prompts)], phones[len(prompts) :]
        if self.is_reference and not continual:
            after = [_after_prompt(joint, len(prompt)) for prompt, joint in zip(before, after, strict=True)]
        # Prompts of valid requests only are encoded, in one batch.
        obstacles = [self._obstacle(*row, continual) for row in zip(requests, before, after, strict=True)]
        ready = [request for request, obstacle in zip(requests, obstacles, strict=True) if obstacle is None]
        codes = iter(self._prompt_codes(ready, continual))
        results: list[TokenizedRequest | UserError] = []
        for request, prompt_phones, text_phones, obstacle in zip(requests, before, after, obstacles, strict=True):
            if obstacle is not None:
                results.append(UserError(obstacle))
                continue
            try:
                item = self.tokenize_phones(prompt_phones, text_phones, next(codes))
            except UserError as error:
                results.append(error)
                continue
            if continual:
                # Estimate how many phones follow the part of the audio that is kept.
                kept_samples = self.settings.continual_prompt_seconds * self.codec.sample_rate_hz
                share = 1 - kept_samples / len(request.prompt_audio)
                item = replace(item, num_target_phones=max(1, round(len(prompt_phones) * share)))
            results.append(item)
        return results

    def tokenize_phones(
        self, prompt_phones: Sequence[str], text_phones: Sequence[str], codes: Tensor
    ) -> TokenizedRequest:
        """A text after its prompt's phones and codes (P, Q). Without text phones, a continuation of the prompt.

        Cuts the last frames of the prompt if they do not fill a step. Raises UserError if the prompt has no full step.
        """
        step = self.model.frames_per_step
        if len(codes) < step:
            raise UserError(
                f"the prompt has {len(codes)} frames, and the model reads {step} at once; take a longer prompt, or "
                "raise infer.continual_prompt_seconds in a continuation"
            )
        codes = codes[: len(codes) // step * step]
        ids = self.tokenizer.ids(join_phones(prompt_phones, text_phones))
        if not text_phones:
            # All ids of a continuation belong to its text.
            target_start = 1
        elif self.is_reference:
            # The reference slices the joint ids after the prompt's last id, so the `_` between prompt and text stays.
            # Released models were not trained so, but always got it at inference.
            target_start = len(self.tokenizer.ids(prompt_phones)) - 1
        else:
            target_start = len(ids) - (len(self.tokenizer.ids(text_phones)) - 1)
        # The word boundary before the text counts as a phone.
        return TokenizedRequest(ids, target_start, codes, 1 + len(text_phones))

    def _obstacle(
        self, request: Request, prompt_phones: Sequence[str], text_phones: Sequence[str], continual: bool
    ) -> str | None:
        """Why a request cannot be synthesized; None if it can."""
        kept_seconds = self.settings.continual_prompt_seconds
        if continual and len(request.prompt_audio) <= kept_seconds * self.codec.sample_rate_hz:
            return (
                f"--continual keeps {kept_seconds:g} s of the prompt, and it is no longer than that; take a longer "
                "one, or lower infer.continual_prompt_seconds"
            )
        for name, text in (("prompt's text", request.prompt_text), ("text", "" if continual else request.text)):
            if refusal := self.tokenizer.phonemizer.refusal(f"the {name}", text):
                return refusal
        if not any(phone.isalnum() for phone in prompt_phones):
            return f"the prompt's text {request.prompt_text!r} has nothing that can be spoken"
        if not continual and not any(phone.isalnum() for phone in text_phones):
            return f"the text {request.text!r} has nothing that can be spoken"
        return None

    def _prompt_codes(self, requests: Sequence[Request], continual: bool) -> list[Tensor]:
        """The codes (P, Q) of each prompt; those that are not given are encoded in one batch."""
        audio = [request.prompt_audio for request in requests if request.prompt_codes is None]
        if continual:
            num_samples = round(self.settings.continual_prompt_seconds * self.codec.sample_rate_hz)
            audio = [row[:num_samples] for row in audio]
        encoded = iter(self.encode(audio) if audio else [])
        return [next(encoded) if request.prompt_codes is None else request.prompt_codes for request in requests]

    def encode(self, audio: Sequence[Tensor]) -> list[Tensor]:
        """Encode audio, each (N,), to codes, each (T, Q)."""
        lens = torch.tensor([len(row) for row in audio])
        codes, codes_lens = self.codec.encode(pad_sequence(list(audio), batch_first=True).to(self.device), lens)
        return [row[:length].cpu() for row, length in zip(codes, codes_lens.tolist(), strict=True)]


def _after_prompt(joint: Sequence[str], num_prompt: int) -> list[str]:
    """The phones after the word boundary that ends the prompt, which has at least `num_prompt` of the joint phones."""
    boundary = next((i for i in range(num_prompt, len(joint)) if joint[i] == WORD_BOUNDARY), len(joint))
    return list(joint[boundary + 1 :])
