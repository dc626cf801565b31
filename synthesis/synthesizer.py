"""Text to speech: `Request` -> `TokenizedRequest` -> `Generation` -> `Speech`, for several texts at once."""

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from config.schema import InferSettings
from models.contract import CodecLM, Generation, OnFrames, TokenizedRequest
from modules.sampling import TokenSampler
from processors.codecs.base import Codec
from processors.symbols import WORD_BOUNDARY, join_phones
from processors.text import TextTokenizer
from synthesis.aligner import Head, TextAligner
from synthesis.candidates import ErrorRate, Take, candidate_seed, choose
from synthesis.chunks import SpeechChunks, sends_chunks
from synthesis.limits import FrameLimits, limits_by_phones
from synthesis.suspects import Suspect
from synthesis.words import Word
from utils.device import memory_advice
from utils.errors import UserError
from utils.prompts import Prompt, is_silent

# The factor by which the minimum length grows after a try that ended too early.
_LONGER_MINIMUM = 1.4
OnGroup = Callable[[], None]


@dataclass(frozen=True)
class Request:
    """A text to synthesize in the voice of a prompt: its text, and its audio (N,) at the codec's rate.

    `prompt_codes` (P, Q) replace the audio if they are given, and `prompt_phones` the text's. `seed` replaces that of
    the settings. The languages of the text and the prompt's text matter only in experiments with several. `chunks` send
    the audio while it is generated. A try of which audio was sent is the last one.
    """

    text: str
    prompt_text: str
    prompt_audio: Tensor
    prompt_codes: Tensor | None = None
    seed: int | None = None
    language: str = ""
    prompt_language: str = ""
    prompt_phones: tuple[str, ...] | None = None
    chunks: SpeechChunks | None = None

    @property
    def has_sent(self) -> bool:
        """Whether some of the audio was sent."""
        return self.chunks is not None and self.chunks.has_sent


