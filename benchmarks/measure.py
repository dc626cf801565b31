"""What every measurement is made of: a row of the table, times, peak memory, and what the machine can do at best."""

import platform
import re
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch

MIB = 2**20


@dataclass
class Row:
    """A job, what it took, and how that compares.

    `to_plain` is how many times faster it is than the plain way, `to_floor` how many times longer it takes than the
    machine needs at least; both from the same run. `goal` is in words, and `met` says whether it is.
    """

    job: str
    seconds: float | None = None
    rate: float | None = None
    unit: str = ""
    peak_mib: float | None = None
    to_plain: float | None = None
    to_floor: float | None = None
    goal: str = ""
    met: bool | None = None
    note: str = ""


@dataclass
class Peak:
    """The most memory that a block of work had at a time, above what was there before it."""

    mib: float | None = None
    before: float = field(default=0.0, repr=False)


def seconds_of(work: Callable[[], object], repeats: int = 3) -> float:
    """The median time of `repeats` runs, after one to warm up."""
    work()
    return statistics.median(_once(work) for _ in range(repeats))


def seconds_once(work: Callable[[], object]) -> float:
    """The time of one run, without a warm-up: for what takes long."""
    return _once(work)


def _once(work: Callable[[], object]) -> float:
    synchronize()
    started = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - started


def synchronize() -> None:
    """Wait for a GPU's work; on a CPU there is nothing to wait for."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Peak of the GPU's memory where there is one, else of this process; unknown where the system does not tell."""
    peak = Peak()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield peak
        peak.mib = (torch.cuda.max_memory_allocated() - before) / MIB
        return
    try:
        # Linux forgets the peak so far when it is written a 5.
        Path("/proc/self/clear_refs").write_text("5")
        peak.before = _status_mib("VmRSS")
        yield peak
        peak.mib = _status_mib("VmHWM") - peak.before
    except OSError:
        yield peak


def _status_mib(name: str) -> float:
    status = Path("/proc/self/status").read_text()
    match = re.search(rf"{name}:\s+(\d+) kB", status)
    return int(match[1]) / 1024 if match else 0.0


@cache
def read_bytes_per_second(device: torch.device) -> float:
    """Memory bandwidth, by a large read."""
    size = 64 if device.type == "cpu" else 1024
    data = torch.ones(size * MIB, device=device)
    return data.numel() * 4 / min(seconds_of(data.sum) for _ in range(3))


# A product that takes this long is large enough to be measured.
_LONG_SECONDS = 0.2


@cache
def products_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations of a large matrix product, two for each multiply and add."""
    largest = 2048 if device.type == "cpu" else 8192
    size = largest // 16
    while True:
        square = torch.randn(size, size, device=device, dtype=dtype)
        # A CPU without instructions for bf16 takes minutes for what others do in a tenth of a second.
        if size == largest or seconds_once(lambda: square @ square) > _LONG_SECONDS:  # noqa: B023 (called at once)
            return 2 * size**3 / min(seconds_once(lambda: square @ square) for _ in range(4))  # noqa: B023
        size *= 2


def table(rows: list[Row]) -> str:
    """The rows as lines of text, a column each."""
    head = ("job", "seconds", "rate", "peak MiB", "to plain", "to floor", "goal", "met")
    body = [
        (
            row.job,
            _number(row.seconds),
            f"{_number(row.rate)} {row.unit}" if row.rate is not None else "",
            _number(row.peak_mib),
            f"{row.to_plain:.1f} x" if row.to_plain is not None else "",
            f"{row.to_floor:.2f} x" if row.to_floor is not None else "",
            row.goal,
            {True: "yes", False: "no", None: row.note}[row.met],
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in (head, *body)) for column in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in (head, *body)
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def machine(device: torch.device) -> str:
    """What the figures were measured on."""
    bandwidth = f"{read_bytes_per_second(device) / 1e9:.0f} GB/s read"
    products = ", ".join(
        f"{products_per_second(device, dtype) / 1e9:.0f} GFLOP/s {name}"
        for dtype, name in ((torch.float32, "fp32"), (torch.bfloat16, "bf16"))
    )
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {bandwidth}, {products}"
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.is_file() else []
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads, {bandwidth}, {products}"
