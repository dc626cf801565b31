"""Stage 0: recordings to a corpus. Finished recordings are kept, so that an interrupted run continues."""

import hashlib
import json
import multiprocessing
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from config.schema import RecordingsSettings
from evaluation.recognizers import RATE_HZ, FasterWhisper, Recognizer
from recordings.report import write_report
from recordings.segments import Models, RecordingCutter, Result
from recordings.sources import Recording
from recordings.tables import Row, make_rows
from utils.audio import read_audio
from utils.errors import UserError
from utils.files import atomic_write
from utils.log import log, progress_bar
from utils.workers import iterate, worker_init

# Results of another version are made anew.
_VERSION = 1
# What a result does not depend on: these choose among segments that are there.
_LIMITS = {
    *("min_source_rate", "min_snr_db", "min_dnsmos", "min_characters_per_second", "max_characters_per_second"),
    *("languages", "min_language_probability", "min_log_probability", "min_duplicate_similarity"),
    *("num_report_clips", "num_workers", "speakers"),
}
QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)


class CorpusBuilder:
    """Stage 0 into `folder`: `audio/` and `results/` by recording, and the tables that are made of all results.

    `rank` of `world_size` processes cuts every `world_size`-th recording; what comes out does not depend on them.
    `recognizer` is None where texts are there already. `language` is that of all recordings, "" where it is not known.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        audio_dir: Path,
        folder: Path,
        settings: RecordingsSettings,
        models: Models,
        recognizer: Recognizer | None = None,
        language: str = "",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.recordings, self.audio_dir, self.folder = recordings, audio_dir, folder
        self.settings, self.models = settings, models
        self.recognizer, self.language = recognizer, language
        self.rank, self.world_size = rank, world_size

    def run(self, wait_for_everyone: Callable[[], None]) -> dict[str, Any]:
        """Make the missing results, then the tables; returns the content of `stats.json`, or nothing on other ranks."""
        own = self.recordings[self.rank :: self.world_size]
        pending = [recording for recording in own if not self._is_done(recording)]
        if len(pending) < len(own):
            log.info("%d of %d recordings are there already", len(own) - len(pending), len(own))
        self._make(pending)
        wait_for_everyone()
        return self._finish() if self.rank == 0 else {}

    def _result_path(self, recording: Recording) -> Path:
        return self.folder / "results" / f"{recording.id}.json"

    def _is_done(self, recording: Recording) -> bool:
        try:
            result = json.loads(self._result_path(recording).read_text(encoding="utf-8"))
            if result["fingerprint"] != self._fingerprint(recording):
                return False
            segments = result.get("segments", ())
            return all((self.folder / segment["audio"]).is_file() for segment in segments if "audio" in segment)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _fingerprint(self, recording: Recording) -> str:
        """Changes with whatever changes a recording's result."""
        settings = self.settings.model_dump(exclude=_LIMITS)
        if self.models.speaker_model is None:
            del settings["max_voice_distance"]
        try:
            status = recording.path.stat()
            file = [status.st_size, status.st_mtime_ns]
        except OSError:
            file = []
        recognizer = None if self.recognizer is None else [self.recognizer.name, self.language]
        models = [self.models.speaker_model, self.models.dnsmos_dir is not None]
        spans = None if recording.spans is None else [vars(span) for span in recording.spans]
        text = json.dumps([_VERSION, settings, file, recognizer, models, self.language, spans], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _make(self, recordings: Sequence[Recording]) -> None:
        """Make results, with workers that cut the next recordings while this process recognizes the words of one."""
        num_workers = self.settings.num_workers
        loader = DataLoader(
            RecordingCutter(recordings, self.folder, self.settings, self.models),
            batch_size=None,
            num_workers=num_workers,
            # Results are plain values, which torch would look for tensors in.
            collate_fn=_unchanged,  # type: ignore[arg-type]
            worker_init_fn=worker_init,
            multiprocessing_context=multiprocessing.get_context("forkserver") if num_workers else None,
        )
        sizes = [recording.path.stat().st_size if recording.path.is_file() else 0 for recording in recordings]
        advice = f"lower recordings.num_workers ({num_workers}), and run the same command again"
        # Bytes are known before a file is opened, and recordings differ too much in length to be counted.
        with progress_bar(total=sum(sizes), desc="recordings", unit="B", unit_scale=True, disable=not sizes) as bar:
            for recording, size, result in zip(recordings, sizes, iterate(loader, advice), strict=True):
                for segment in result.get("segments", ()):
                    self._add_text(segment)
                with atomic_write(self._result_path(recording)) as path:
                    content = {"fingerprint": self._fingerprint(recording), **result}
                    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
                bar.update(size)

    def _add_text(self, segment: Result) -> None:
        """Recognize the words of a segment that has no text yet."""
        segment["language"] = segment.get("language") or self.language
        if self.recognizer is None or "audio" not in segment:
            segment["text"] = " ".join((segment.get("text") or "").split())
            return
        audio = read_audio(self.folder / segment["audio"], RATE_HZ).numpy()
        if isinstance(self.recognizer, FasterWhisper):
            heard = self.recognizer.recognize(audio)
            segment["text"], segment["log_probability"] = heard.text, round(heard.log_probability, 3)
            segment["language"] = heard.language
            # A language that was given is not in question.
            if not self.language:
                segment["language_probability"] = round(heard.language_probability, 3)
        else:
            segment["text"] = " ".join(self.recognizer.transcribe(audio).split())

    def _finish(self) -> dict[str, Any]:
        """Gather all results into `metadata.jsonl`, `left_out.jsonl`, `stats.json` and `report.html`."""
        # What a killed run left half written.
        for pattern in (".*.part*", "audio/**/.*.part*", "results/**/.*.part*"):
            for part in self.folder.glob(pattern):
                part.unlink()
        results = [
            json.loads(self._result_path(recording).read_text(encoding="utf-8")) for recording in self.recordings
        ]
        rows = make_rows(self.recordings, results, self.settings, self.audio_dir.name)
        kept = [row.content for row in rows if not row.reason]
        left_out = [{**row.content, "category": row.category, "reason": row.reason} for row in rows if row.reason]
        stats = describe(rows, sum(result.get("seconds", 0.0) for result in results), len(self.recordings))
        stats["settings"] = self.settings.model_dump(exclude={"num_workers", "num_report_clips"})
        if self.recognizer is not None:
            stats["recognizer"] = f"{self.recognizer.name} ({self.recognizer.backend})"
        for name, text in (
            ("metadata.jsonl", _json_lines(kept)),
            ("left_out.jsonl", _json_lines(left_out)),
            ("stats.json", json.dumps(stats, indent=2, ensure_ascii=False) + "\n"),
        ):
            with atomic_write(self.folder / name) as path:
                path.write_text(text, encoding="utf-8")
        write_report(self.folder / "report.html", self.folder, rows, stats, self.settings.num_report_clips)
        return stats


def _unchanged(result: Result) -> Result:
    return result


def _json_lines(contents: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(content, ensure_ascii=False) + "\n" for content in contents)


def describe(rows: Sequence[Row], seconds: float, num_recordings: int) -> dict[str, Any]:
    """The content of `stats.json`: what there is, what is left out and why, and how the measures are distributed."""
    kept = [row.content for row in rows if not row.reason]
    speakers: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    reasons: dict[str, dict[str, float]] = {}
    for content in kept:
        speakers[content["speaker"]] += content["duration"]
        languages[content["language"] or "unknown"] += content["duration"]
    for row in rows:
        if row.reason:
            entry = reasons.setdefault(row.category, {"rows": 0, "seconds": 0.0})
            entry["rows"] += 1
            entry["seconds"] = round(entry["seconds"] + row.content.get("duration", 0.0), 2)
    measures = {
        key: [content[key] for content in kept]
        for key in ("duration", "snr_db", "loudness_lufs", "characters_per_second")
    }
    rated = [content["dnsmos"]["overall"] for content in kept if "dnsmos" in content]
    return {
        "recordings": num_recordings,
        "recorded_hours": round(seconds / 3600, 4),
        "segments": len(kept),
        "hours": round(sum(content["duration"] for content in kept) / 3600, 4),
        "speakers": {name: round(total, 2) for name, total in speakers.most_common()},
        "languages": {name: round(total, 2) for name, total in languages.most_common()},
        "left_out": sum(bool(row.reason) for row in rows),
        "left_out_why": dict(sorted(reasons.items(), key=lambda item: -item[1]["rows"])),
        "quantiles": {
            name: {f"{q:g}": round(float(np.quantile(values, q)), 3) for q in QUANTILES}
            for name, values in {**measures, "dnsmos": rated}.items()
            if values
        },
    }


def check_usable(stats: dict[str, Any], folder: Path) -> None:
    """Raises UserError with the most common reason if there is no segment."""
    if not stats["segments"]:
        category, found = next(iter(stats["left_out_why"].items()))
        example = next(
            row
            for row in map(json.loads, (folder / "left_out.jsonl").read_text(encoding="utf-8").splitlines())
            if row["category"] == category
        )
        raise UserError(
            f"--audio_dir: nothing could be used; {stats['left_out']} were left out, {found['rows']} of them as "
            f"{category}, such as {example['id']}: {example['reason']}"
        )