@dataclass(frozen=True)
class Speech:
    """Audio (N,) at `sample_rate_hz` and its codes (T, Q), how it ended, the number of tries, and the cost.

    `stop_reason` is that of `Generation`, or "silent". Only "eos" is a success. `words` and `suspects` have times in
    the audio. `candidate` is the number of the candidate that was chosen by `scores`.
    """

    audio: Tensor
    codes: Tensor
    sample_rate_hz: int
    stop_reason: str
    num_tries: int
    seconds: float
    real_time_factor: float
    words: tuple[Word, ...] = ()
    suspects: tuple[Suspect, ...] = ()
    candidate: int = 0
    scores: tuple[float, ...] = ()

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
        if settings.nar_decoding == "expected":
            try:
                if codec.vectors is None:
                    raise ValueError(f"{type(codec).__name__} has no vectors for its codes; set it to greedy")
                model.decode_expected(codec.vectors)
            except ValueError as error:
                raise UserError(f"infer.nar_decoding: {error}") from error
        self.codec = codec
        self.tokenizer = tokenizer
        self.settings = settings
        self.device = device
        self.languages: Sequence[str] = ("",)
        self.phone_extractor = ""
        self.is_reference = False
        self.aligner: TextAligner | None = None
        self.error_rate: ErrorRate | None = None
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

    @property
    def texts_per_batch(self) -> int:
        """How many texts are decoded together: a row of a batch is a candidate of a text."""
        return max(1, self.settings.max_batch_size // self.settings.num_candidates)

    def synthesize(
        self,
        requests: Sequence[Request],
        continual: bool = False,
        on_frames: OnFrames | None = None,
        on_group: OnGroup | None = None,
    ) -> list[Speech | UserError]:
        """Speech for each request, in batches of `max_batch_size`; a request that fails does not affect the others.

        `on_frames` is called while codes are sampled, and `on_group` between groups of texts that are completed or
        decoded together. Both may synthesize other requests, with other settings too. With `continual`, the first
        seconds of a prompt's audio are kept and continued with the rest of the prompt's own
        text; the request's text is not used.
        """
        size, results = self.texts_per_batch, []
        for first in range(0, len(requests), size):
            results += self._synthesize_batch(requests[first : first + size], continual, on_frames, on_group)
        return results

    def _synthesize_batch(
        self,
        requests: Sequence[Request],
        continual: bool,
        on_frames: OnFrames | None = None,
        on_group: OnGroup | None = None,
    ) -> list[Speech | UserError]:
        try:
            advice = f"lower infer.max_batch_size ({self.settings.max_batch_size}), or synthesize shorter texts"
            with memory_advice(advice):
                return self._try_batch(requests, continual, on_frames, on_group)
        except UserError as error:
            if len(requests) == 1:
                return [error]
            # What does not fit into memory together may fit one by one.
            return [
                result
                for request in requests
                for result in self._synthesize_batch([request], continual, on_frames, on_group)
            ]

    def _try_batch(
        self, requests: Sequence[Request], continual: bool, on_frames: OnFrames | None, on_group: OnGroup | None
    ) -> list[Speech | UserError]:
        """Synthesize all requests together, and those that fail again with the next seed, up to `max_tries` times.

        If all tries of a request fail, the first is kept.
        """
        started, seconds_of_others = time.perf_counter(), 0.0

        def timed(call: Callable[..., None] | None) -> Callable[..., None]:
            """The call, the time of which is not that of this batch."""

            def timed_call(*arguments: Any) -> None:
                nonlocal seconds_of_others
                called = time.perf_counter()
                if call is not None:
                    call(*arguments)
                seconds_of_others += time.perf_counter() - called

            return timed_call

        on_frames, on_group = timed(on_frames), timed(on_group)
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
            texts = [requests[index].prompt_text if continual else requests[index].text for index in pending]
            chunks = [requests[index].chunks for index in pending]
            generations = self._take(items, texts, chunks, on_frames, on_group, seeds, scales, continual)
            checks: Sequence[tuple[tuple[Word, ...], tuple[Suspect, ...]]] = [((), ())] * len(generations)
            if self.aligner is not None:
                spoken_in = [
                    requests[index].prompt_language if continual else requests[index].language for index in pending
                ]
                checks = self.aligner.find_words(texts, [take.alignment for take in generations], spoken_in)
            pairs = zip(chunks, generations, strict=True)
            generations = [row if sent is None else sent.keep_sent(row) for sent, row in pairs]
            audio, new_audio = self._decode_all(items, generations, continual, on_group)
            audio = [row if sent is None else sent.finish(row) for sent, row in zip(chunks, audio, strict=True)]
            elapsed = time.perf_counter() - started - seconds_of_others
            rate_hz = self.codec.sample_rate_hz
            real_time_factor = elapsed * rate_hz / sum(len(row) for row in audio)
            for index, row, check, new, whole in zip(pending, generations, checks, new_audio, audio, strict=True):
                reason = "silent" if row.stop_reason == "eos" and is_silent(new, rate_hz) else row.stop_reason
                speech = Speech(
                    whole,
                    row.codes,
                    rate_hz,
                    reason,
                    num_tries,
                    len(whole) / rate_hz,
                    real_time_factor,
                    *check,
                    row.candidate,
                    row.scores,
                )
                # A model that never saw such a short text may take it for the end of the prompt.
                if reason in ("floor", "silent"):
                    minimum_scale[index] *= _LONGER_MINIMUM
                # Of several failures, the first is kept, or that of which audio was sent.
                former = results[index]
                if speech.failure is not None and isinstance(former, Speech) and not requests[index].has_sent:
                    speech = replace(former, num_tries=num_tries)
                results[index] = speech
            failed = [i for i in pending if isinstance(found := results[i], Speech) and found.failure is not None]
            pending = [index for index in failed if not requests[index].has_sent]
        return [result for result in results if result is not None]

    @torch.inference_mode()
    def _take(
        self,
        items: Sequence[TokenizedRequest],
        texts: Sequence[str],
        chunks: Sequence[SpeechChunks | None],
        on_frames: OnFrames,
        on_group: OnGroup,
        seeds: Sequence[int],
        scales: Sequence[float],
        continual: bool,
    ) -> list[Take]:
        """Generate the candidates of all items together, and complete the best of each.

        Raises UserError if they cannot be ranked as the settings ask.
        """
        num, on_new = self.settings.num_candidates, on_frames
        if any(chunks):
            on_new = sends_chunks(self.model.complete, self.decode_generations, items, chunks, on_frames)
        rows = [item for item in items for _ in range(num)]
        own_seeds = [candidate_seed(seed, number) for seed in seeds for number in range(num)]
        limits = self._limits(rows, [scale for scale in scales for _ in range(num)])
        drafts = self.model.draft(rows, self._sampler, own_seeds, *limits, on_new)
        heads = () if self.aligner is None else self.aligner.heads(self.model, items)
        takes: list[Take] = []
        for group in self._groups(len(items), on_group):
            candidates = slice(group.start * num, group.stop * num)
            takes += self._complete(heads, items[group], texts[group], rows[candidates], drafts[candidates], continual)
        return takes

    def _complete(
        self,
        heads: Sequence[Head],
        items: Sequence[TokenizedRequest],
        texts: Sequence[str],
        rows: Sequence[TokenizedRequest],
        drafts: Sequence[Generation],
        continual: bool,
    ) -> list[Take]:
        """The best candidate of each item, completed; `rows` and `drafts` are those of all candidates."""
        num = self.settings.num_candidates
        if num == 1 or self.settings.rank_by == "asr":
            # A recognizer needs the whole speech. For the other ways the codes of the AR are enough.
            drafts = self.model.complete(rows, drafts)

        def listen() -> list[float]:
            return self._word_accuracies(rows, drafts, texts, continual)

        return choose(self.model, self.settings, self.aligner, heads, items, rows, drafts, continual, listen)

    def _groups(self, num_items: int, on_group: OnGroup) -> Iterator[slice]:
        """The items that are completed or decoded together, with a call of `on_group` before each group but the first.

        On a CPU, which gains nothing by more, a group is one item, so that other requests wait for no more than that.
        """
        size = 1 if self.device.type == "cpu" else num_items
        for first in range(0, num_items, size):
            if first:
                on_group()
            yield slice(first, min(first + size, num_items))

    def _word_accuracies(
        self, rows: Sequence[TokenizedRequest], drafts: Sequence[Generation], texts: Sequence[str], continual: bool
    ) -> list[float]:
        """The share of each text's words that a recognizer finds in its candidates."""
        if self.error_rate is None:
            raise UserError("infer.rank_by: no speech recognizer is loaded; set it to likelihood or coverage")
        audio, _ = self._decode_all(rows, drafts, continual)
        num, rate_hz = len(rows) // len(texts), self.codec.sample_rate_hz
        return [1 - self.error_rate(row, rate_hz, texts[index // num]) for index, row in enumerate(audio)]

    def _decode_all(
        self,
        items: Sequence[TokenizedRequest],
        generations: Sequence[Generation],
        continual: bool,
        on_group: OnGroup = lambda: None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The audio of each row, which in a continuation starts with the prompt, and the new part of it."""
        audio: list[Tensor] = []
        for group in self._groups(len(items), on_group):
            prompts = [item.codes for item in items[group]] if continual else None
            audio += self.decode_generations(generations[group], prompts)
        if not continual:
            return audio, audio
        hop = self.codec.sample_rate_hz / self.codec.frame_rate_hz
        return audio, [row[round(len(item.codes) * hop) :] for item, row in zip(items, audio, strict=True)]

    def decode_generations(
        self, generations: Sequence[Generation], prompts: Sequence[Tensor] | None = None
    ) -> list[Tensor]:
        """The audio (N,) of each generation, after that of its prompt's codes (P, Q) if they are given."""
        vectors = [row.vectors for row in generations if row.vectors is not None]
        if not vectors:
            rows = [row.codes for row in generations]
            before = prompts or [row[:0] for row in rows]
            return self.decode([torch.cat([prompt.cpu(), row]) for prompt, row in zip(before, rows, strict=True)])
        if prompts is not None:
            pairs = zip(prompts, vectors, strict=True)
            vectors = [torch.cat([self.codec.sum_vectors(prompt).cpu(), row]) for prompt, row in pairs]
        return self._decode_padded(self.codec.decode_vectors, vectors)

    def copy(self, audio: Tensor) -> Tensor:
        """The codec's reconstruction of (N,) audio."""
        return self.decode(self.encode([audio]))[0][: len(audio)]

    def copy_prompt(self, prompt: Prompt) -> Tensor:
        """The codec's reconstruction of a prompt, which may have codes only."""
        codes = self.encode([prompt.audio])[0] if prompt.codes is None else prompt.codes
        return self.decode([codes])[0][: round(prompt.seconds * self.codec.sample_rate_hz)]

    def decode(self, codes: Sequence[Tensor]) -> list[Tensor]:
        """Decode codes, each (T, Q), to audio, each (N,)."""
        return self._decode_padded(self.codec.decode, codes)

    def _decode_padded(
        self, decode: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], rows: Sequence[Tensor]
    ) -> list[Tensor]:
        lens = torch.tensor([len(row) for row in rows])
        audio, lens = decode(pad_sequence(list(rows), batch_first=True).to(self.device), lens)
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
        min_frames, max_frames = self._limits(requests, minimum_scales or [1.0] * len(requests))
        seeds = [self.settings.seed] * len(requests) if seeds is None else seeds
        return self.model.generate(requests, self._sampler, seeds, min_frames, max_frames, on_frames)

    def _limits(self, requests: Sequence[TokenizedRequest], minimum_scales: Sequence[float]) -> tuple[Tensor, Tensor]:
        """The minimum and the maximum number of new frames of each request, each (B,)."""
        limits = []
        for request, scale in zip(requests, minimum_scales, strict=True):
            least, most = self.frame_limits(request)
            limits.append((max(least, min(int(least * scale), most // 2)), most))
        min_frames, max_frames = torch.tensor(limits).T
        return min_frames, max_frames

    @property
    def _sampler(self) -> TokenSampler:
        settings = self.settings
        return TokenSampler(
            top_k=settings.top_k,
            top_p=settings.top_p,
            temperature=settings.temperature,
            repetition_window=settings.repetition_window,
            repetition_threshold=settings.repetition_threshold,
            guidance=settings.guidance,
        )

    def tokenize(self, requests: Sequence[Request], continual: bool) -> list[TokenizedRequest | UserError]:
        """Each request in tokens, or the reason why it cannot be synthesized, with one phonemizer call for all."""
        prompts = [request.prompt_text.strip() if request.prompt_phones is None else "" for request in requests]
        texts = ["" if continual else request.text.strip() for request in requests]
        if self.is_reference and not continual:
            # The reference phonemizes prompt and text as one, and a word's phones may depend on its neighbours.
            texts = [f"{prompt} {text}" if text else "" for prompt, text in zip(prompts, texts, strict=True)]
        languages = [*(request.prompt_language for request in requests), *(request.language for request in requests)]
        phones = self.tokenizer.phones([*prompts, *texts], languages)
        after = phones[len(prompts) :]
        before = [
            found if request.prompt_phones is None else list(request.prompt_phones)
            for request, found in zip(requests, phones, strict=False)
        ]
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
                share = 1 - kept_samples / self._num_prompt_samples(request)
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
        joint = join_phones(prompt_phones, text_phones)
        ids = self.tokenizer.ids(joint)
        # The phones of the text without a language symbol that is the prompt's, too.
        own_phones = text_phones[len(prompt_phones) + 1 + len(text_phones) - len(joint) :] if text_phones else []
        num_lead = 1
        if not text_phones:
            # All ids of a continuation belong to its text.
            target_start = 1
        elif self.is_reference:
            # The reference slices the joint ids after the prompt's last id, so the `_` between prompt and text stays.
            # Released models were not trained so, but always got it at inference.
            target_start = len(self.tokenizer.ids(prompt_phones)) - 1
        else:
            num_own_ids = len(self.tokenizer.ids(own_phones)) - 1
            target_start = len(ids) - num_own_ids
            num_lead = len(self.tokenizer.ids(text_phones)) - num_own_ids
        # The word boundary before the text counts as a phone.
        return TokenizedRequest(ids, target_start, codes, 1 + len(own_phones), num_lead)

    def _obstacle(
        self, request: Request, prompt_phones: Sequence[str], text_phones: Sequence[str], continual: bool
    ) -> str | None:
        """Why a request cannot be synthesized; None if it can."""
        kept_seconds = self.settings.continual_prompt_seconds
        if continual and self._num_prompt_samples(request) <= kept_seconds * self.codec.sample_rate_hz:
            return (
                f"--continual keeps {kept_seconds:g} s of the prompt, and it is no longer than that; take a longer "
                "one, or lower infer.continual_prompt_seconds"
            )
        texts = {
            # Phones that are given may be those of another language.
            "the prompt's text": (
                request.prompt_text if request.prompt_phones is None else "",
                request.prompt_language,
            ),
            "the text": ("" if continual else request.text, request.language),
        }
        for name, (text, language) in texts.items():
            if refusal := self.tokenizer.reader(language).refusal(name, text):
                return refusal
        if not any(phone.isalnum() for phone in prompt_phones):
            return f"the prompt's text {request.prompt_text!r} has nothing that can be spoken"
        if not continual and not any(phone.isalnum() for phone in text_phones):
            return f"the text {request.text!r} has nothing that can be spoken"
        return None

    def _prompt_codes(self, requests: Sequence[Request], continual: bool) -> list[Tensor]:
        """The codes (P, Q) of each prompt; those that are not given are encoded in one batch."""
        num_samples = num_frames = None
        if continual:
            num_samples = round(self.settings.continual_prompt_seconds * self.codec.sample_rate_hz)
            num_frames = -(-num_samples // self.codec.hop_samples)
        audio = [request.prompt_audio[:num_samples] for request in requests if request.prompt_codes is None]
        encoded = iter(self.encode(audio) if audio else [])
        return [
            next(encoded) if request.prompt_codes is None else request.prompt_codes[:num_frames] for request in requests
        ]

    def _num_prompt_samples(self, request: Request) -> int:
        codes = request.prompt_codes
        return len(request.prompt_audio) if codes is None else len(codes) * self.codec.hop_samples

    def encode(self, audio: Sequence[Tensor]) -> list[Tensor]:
        """Encode audio, each (N,), to codes, each (T, Q)."""
        lens = torch.tensor([len(row) for row in audio])
        codes, codes_lens = self.codec.encode(pad_sequence(list(audio), batch_first=True).to(self.device), lens)
        return [row[:length].cpu() for row, length in zip(codes, codes_lens.tolist(), strict=True)]


def _after_prompt(joint: Sequence[str], num_prompt: int) -> list[str]:
    """The phones after the word boundary that ends the prompt, which has at least `num_prompt` of the joint phones."""
    boundary = next((i for i in range(num_prompt, len(joint)) if joint[i] == WORD_BOUNDARY), len(joint))
    return list(joint[boundary + 1 :])
