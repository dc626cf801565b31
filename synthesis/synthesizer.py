"""From a text and a prompt to speech: AR, NAR and codec, for several texts together."""

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from config.schema import InferSettings
from models.contract import CodecLM, Generation, OnFrames, TokenizedRequest
from modules.sampling import TokenSampler
from processors.codecs.base import Codec
from processors.symbols import WORD_BOUNDARY, join_phones
from processors.text import TextTokenizer
from utils.device import memory_advice
from utils.errors import UserError
from utils.prompts import is_silent

# Wide limits, for experiments that carry none of their own.
UNMEASURED_SECONDS_PER_PHONE = (0.02, 0.4)

# By how much the least that speech may last grows from try to try.
_LONGER_FLOOR = 1.4


@dataclass(frozen=True)
class Request:
    """A text to say in the voice of a prompt: its text and its audio (N,) at the codec's rate."""

    text: str
    prompt_text: str
    prompt_audio: Tensor


FrameLimits = Callable[[TokenizedRequest], tuple[int, int]]
"""The least and the most frames that a request may get."""


@dataclass(frozen=True)
class SecondsPerPhone:
    """Limits by the phones that are to be said.

    A short text takes longer for each phone than a sentence does: `min_seconds` and `slack_seconds` count once a text.
    """

    least_seconds: float
    most_seconds: float
    min_seconds: float
    slack_seconds: float
    frame_rate_hz: float

    @classmethod
    def from_settings(cls, settings: InferSettings, frame_rate_hz: float) -> "SecondsPerPhone":
        """Null limits, of experiments whose corpus was never measured, take wide ones."""
        least, most = settings.min_seconds_per_phone, settings.max_seconds_per_phone
        return cls(
            UNMEASURED_SECONDS_PER_PHONE[0] if least is None else least,
            UNMEASURED_SECONDS_PER_PHONE[1] if most is None else most,
            settings.min_seconds,
            settings.slack_seconds,
            frame_rate_hz,
        )

    def __call__(self, item: TokenizedRequest) -> tuple[int, int]:
        num_phones, rate = item.num_target_phones, self.frame_rate_hz
        least = max(1, int(rate * max(self.min_seconds, num_phones * self.least_seconds)))
        return least, max(least, math.ceil(rate * (self.slack_seconds + num_phones * self.most_seconds)))


@dataclass(frozen=True)
class Speech:
    """Audio (N,) at `sample_rate_hz`, how it ended, after how many tries, and what it cost.

    `ended` is "eos" for speech that ended by itself. All else is a failure: "floor" and "cap" as `Generated` has them,
    and "silent".
    """

    audio: Tensor
    sample_rate_hz: int
    ended: str
    num_tries: int
    seconds: float
    real_time_factor: float

    @property
    def failure(self) -> str | None:
        """Why this is no speech of the text, and what to do; None where it is."""
        if self.ended == "eos":
            return None
        reason = {
            "floor": f"the speech ended after {self.seconds:.2f} s, as soon as it may",
            "cap": f"the speech did not end by itself, and was cut off at {self.seconds:.2f} s",
            "silent": "the speech is silent",
        }[self.ended]
        tries = "1 try" if self.num_tries == 1 else f"each of {self.num_tries} tries"
        return f"{reason} ({tries}); choose another seed or prompt, or raise infer.max_tries"


