"""Long texts: a text in parts, on its way to speech. Stages 3, 4 and 5 synthesize all texts this way."""

import hashlib
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from models.contract import OnFrames
from processors.languages import language_code
from synthesis.chunks import SpeechChunks
from synthesis.limits import phones_of_a_part
from synthesis.parts import Cut, Part, join_part, split_text
from synthesis.speed_and_loudness import change_loudness, change_speed
from synthesis.spoken_languages import choose_language, split_language_tag
from synthesis.synthesizer import OnGroup, Request, Speech, Synthesizer
from utils.errors import UserError
from utils.memory import return_freed_memory
from utils.prompts import MIN_SECONDS, Prompt

ResultRow = dict[str, Any]
"""A row of `results.jsonl`, or of the parts in it."""
_MAX_SHOWN = 40
# What the row of a text has of its parts, in place of their rows.
_MERGED = ("words", "suspects")


class LongText:
    """A text in parts: gives the parts as requests, takes their speech in order, and joins the audio.

    A text that is short enough has one part. Each part has the prompt, or with `infer.context` "previous" the part
    before it in the same section. `continual` is for a continuation: one part with the prompt's own text. The languages
    may be given by `language` and `prompt_language`, or a tag such as [language zh] at the beginning of a text.

    Raises UserError if the text has letters that cannot be read or nothing that can be spoken, or is in a language that
    was not trained.
    """

    def __init__(
        self,
        synthesizer: Synthesizer,
        text: str,
        prompt: Prompt,
        continual: bool = False,
        language: str = "",
        prompt_language: str = "",
    ) -> None:
        tag, text = split_language_tag(text)
        prompt_tag, prompt_text = split_language_tag(prompt.text)
        self.text, self.prompt = prompt_text if continual else text, replace(prompt, text=prompt_text)
        self.settings = synthesizer.settings
        trained = synthesizer.languages
        given = (prompt_tag if continual else tag) or language
        self.language = choose_language("the text", self.text, given, trained)
        self.prompt_language = choose_language(
            "the prompt's text",
            prompt_text,
            prompt_tag or prompt_language or prompt.language,
            trained,
            likely=self.language,
        )
        self.sample_rate_hz, self.frame_rate_hz = synthesizer.codec.sample_rate_hz, synthesizer.codec.frame_rate_hz
        self.lead_seconds, self.guessed_seconds = 0.0, prompt.seconds / self.settings.speed
        self.parts = [Part(self.text, 0, 0, Cut.SECTION)]
        if not continual:
            self._split(synthesizer)
        self.error: UserError | None = None
        self.num_taken, self.num_done, self.num_samples = 0, 0, 0
        # The audio is played while more is synthesized: no more parts are decoded together than are done before them.
        self.is_streamed = False
        # What sends the first part in chunks.
        self.chunks: SpeechChunks | None = None
        # What the next part needs of the one before it: the end that it overlaps, and codes to continue.
        self.overlap = torch.zeros(0)
        self.previous_codes: Tensor | None = None
        # A prompt of many parts is encoded once.
        self._prompt_codes = prompt.codes
        if prompt.codes is None and len(self.parts) > 1:
            [self._prompt_codes] = synthesizer.encode([prompt.audio])

    def _split(self, synthesizer: Synthesizer) -> None:
        tokenizer = synthesizer.tokenizer
        # Report letters of another script before any part is synthesized.
        if refusal := tokenizer.reader(self.language).refusal("the text", self.text):
            raise UserError(refusal)
        prompt_phones = self.prompt.phones or tokenizer.phones([self.prompt.text], [self.prompt_language])[0]
        max_phones, seconds_per_phone = phones_of_a_part(self.prompt.seconds, len(prompt_phones), self.settings)
        phonemize = tokenizer.reader(self.language).phonemize
        self.lead_seconds, self.parts = split_text(self.text, phonemize, max_phones, language_code(self.language))
        if not self.parts:
            shown = self.text if len(self.text) <= _MAX_SHOWN else f"{self.text[:_MAX_SHOWN]} ..."
            raise UserError(f"the text {shown!r} has nothing that can be spoken")
        # Pauses are as much faster or slower as the speech is.
        speed = self.settings.speed
        self.lead_seconds /= speed
        self.parts = [replace(part, pause_seconds=part.pause_seconds / speed) for part in self.parts]
        self.guessed_seconds = self.lead_seconds + sum(
            part.num_phones * seconds_per_phone / speed + part.pause_seconds for part in self.parts
        )

    @property
    def is_done(self) -> bool:
        """Whether all parts are done, or there is an `error` that ends the text."""
        return self.error is not None or self.num_done == len(self.parts)

    @property
    def is_sending(self) -> bool:
        """Whether the part in work, or the next one, is sent in chunks."""
        return self.chunks is not None and self.num_done == 0

    def send_chunks(self, send: Callable[[Tensor], None]) -> None:
        """Send the audio of the first part in chunks, while it is generated; `add` then returns the rest.

        Does nothing if the settings do not ask for chunks, or need the whole audio of a part: to choose among several
        candidates, or for its speed or loudness.
        """
        settings = self.settings
        is_changed = settings.speed != 1 or settings.loudness_lufs is not None
        if not settings.stream_first_frames or settings.num_candidates > 1 or is_changed:
            return

        def send_after_lead(audio: Tensor) -> None:
            lead = 0 if chunks.has_sent else self._num_lead
            send(F.pad(audio, (lead, 0)))

        rates_hz = self.frame_rate_hz, self.sample_rate_hz
        self.chunks = chunks = SpeechChunks(send_after_lead, settings.stream_first_frames, *rates_hz)

    @property
    def _num_lead(self) -> int:
        """Samples of silence before the first part."""
        return round(self.lead_seconds * self.sample_rate_hz)

    def take(self) -> Request | None:
        """The next part; None if there is none, or it must continue a part that is not done yet."""
        num_ahead = self.num_taken - self.num_done
        waits = self.settings.context == "previous" and num_ahead > 0
        waits = waits or (self.is_streamed and num_ahead >= max(1, self.num_done))
        if self.error is not None or waits or self.num_taken == len(self.parts):
            return None
        part = self.parts[self.num_taken]
        prompt_text, codes, phones = self.prompt.text, self._prompt_codes, self.prompt.phones
        prompt_language = self.prompt_language
        if self.previous_codes is not None:
            prompt_text, codes, phones = self.parts[self.num_taken - 1].text, self.previous_codes, None
            prompt_language = self.language
        chunks = self.chunks if self.num_taken == 0 else None
        self.num_taken += 1
        seed = part_seed(self.settings.seed, part.start)
        languages = self.language, prompt_language
        return Request(part.text, prompt_text, self.prompt.audio, codes, seed, *languages, phones, chunks)

    def give_back(self) -> None:
        """Take back the requests whose speech was not added."""
        self.num_taken = self.num_done

    def add(self, speech: Speech) -> tuple[Tensor, ResultRow]:
        """Add the speech of the first part that is not done; returns the next samples of the audio, and the part's row.

        The samples end with the pause after the part. Those that were sent in chunks are not among them.
        """
        index, part, rate_hz = self.num_done, self.parts[self.num_done], self.sample_rate_hz
        lead = self._num_lead if index == 0 else 0
        num_sent = len(self.chunks.audio) if self.chunks is not None and index == 0 else 0
        is_first, is_last = index == 0 and not lead, index == len(self.parts) - 1
        audio, self.overlap, num_spoken, num_removed = join_part(
            speech.audio, part, rate_hz, self.overlap, is_first, is_last, self._finished, num_sent
        )
        start = self.num_samples + lead
        row: ResultRow = {
            "text": part.text,
            "start": round(start / rate_hz, 6),
            "end": round((start + num_spoken) / rate_hz, 6),
            "ended": speech.stop_reason,
            "tries": speech.num_tries,
            "real_time_factor": round(speech.real_time_factor * self.settings.speed, 4),
        }
        if speech.failure is not None:
            row["error"] = speech.failure
        if len(speech.scores) > 1:
            row |= {"candidate": speech.candidate, "scores": [round(score, 4) for score in speech.scores]}

        def placed(seconds: float) -> float:
            """A time in the part's own audio as one in the text's."""
            sample = round((seconds * rate_hz - num_removed) / self.settings.speed)
            return round((start + min(max(0, sample), num_spoken)) / rate_hz, 3)

        if speech.words:
            row["words"] = [
                {"word": word.text, "start": placed(word.start), "end": placed(word.end)} for word in speech.words
            ]
            row["suspects"] = [
                {"problem": suspect.problem, "word": suspect.word, "time": placed(suspect.time)}
                for suspect in speech.suspects
            ]
        self.num_done += 1
        self.num_samples = start + len(audio)
        # Failed speech would spoil the next part, and one word is too short for a prompt.
        is_prompt = speech.failure is None and speech.seconds >= MIN_SECONDS and part.cut != Cut.SECTION
        self.previous_codes = speech.codes if self.settings.context == "previous" and is_prompt else None
        return audio[num_sent:] if num_sent else F.pad(audio, (lead, 0)), row

    def _finished(self, audio: Tensor) -> Tensor:
        """The audio of a part with the speed and the loudness of the settings."""
        audio = change_speed(audio, self.sample_rate_hz, self.settings.speed)
        if self.settings.loudness_lufs is None:
            return audio
        return change_loudness(audio, self.sample_rate_hz, self.settings.loudness_lufs)

    def summary(self, parts: Sequence[ResultRow]) -> ResultRow:
        """What the parts' rows say of the whole text; it has an `error` if any part failed."""
        spoken_seconds = sum(row["end"] - row["start"] for row in parts)
        cost = sum((row["end"] - row["start"]) * row["real_time_factor"] for row in parts)
        failed = [(number, row) for number, row in enumerate(parts, start=1) if "error" in row]
        summary: ResultRow = {
            "language": self.language,
            "seconds": round(self.num_samples / self.sample_rate_hz, 3),
            "real_time_factor": round(cost / spoken_seconds, 4),
            "ended": failed[0][1]["ended"] if failed else "eos",
            "tries": max(row["tries"] for row in parts),
            "parts": [{key: value for key, value in row.items() if key not in _MERGED} for row in parts],
        }
        if any("words" in row for row in parts):
            summary |= {key: [item for row in parts for item in row.get(key, ())] for key in _MERGED}
        if len(parts) == 1 and failed:
            summary["error"] = failed[0][1]["error"]
        elif failed:
            number, row = failed[0]
            shown = textwrap.shorten(row["text"], _MAX_SHOWN, placeholder=" ...")
            summary["error"] = f"{len(failed)} of {len(parts)} parts failed; part {number}, {shown!r}: {row['error']}"
        return summary


