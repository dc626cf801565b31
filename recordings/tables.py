"""The results of all recordings to the tables of a corpus: speakers, duplicates, and what is left out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from config.schema import RecordingsSettings
from processors.languages import language_code
from recordings.measures import characters_per_second, find_duplicates
from recordings.segments import Result, decode
from recordings.sources import Recording
from recordings.speakers import cluster

_HIDDEN = ("voice", "fingerprint", "problem")


@dataclass(frozen=True)
class Row:
    """A segment, or a recording that has none. `category` and `reason` are "" for a segment of the corpus."""

    content: dict[str, Any]
    category: str = ""
    reason: str = ""


def make_rows(
    recordings: Sequence[Recording], results: Sequence[Result], settings: RecordingsSettings, speaker: str
) -> list[Row]:
    """All segments in the order of the corpus, each with its speaker, and with the reason if it is left out.

    `speaker` is the name of a speaker whom nothing names.
    """
    speakers = _speakers(recordings, results, settings)
    copies = _equal_recordings(recordings, results)
    rows: list[Row] = []
    candidates: list[tuple[int, Result]] = []
    for recording, result, voices in zip(recordings, results, speakers, strict=True):
        whole: dict[str, Any] = {"id": recording.id, "recording": recording.id}
        if "problem" in result:
            rows.append(Row(whole, _category(result["problem"]), result["problem"]))
            continue
        if recording.id in copies:
            reason = f"the same audio as {copies[recording.id]}"
            rows.append(Row(whole | {"duration": result["seconds"]}, "duplicate", reason))
            continue
        if not result["segments"]:
            rows.append(Row(whole | {"duration": result["seconds"]}, "no speech", "no speech is found in it"))
        for number, segment in enumerate(result["segments"], start=1):
            content: dict[str, Any] = {"id": f"{recording.id}/{number:04d}", "recording": recording.id}
            content |= {key: value for key, value in segment.items() if key not in _HIDDEN}
            named = segment.get("speaker") or recording.speaker or speaker
            content["speaker"] = voices[segment["voice"]] if voices else named
            if "problem" in segment:
                content["duration"] = round(segment["end"] - segment["start"], 3)
                rows.append(Row(content, _category(segment["problem"]), segment["problem"]))
                continue
            seconds = segment["end"] - segment["start"]
            content["characters_per_second"] = round(characters_per_second(content["text"], seconds), 2)
            row = Row(content, *_refusal(content, result["rate_hz"], settings))
            if not row.reason:
                candidates.append((len(rows), segment))
            rows.append(row)
    if settings.min_duplicate_similarity is not None and candidates:
        fingerprints = np.stack([decode(segment["fingerprint"], np.int8) for _, segment in candidates])
        seconds = [segment["end"] - segment["start"] for _, segment in candidates]
        for number, original in find_duplicates(fingerprints, seconds, settings.min_duplicate_similarity).items():
            index, name = candidates[number][0], rows[candidates[original][0]].content["id"]
            rows[index] = Row(rows[index].content, "duplicate", f"like {name}")
    return rows


def clusters_voices(recordings: Sequence[Recording], settings: RecordingsSettings) -> bool:
    """Whether speakers are told apart by their voices."""
    is_named = any(recording.speaker or any(s.speaker for s in recording.spans or ()) for recording in recordings)
    return settings.speakers == "cluster" or (settings.speakers == "auto" and not is_named)


def _speakers(
    recordings: Sequence[Recording], results: Sequence[Result], settings: RecordingsSettings
) -> list[list[str]]:
    """The speaker of each voice of each recording; nothing where the folder or a table names the speaker."""
    if not clusters_voices(recordings, settings):
        return [[] for _ in results]
    means = [decode(voice, np.float32) for result in results for voice in result.get("voices", ())]
    labels = iter(cluster(np.stack(means), settings.max_voice_distance) if means else [])
    return [[f"speaker_{next(labels) + 1:04d}" for _ in result.get("voices", ())] for result in results]


def _equal_recordings(recordings: Sequence[Recording], results: Sequence[Result]) -> dict[str, str]:
    """The ids of recordings whose audio is that of an earlier one, and the id of that."""
    first: dict[str, str] = {}
    copies = {}
    for recording, result in zip(recordings, results, strict=True):
        if "content" in result:
            original = first.setdefault(result["content"], recording.id)
            if original != recording.id:
                copies[recording.id] = original
    return copies


def _refusal(content: dict[str, Any], rate_hz: int, settings: RecordingsSettings) -> tuple[str, str]:
    """The category and the reason why a segment is left out; both "" if it is not."""
    seconds = content["end"] - content["start"]
    code = language_code(content["language"]) if content["language"] else ""
    allowed = {language_code(name) for name in settings.languages}
    certainty, likelihood = content.get("language_probability"), content.get("log_probability")
    rate = content["characters_per_second"]
    overall = content.get("dnsmos", {}).get("overall")
    low = settings.min_log_probability
    checks: tuple[tuple[bool, str, str], ...] = (
        (rate_hz < settings.min_source_rate, "low sample rate", f"{rate_hz} Hz, below min_source_rate"),
        (seconds < settings.min_duration, "too short", f"{seconds:.2f} s of speech, below min_duration"),
        (
            settings.min_snr_db is not None and content["snr_db"] < settings.min_snr_db,
            "noisy",
            f"speech is {content['snr_db']:g} dB above the noise, less than min_snr_db",
        ),
        (
            overall is not None and settings.min_dnsmos is not None and overall < settings.min_dnsmos,
            "low DNSMOS",
            f"DNSMOS {overall}, below min_dnsmos",
        ),
        (not any(map(str.isalnum, content["text"])), "no words", "no words are recognized in it"),
        (bool(allowed) and code not in allowed, "language", f"in {code or 'an unknown language'}, not in languages"),
        (
            certainty is not None and certainty < settings.min_language_probability,
            "language",
            f"{code} with a probability of {certainty or 0:.2f}, below min_language_probability; --language names it",
        ),
        (
            likelihood is not None and low is not None and likelihood < low,
            "uncertain text",
            f"the text has a mean log probability of {likelihood}, below min_log_probability",
        ),
        (rate < settings.min_characters_per_second, "slow", f"{rate:g} characters/s, below min_characters_per_second"),
        (rate > settings.max_characters_per_second, "fast", f"{rate:g} characters/s, above max_characters_per_second"),
    )
    return next(((category, reason) for is_refused, category, reason in checks if is_refused), ("", ""))


def _category(problem: str) -> str:
    """A problem without what is particular to a recording."""
    categories = {
        "no transcript": "no transcript",
        "no speech": "no speech",
        "above max_duration": "too long",
        "silent throughout": "silent",
        "no such audio file": "no audio file",
    }
    return next((category for words, category in categories.items() if words in problem), "unreadable")
