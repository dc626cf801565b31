"""Stage 3: synthesizes a text of any length into one file. It can be interrupted, and memory does not grow with it."""

import hashlib
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from synthesis.long_texts import LongText, next_batch, synthesize_parts
from synthesis.results import COPY_ENDING, RESULTS, free_name, log_results, read_results, result_row, write_results
from synthesis.synthesizer import Synthesizer
from synthesis.test_lists import ListItem
from utils.audio import MAX_WAV_SAMPLES, append_audio, write_audio
from utils.errors import UserError
from utils.files import atomic_write, file_lock, fsync
from utils.log import log, progress_bar
from utils.prompts import prepare_prompt

_AUDIO, _PARTS, _STATE, _NAME = "audio.wav", "parts.jsonl", "state.npz", "name.txt"


def synthesize_book(synthesizer: Synthesizer, item: ListItem, output_dir: Path, copysyn: bool, model_id: str) -> int:
    """Synthesize a long text into `<item.name>.wav`, with its row in `results.jsonl`; returns the exit status.

    Until the text is done, its audio and the rows of its parts are in `<item.name>.<fingerprint>.partial`. A call with
    the same text, prompt, settings and `model_id` continues there after the last complete batch of parts, and gives the
    same bytes as a call that was never interrupted. Raises UserError if the text cannot be synthesized, is too long for
    a WAV file, or is being synthesized by another process.
    """
    rate_hz, started = synthesizer.codec.sample_rate_hz, time.perf_counter()
    text = LongText(synthesizer, item.text, prepare_prompt(item.prompt_audio, item.prompt_text, rate_hz))
    if text.guessed_seconds * rate_hz > MAX_WAV_SAMPLES:
        raise UserError(
            f"the text is about {text.guessed_seconds / 3600:.0f} h of speech, and a WAV file holds "
            f"{MAX_WAV_SAMPLES / rate_hz / 3600:.0f} h; divide the text"
        )
    folder = output_dir / f"{item.name}.{_fingerprint(synthesizer, text, model_id)}.partial"
    with file_lock(folder / ".lock") as holder:
        if holder is not None:
            raise UserError(f"{folder} is in use by {holder}; wait for it")
        num_row_bytes = _restore(folder, text)
        log.info(
            "%d parts, about %.1f min of speech; %d parts are done",
            *(len(text.parts), text.guessed_seconds / 60, text.num_done),
        )
        with progress_bar(total=len(text.parts), initial=text.num_done, desc="synthesis", unit="part") as bar:
            while not text.is_done:
                num_done, num_samples = text.num_done, text.num_samples
                done = synthesize_parts(synthesizer, next_batch([text], synthesizer.settings.max_batch_size))
                if text.error is not None:
                    raise text.error
                append_audio(folder / _AUDIO, torch.cat([audio for _, audio, _ in done]), rate_hz, num_samples)
                lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for _, _, row in done)
                num_row_bytes = _append(folder / _PARTS, lines.encode(), num_row_bytes)
                # Audio and rows count from here on: what is behind the sizes in the state is removed at a restart.
                _save(folder, text, num_row_bytes)
                bar.update(text.num_done - num_done)
        return _finish(synthesizer, text, item, folder, output_dir, copysyn, started)


def _fingerprint(synthesizer: Synthesizer, text: LongText, model_id: str) -> str:
    """A name for all that decides the audio. A run that lacked memory may continue with a lower batch size."""
    parts = [(part.text, part.start, part.pause_seconds) for part in text.parts]
    settings = synthesizer.settings.model_dump(exclude={"max_batch_size"})
    content = [model_id, synthesizer.codec.fingerprint(), settings, text.prompt.text, text.lead_seconds, parts]
    digest = hashlib.sha256(json.dumps(content).encode())
    digest.update(text.prompt.audio.numpy().tobytes())
    return digest.hexdigest()[:12]


def _append(path: Path, content: bytes, num_bytes: int) -> int:
    """Write after the first `num_bytes` of a file, and sync it; returns the new size."""
    with path.open("r+b" if num_bytes else "wb") as file:
        file.truncate(num_bytes)
        file.seek(num_bytes)
        file.write(content)
    fsync(path)
    return num_bytes + len(content)


def _save(folder: Path, text: LongText, num_row_bytes: int) -> None:
    """Save what the next part needs, atomically."""
    codes = torch.zeros(0, 0) if text.previous_codes is None else text.previous_codes
    with atomic_write(folder / _STATE) as temporary:
        np.savez(
            temporary,
            counts=np.array([text.num_done, text.num_samples, num_row_bytes]),
            overlap=text.overlap.numpy(),
            previous_codes=codes.numpy().astype(np.int64),
        )


def _restore(folder: Path, text: LongText) -> int:
    """Go on from a saved state if there is one; returns the size of the parts' rows."""
    if not (folder / _STATE).is_file():
        return 0
    with np.load(folder / _STATE) as state:
        text.num_done, text.num_samples, num_row_bytes = map(int, state["counts"])
        text.overlap = torch.from_numpy(state["overlap"])
        codes = torch.from_numpy(state["previous_codes"])
    text.previous_codes = codes if len(codes) else None
    text.give_back()
    return num_row_bytes


def _finish(
    synthesizer: Synthesizer,
    text: LongText,
    item: ListItem,
    folder: Path,
    output_dir: Path,
    copysyn: bool,
    started: float,
) -> int:
    """Move the audio to its place, and write the row. Every step may be repeated after an interruption."""
    if not (folder / _NAME).is_file():
        with atomic_write(folder / _NAME) as temporary:
            temporary.write_text(free_name(output_dir, item.name), encoding="utf-8")
    item = replace(item, name=(folder / _NAME).read_text(encoding="utf-8"))
    parts = read_results(folder / _PARTS)
    row = result_row(item, text, parts)
    write_results(output_dir / RESULTS, [row])
    if (folder / _AUDIO).is_file():
        (folder / _AUDIO).replace(output_dir / row["audio"])
    if copysyn:
        rate_hz = synthesizer.codec.sample_rate_hz
        write_audio(output_dir / f"{item.name}{COPY_ENDING}.wav", synthesizer.copy(text.prompt.audio), rate_hz)
    shutil.rmtree(folder)
    log_results([row], output_dir, time.perf_counter() - started)
    return int("error" in row)