class Synthesizer:
    """Speaks with a trained pair. A text's speech does not depend on what is decoded beside it."""

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
        self.is_reference = False
        self.frame_limits: FrameLimits = SecondsPerPhone.from_settings(settings, codec.frame_rate_hz)

    def follow_reference(self, frame_limits: FrameLimits) -> None:
        """Speak as the reference recipe does with its released models: its text path, and its limits."""
        self.is_reference = True
        self.frame_limits = frame_limits

    def with_settings(self, **changes: float) -> "Synthesizer":
        """The same model with other settings of sampling. The two share buffers: only one may speak at a time."""
        other = copy.copy(self)
        other.settings = self.settings.model_copy(update=changes)
        return other

    def speak(
        self, requests: Sequence[Request], continual: bool = False, on_frames: OnFrames | None = None
    ) -> list[Speech | UserError]:
        """Speech for each request, at most `max_batch_size` at a time; one that cannot be spoken stops no other.

        With `continual` the first seconds of a prompt's audio are kept, and the rest of its own text is said after
        them; the request's text is not used.
        """
        size, results = self.settings.max_batch_size, []
        for first in range(0, len(requests), size):
            results += self._speak_batch(requests[first : first + size], continual, on_frames)
        return results

    def _speak_batch(
        self, requests: Sequence[Request], continual: bool, on_frames: OnFrames | None
    ) -> list[Speech | UserError]:
        try:
            advice = f"lower infer.max_batch_size ({self.settings.max_batch_size}), or speak shorter texts"
            with memory_advice(advice):
                return self._try_batch(requests, continual, on_frames)
        except UserError as error:
            if len(requests) == 1:
                return [error]
            # What has no room together may have it alone.
            return [result for request in requests for result in self._speak_batch([request], continual, on_frames)]

    def _try_batch(
        self, requests: Sequence[Request], continual: bool, on_frames: OnFrames | None
    ) -> list[Speech | UserError]:
        """Speak all requests together, and those that fail again with the next seed, up to `max_tries` times.

        Where each try failed the first is kept. Greedy decoding would say the same again, and has one try. What ended
        as soon as it may, or is silent, must last longer in its next try: a model that never saw a text as short may
        take it for the end of the prompt.
        """
        started = time.perf_counter()
        tokenized = self.tokenize(requests, continual)
        results: list[Speech | UserError | None] = [item if isinstance(item, UserError) else None for item in tokenized]
        pending = [index for index, item in enumerate(tokenized) if isinstance(item, TokenizedRequest)]
        floor_scale = dict.fromkeys(pending, 1.0)
        max_tries = self.settings.max_tries if self._sampler.num_draws else 1
        for num_tries in range(1, max_tries + 1):
            if not pending:
                break
            items = [item for index in pending if isinstance(item := tokenized[index], TokenizedRequest)]
            scales = [floor_scale[index] for index in pending]
            spoken = self.generate(items, on_frames, self.settings.seed + num_tries - 1, scales)
            audio, new_audio = self._decode_all(items, spoken, continual)
            elapsed = time.perf_counter() - started
            rate_hz = self.codec.sample_rate_hz
            real_time_factor = elapsed * rate_hz / sum(len(row) for row in audio)
            for index, row, new, kept in zip(pending, spoken, new_audio, audio, strict=True):
                ended = "silent" if row.stop_reason == "eos" and is_silent(new, rate_hz) else row.stop_reason
                speech = Speech(kept, rate_hz, ended, num_tries, len(kept) / rate_hz, real_time_factor)
                if ended in ("floor", "silent"):
                    floor_scale[index] *= _LONGER_FLOOR
                former = results[index]
                if speech.failure is not None and isinstance(former, Speech):
                    speech = replace(former, num_tries=num_tries)
                results[index] = speech
            pending = [i for i in pending if isinstance(found := results[i], Speech) and found.failure is not None]
        return [result for result in results if result is not None]

    def _decode_all(
        self, items: Sequence[TokenizedRequest], spoken: Sequence[Generation], continual: bool
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The audio of each row, in a continuation with the prompt in front, and what of it is new."""
        if not continual:
            audio = self.decode([row.codes for row in spoken])
            return audio, audio
        audio = self.decode([torch.cat([item.codes.cpu(), row.codes]) for item, row in zip(items, spoken, strict=True)])
        hop = self.codec.sample_rate_hz / self.codec.frame_rate_hz
        return audio, [row[round(len(item.codes) * hop) :] for item, row in zip(items, audio, strict=True)]

    def copy(self, audio: Tensor) -> Tensor:
        """Audio (N,) through the codec and back."""
        codes, _ = self.codec.encode(audio.unsqueeze(0), torch.tensor([len(audio)]))
        return self.decode([codes[0]])[0][: len(audio)]

    def decode(self, codes: Sequence[Tensor]) -> list[Tensor]:
        """Codes, each (T, Q), to audio, each (N,)."""
        audio, lens = self.codec.decode(
            pad_sequence(list(codes), batch_first=True).to(self.device), torch.tensor([len(row) for row in codes])
        )
        return [row[:length].cpu() for row, length in zip(audio, lens.tolist(), strict=True)]

    @torch.inference_mode()
    def generate(
        self,
        requests: Sequence[TokenizedRequest],
        on_frames: OnFrames | None = None,
        seed: int | None = None,
        floor_scales: Sequence[float] | None = None,
    ) -> list[Generation]:
        """Codes for each request, all generated together.

        `seed` goes before that of the settings. `floor_scales` multiply each row's least frames, up to half its most.
        """
        limits = []
        for request, scale in zip(requests, floor_scales or [1.0] * len(requests), strict=True):
            least, most = self.frame_limits(request)
            limits.append((max(least, min(int(least * scale), most // 2)), most))
        min_frames, max_frames = torch.tensor(limits).T
        seed = self.settings.seed if seed is None else seed
        return self.model.generate(requests, self._sampler, seed, min_frames, max_frames, on_frames)

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
        """Requests in tokens, or why one cannot be spoken. One call of the phonemizer serves all of them."""
        prompts = [request.prompt_text.strip() for request in requests]
        texts = ["" if continual else request.text.strip() for request in requests]
        if self.is_reference and not continual:
            # The reference phonemizes prompt and text as one: a word may be said otherwise beside its neighbour.
            texts = [f"{prompt} {text}" if text else "" for prompt, text in zip(prompts, texts, strict=True)]
        phones = self.tokenizer.phones([*prompts, *texts])
        before, after = phones[: len(prompts)], phones[len(prompts) :]
        if self.is_reference and not continual:
            after = [_behind_prompt(joint, len(prompt)) for prompt, joint in zip(before, after, strict=True)]
        obstacles = [self._obstacle(*row, continual) for row in zip(requests, before, after, strict=True)]
        ready = [request for request, obstacle in zip(requests, obstacles, strict=True) if obstacle is None]
        codes = iter(self._prompt_codes(ready, continual) if ready else [])
        results: list[TokenizedRequest | UserError] = []
        for request, prompt_phones, text_phones, obstacle in zip(requests, before, after, obstacles, strict=True):
            if obstacle is not None:
                results.append(UserError(obstacle))
                continue
            prompted = self.tokenized(prompt_phones, text_phones, next(codes))
            if continual:
                # Only the phones behind what is kept of the audio are new.
                kept_samples = self.settings.continual_prompt_seconds * self.codec.sample_rate_hz
                share = 1 - kept_samples / len(request.prompt_audio)
                prompted = replace(prompted, num_target_phones=max(1, round(len(prompt_phones) * share)))
            results.append(prompted)
        return results

    def tokenized(self, prompt_phones: Sequence[str], text_phones: Sequence[str], codes: Tensor) -> TokenizedRequest:
        """A text behind its prompt's phones and codes (P, Q); without a text, a continuation of the prompt's own."""
        ids = self.tokenizer.ids(join_phones(prompt_phones, text_phones))
        if not text_phones:
            # Of a continuation all ids are its own.
            target_start = 1
        elif self.is_reference:
            # The reference slices the joint ids right behind the prompt's last id, with the `_` between them: released
            # models were never trained so, but always read it.
            target_start = len(self.tokenizer.ids(prompt_phones)) - 1
        else:
            target_start = len(ids) - (len(self.tokenizer.ids(text_phones)) - 1)
        # A word boundary stands before the text.
        return TokenizedRequest(ids, target_start, codes, 1 + len(text_phones))

    def _obstacle(
        self, request: Request, prompt_phones: Sequence[str], text_phones: Sequence[str], continual: bool
    ) -> str | None:
        """Why a request cannot be spoken."""
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
        audio = [request.prompt_audio for request in requests]
        if continual:
            num_samples = round(self.settings.continual_prompt_seconds * self.codec.sample_rate_hz)
            audio = [row[:num_samples] for row in audio]
        lens = torch.tensor([len(row) for row in audio])
        codes, codes_lens = self.codec.encode(pad_sequence(audio, batch_first=True).to(self.device), lens)
        return [row[:length].cpu() for row, length in zip(codes, codes_lens.tolist(), strict=True)]


def _behind_prompt(joint: Sequence[str], num_prompt: int) -> list[str]:
    """The phones behind the word boundary that ends the prompt's, of which there are `num_prompt` or a few more."""
    boundary = next((i for i in range(num_prompt, len(joint)) if joint[i] == WORD_BOUNDARY), len(joint))
    return list(joint[boundary + 1 :])