def part_seed(seed: int, start: int) -> int:
    """The seed of the part that begins at a character. Parts of one text must not share their noise."""
    if start == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed} {start}".encode()).digest()[:4], "big")


def next_batch(texts: Sequence[LongText], most: int) -> list[tuple[LongText, Request]]:
    """The next parts of the texts, one of each in turn, at most `most` in all."""
    batch: list[tuple[LongText, Request]] = []
    waiting = list(texts)
    while waiting and len(batch) < most:
        text = waiting.pop(0)
        request = text.take()
        if request is not None:
            batch.append((text, request))
            waiting.append(text)
    return batch


def synthesize_parts(
    synthesizer: Synthesizer,
    batch: Sequence[tuple[LongText, Request]],
    continual: bool = False,
    on_frames: OnFrames | None = None,
    on_group: OnGroup | None = None,
) -> list[tuple[LongText, Tensor, ResultRow]]:
    """Synthesize a batch of parts; returns the next audio of their texts, and the parts' rows.

    A part that cannot be synthesized sets its text's `error`. If an exception ends the batch, all parts are given back.
    """
    try:
        requests = [request for _, request in batch]
        results = synthesizer.synthesize(requests, continual=continual, on_frames=on_frames, on_group=on_group)
    except BaseException:
        for text, _ in batch:
            text.give_back()
        raise
    done = []
    for (text, request), result in zip(batch, results, strict=True):
        if text.error is not None:
            continue
        if isinstance(result, UserError):
            shown = textwrap.shorten(request.text, _MAX_SHOWN, placeholder=" ...")
            text.error = result if len(text.parts) == 1 else UserError(f"the part {shown!r}: {result}")
        else:
            done.append((text, *text.add(result)))
    return_freed_memory()
    return done
