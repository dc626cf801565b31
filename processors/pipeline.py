"""Stage 1: a corpus to shards of phones and codes. Finished shards are kept, so that an interrupted run continues."""

import hashlib
import json
import multiprocessing
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import islice
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader

from config.schema import Dataset, PreprocessSettings
from processors.codecs.base import Codec
from processors.corpora import describe_split, read_corpus
from processors.features import LoadedUtterance, UtteranceReader, encode
from processors.index import read_index
from processors.lexicon import lexicon_fingerprint
from processors.manifest import SPLITS, SourceUtterance, Split, Utterance, write_shard
from processors.reports import Shard, failure_category, is_done, read_report
from processors.splits import in_lasting_order
from processors.symbols import SymbolTable
from processors.text_to_phones import TextToPhones
from utils.config import resolve_path
from utils.device import memory_advice
from utils.errors import UserError
from utils.files import atomic_write
from utils.log import log, progress_bar
from utils.workers import iterate

# Utterances that a process reads at a time, and that are coded together, sorted by length.
_CHUNK = 16
_WINDOW = 128
QUANTILES = (0.001, 0.01, 0.5, 0.99, 0.999)


class CorpusPreprocessor:
    """Stage 1 for one corpus, into `processed_dir/<name>`.

    `rank` of `world_size` processes makes every `world_size`-th shard; what comes out does not depend on them.
    """

    def __init__(
        self,
        name: Dataset,
        corpus: Path,
        processed_dir: Path,
        root: Path,
        settings: PreprocessSettings,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.name = name
        self.folder = processed_dir / name
        # Phones of earlier versions' data must not change under an experiment: new shards are made like the old ones.
        self.is_older_than_normalization = self._is_older_than_normalization()
        self.settings = settings
        if self.is_older_than_normalization and settings.normalize_text != "none":
            log.info(
                "%s: made before preprocess.normalize_text existed, and goes on with none; to normalize the texts, "
                "choose another preprocess.processed_dir",
                self.folder,
            )
            self.settings = settings.model_copy(update={"normalize_text": "none"})
        self.rank, self.world_size = rank, world_size
        rows = read_corpus(name, corpus, settings)
        self.split_rule = describe_split(name, rows, settings)
        recorded, self.row_order = self._recorded_rows(rows)
        self.rows = in_lasting_order(rows, recorded, keeps_splits=self.split_rule.startswith("hash"))
        self.table = None
        if settings.symbol_table is not None:
            self.table = SymbolTable.load(resolve_path(settings.symbol_table, root))
        # Report a wrong language or lexicon before any work, and not from a worker.
        TextToPhones.from_settings(self.settings, self.table)
        self.lexicon_fingerprint = lexicon_fingerprint(self.settings)
        self.shards = list(self._shards())

    def _is_older_than_normalization(self) -> bool:
        for path in islice((self.folder / "reports").glob("*.json"), 1):
            with suppress(OSError, ValueError):
                return "normalize_text" not in json.loads(path.read_text(encoding="utf-8"))
        return False

    def _shards(self) -> Iterator[Shard]:
        for split in SPLITS:
            rows = iter([row for row in self.rows if row.split == split])
            index = 0
            while piece := list(islice(rows, self.settings.shard_size)):
                yield Shard(split, index, piece, self.folder)
                index += 1

    def _recorded_rows(self, rows: Sequence[SourceUtterance]) -> tuple[dict[str, Split], str]:
        """Ids and splits of earlier data in their recorded order, and the rule of that order, `id` or `hash`.

        Empty if there are no earlier data, or another rule split them.
        """
        recorded: dict[str, Split] = {}
        try:
            stats = json.loads((self.folder / "stats.json").read_text(encoding="utf-8"))
            if stats["split"] == self.split_rule:
                for line in (self.folder / "splits.tsv").read_text(encoding="utf-8").splitlines():
                    row_id, _, split = line.rpartition("\t")
                    recorded[row_id] = cast(Split, split)
                return recorded, stats.get("row_order", "id")
        except (OSError, ValueError, KeyError, TypeError):
            # A run of an older version may have stopped before stats.json: its shards are in the order of ids.
            for path in islice((self.folder / "reports").glob("*.json"), 1):
                with suppress(OSError, ValueError):
                    if json.loads(path.read_text(encoding="utf-8")).get("row_order", "id") == "id":
                        return {row.id: row.split for row in rows}, "id"
        return {}, "hash"

    def run(self, codec: Codec, device: torch.device, wait_for_everyone: Callable[[], None]) -> dict[str, Any]:
        """Make the missing shards; returns the content of `stats.json`, or nothing on other ranks than 0."""
        # Shards hold codes as 16-bit integers.
        if codec.codebook_size > 2**15:
            raise UserError(f"preprocess.acoustic_token_extractor: {codec.codebook_size} codes are more than 32768")
        codec_fingerprint = codec.fingerprint()
        fingerprints = {id(shard): self._fingerprint(shard, codec_fingerprint) for shard in self.shards}
        own = self.shards[self.rank :: self.world_size]
        checked = progress_bar(total=len(own), desc=f"{self.name}: checking", unit="shard", disable=len(own) < 100)
        pending = []
        with checked:
            for shard in own:
                if not is_done(shard, fingerprints[id(shard)]):
                    pending.append(shard)
                checked.update()
        if len(pending) < len(own):
            log.info("%s: %d of %d shards are there already", self.name, len(own) - len(pending), len(own))
        self._make(pending, codec, device, fingerprints)
        wait_for_everyone()
        return self._finish(codec) if self.rank == 0 else {}

    def _fingerprint(self, shard: Shard, codec_fingerprint: str) -> str:
        """Changes with whatever changes a shard's content."""
        settings = self.settings.model_dump(
            include={"phone_extractor", "language", "sample_rate", "min_duration", "max_duration"}
        )
        # Without a value, these are left out: shards that were made before they existed stay valid.
        if self.settings.normalize_text != "none":
            settings["normalize_text"] = self.settings.normalize_text
        if self.lexicon_fingerprint is not None:
            settings["lexicon"] = self.lexicon_fingerprint
        phones = None if self.table is None else self.table.phones
        # Fields without a value are left out, so that adding a field does not invalidate old shards.
        rows = [{key: value for key, value in asdict(row).items() if key != "problem" or value} for row in shard.rows]
        text = json.dumps([settings, phones, codec_fingerprint, rows], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _make(self, shards: Sequence[Shard], codec: Codec, device: torch.device, fingerprints: dict[int, str]) -> None:
        """Make shards, with workers that read ahead of the codec. The audio of one window is in memory."""
        chunks = [shard.rows[first : first + _CHUNK] for shard in shards for first in range(0, len(shard.rows), _CHUNK)]
        num_workers = self.settings.num_workers
        reader = DataLoader(
            UtteranceReader(chunks, self.settings, self.table),
            batch_size=None,
            num_workers=num_workers,
            multiprocessing_context=_worker_context() if num_workers else None,
            prefetch_factor=_WINDOW // _CHUNK if num_workers else None,
        )
        loader = iterate(reader, f"lower preprocess.num_workers ({num_workers}), and run the same command again")
        total = sum(len(shard.rows) for shard in shards)
        with progress_bar(total=total, desc=f"{self.name}: features", unit="utterance", disable=not total) as bar:
            for shard in shards:
                utterances: list[Utterance] = []
                failures: list[LoadedUtterance] = []
                for first in range(0, len(shard.rows), _WINDOW):
                    loaded: list[LoadedUtterance] = []
                    while len(loaded) < min(_WINDOW, len(shard.rows) - first):
                        loaded += next(loader)
                    good = [item for item in loaded if item.failure is None]
                    batch_seconds = self.settings.codec_batch_seconds
                    with memory_advice(f"lower preprocess.codec_batch_seconds ({batch_seconds:g})"):
                        utterances += encode(good, codec, batch_seconds, device)
                    failures += [item for item in loaded if item.failure is not None]
                    bar.update(len(loaded))
                self._write(shard, utterances, failures, codec, fingerprints[id(shard)])

    def _write(
        self,
        shard: Shard,
        utterances: Sequence[Utterance],
        failures: Sequence[LoadedUtterance],
        codec: Codec,
        fingerprint: str,
    ) -> None:
        shard.report_path.unlink(missing_ok=True)
        for stale in self.folder.glob(f"{shard.split}/*.{shard.index:06d}.*"):
            stale.unlink()
        if utterances:
            write_shard(self.folder / shard.split, shard.index, utterances, codec.frame_rate_hz)
        report = {
            "fingerprint": fingerprint,
            "row_order": self.row_order,
            "utterances": len(utterances),
            "seconds": sum(len(utterance.codes) for utterance in utterances) / codec.frame_rate_hz,
            "speakers": sorted({utterance.speaker for utterance in utterances}),
            "phones": sorted({phone for utterance in utterances for phone in utterance.phones}),
            "failures": [
                {"id": item.row.id, "split": shard.split, "audio": item.row.audio_path, "reason": item.failure}
                for item in failures
            ],
        }
        if not self.is_older_than_normalization:
            report["normalize_text"] = self.settings.normalize_text
        with atomic_write(shard.report_path) as path:
            path.write_text(json.dumps(report, ensure_ascii=False), encoding="utf-8")

    def _finish(self, codec: Codec) -> dict[str, Any]:
        """Gather the shards' reports into `symbols.dict`, `splits.tsv`, `failures.jsonl` and `stats.json`."""
        self._remove_leftovers()
        reports = {split: [read_report(shard) for shard in self.shards if shard.split == split] for split in SPLITS}
        everything = [report for split in SPLITS for report in reports[split]]
        failures = [failure for report in everything for failure in report["failures"]]
        phones = sorted({phone for report in everything for phone in report["phones"]})
        table = SymbolTable.from_phones(phones) if self.table is None else self.table
        table.save(self.folder / "symbols.dict")
        recorded = {"acoustic_token_extractor", "phone_extractor", "language", "sample_rate"}
        if not self.is_older_than_normalization:
            recorded.add("normalize_text")
        stats = {
            "dataset": self.name,
            "codec": codec.fingerprint(),
            "settings": self.settings.model_dump(include=recorded),
            "lexicon": self.lexicon_fingerprint,
            "split": self.split_rule,
            "row_order": self.row_order,
            "phones": len(phones),
            **self._measured_lengths(codec.frame_rate_hz),
            "dropped": len(failures),
            "dropped_why": dict(Counter(failure_category(failure) for failure in failures)),
            "splits": {
                split: {
                    "utterances": sum(report["utterances"] for report in reports[split]),
                    "hours": round(sum(report["seconds"] for report in reports[split]) / 3600, 4),
                    "speakers": len({speaker for report in reports[split] for speaker in report["speakers"]}),
                    "shards": [index for index, report in enumerate(reports[split]) if report["utterances"]],
                }
                for split in SPLITS
            },
        }
        rows = "".join(f"{row.id}\t{row.split}\n" for row in self.rows)
        lines = "".join(json.dumps(failure, ensure_ascii=False) + "\n" for failure in failures)
        for name, text in (
            ("splits.tsv", rows),
            ("failures.jsonl", lines),
            ("stats.json", json.dumps(stats, indent=2, ensure_ascii=False) + "\n"),
        ):
            with atomic_write(self.folder / name) as path:
                path.write_text(text, encoding="utf-8")
        return stats

    def _measured_lengths(self, frame_rate_hz: float) -> dict[str, dict[str, float]]:
        """Quantiles over the training utterances: how fast and how slowly the corpus is read, and how long they are."""
        shards = [shard for shard in self.shards if shard.split == "train" and read_report(shard)["utterances"]]
        if not shards:
            return {"seconds_per_phone": {}, "seconds": {}}
        indexes = [read_index(shard.index_path) for shard in shards]
        seconds = np.concatenate([index.num_frames for index in indexes]) / frame_rate_hz
        num_phones = np.concatenate([index.num_phones for index in indexes])
        return {
            "seconds_per_phone": _quantiles(seconds / num_phones),
            "seconds": _quantiles(seconds),
        }

    def _remove_leftovers(self) -> None:
        """Take away what a killed run left half written, and shards of a corpus that was larger or cut differently."""
        for part in [*self.folder.glob(".*.part*"), *self.folder.glob("*/.*.part*")]:
            part.unlink()
        for folder in self.folder.glob("*/.shard-*"):
            shutil.rmtree(folder, ignore_errors=True)
        wanted = {shard.report_path for shard in self.shards}
        for report in (self.folder / "reports").glob("*.json"):
            if report not in wanted:
                split, index, _ = report.name.split(".")
                for stale in self.folder.glob(f"{split}/*.{index}.*"):
                    stale.unlink()
                report.unlink()


def _quantiles(values: np.ndarray) -> dict[str, float]:
    levels = np.quantile(values, QUANTILES)
    return {f"{quantile:g}": round(float(level), 5) for quantile, level in zip(QUANTILES, levels, strict=True)}


def _worker_context() -> BaseContext:
    """forkserver instead of fork: forked workers would turn the codec's memory into copy-on-write pages."""
    context = multiprocessing.get_context("forkserver")
    # Phonemizer takes a second to import: once here, not in each worker.
    context.set_forkserver_preload([UtteranceReader.__module__, "phonemizer"])
    return context
