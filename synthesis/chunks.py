"""Speech that is sent while its codes are generated, in chunks of a request's frames."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from models.contract import DraftsSoFar, Generation, OnFrames, TokenizedRequest

# Frames after a chunk change its sound: those of the NAR's full attention, and those that the codec's decoder reads.
_LOOK_AHEAD_SECONDS = 0.16
# What follows a chunk was decoded again with more frames after it, so the two are faded into each other.
_FADE_SECONDS = 0.01
AnyGeneration = TypeVar("AnyGeneration", bound=Generation)


class SpeechChunks:
    """Sends the audio of a request in chunks.

    A chunk is completed and decoded together with all frames before it, which stay as they were sent, and with a few
    after it, which are decided with the next chunk. Its end is faded into the start of the next one. The first chunk is
    due after `first_frames` frames, and each further one when the frames have doubled, so that all passes over them
    take about twice the time of one over the whole.
    """

    def __init__(
        self, send: Callable[[Tensor], None], first_frames: int, frame_rate_hz: float, sample_rate_hz: int
    ) -> None:
        self._send = send
        self._look_ahead_frames = max(1, round(_LOOK_AHEAD_SECONDS * frame_rate_hz))
        self._fade_samples = round(_FADE_SECONDS * sample_rate_hz)
        self._next_frames = max(first_frames, self._look_ahead_frames + 1)
        self._sent: Generation | None = None
        self.audio = torch.zeros(0)
        """What was sent (N,)."""
        # The audio after that, as it was when the chunk before it was sent.
        self._overlap = torch.zeros(0)

    @property
    def has_sent(self) -> bool:
        return self._sent is not None

    def is_due(self, num_frames: int) -> bool:
        """Whether a chunk is due after so many frames."""
        return num_frames >= self._next_frames

    def keep_sent(self, generation: AnyGeneration) -> AnyGeneration:
        """The generation with the frames that were sent as they were then."""
        if self._sent is None:
            return generation
        sent, num_sent = self._sent, len(self._sent.codes)
        vectors = generation.vectors
        if vectors is not None and sent.vectors is not None:
            vectors = torch.cat([sent.vectors, vectors[num_sent:]])
        return replace(generation, codes=torch.cat([sent.codes, generation.codes[num_sent:]]), vectors=vectors)

    def send(self, generation: Generation, audio: Tensor, num_frames: int) -> None:
        """Send what is new in the audio (N,) of the frames so far, but for its end.

        `num_frames` are those of the batch: a request whose speech has ended may have fewer.
        """
        self._next_frames = 2 * num_frames
        end = len(generation.codes) - self._look_ahead_frames
        end_samples = end * (len(audio) // len(generation.codes))
        if end_samples <= len(self.audio):
            return
        chunk = self._faded(audio)[: end_samples - len(self.audio)]
        self._send(chunk)
        vectors = None if generation.vectors is None else generation.vectors[:end]
        self._sent = Generation(generation.codes[:end], generation.stop_reason, vectors)
        self.audio = torch.cat([self.audio, chunk])
        self._overlap = audio[end_samples : end_samples + self._fade_samples]

    def finish(self, audio: Tensor) -> Tensor:
        """The whole audio (N,): what was sent, and then what follows it."""
        return torch.cat([self.audio, self._faded(audio)])

    def _faded(self, audio: Tensor) -> Tensor:
        """What follows the audio that was sent."""
        rest = audio[len(self.audio) :].clone()
        num_fade = min(len(self._overlap), len(rest))
        rise = (torch.arange(num_fade) + 0.5) / max(1, num_fade)
        rest[:num_fade] = torch.lerp(self._overlap[:num_fade], rest[:num_fade], rise)
        return rest


def sends_chunks(
    complete: Callable[[Sequence[TokenizedRequest], Sequence[Generation]], list[Generation]],
    decode: Callable[[Sequence[Generation]], list[Tensor]],
    items: Sequence[TokenizedRequest],
    chunks: Sequence[SpeechChunks | None],
    on_frames: OnFrames | None,
) -> OnFrames:
    """`on_frames` that also completes, decodes and sends the chunks that are due; `chunks` has one for each item."""

    # Tensors that are made in inference mode could not be changed in place by those who get the audio.
    @torch.inference_mode(False)
    @torch.no_grad()
    def on_new(num_frames: int, drafts: DraftsSoFar) -> None:
        if on_frames is not None:
            on_frames(num_frames, drafts)
        if not any(sent is not None and sent.is_due(num_frames) for sent in chunks):
            return
        due = [
            (sent, item, codes)
            for sent, item, codes in zip(chunks, items, drafts(), strict=True)
            # Speech that ended before its first chunk may have failed, and would be tried again.
            if sent is not None and sent.is_due(num_frames) and (len(codes) == num_frames or sent.has_sent)
        ]
        if not due:
            return
        drafted = [Generation(codes, "eos") for _, _, codes in due]
        completed = complete([item for _, item, _ in due], drafted)
        so_far = [sent.keep_sent(row) for (sent, _, _), row in zip(due, completed, strict=True)]
        for (sent, _, _), row, audio in zip(due, so_far, decode(so_far), strict=True):
            sent.send(row, audio, num_frames)

    return on_new
