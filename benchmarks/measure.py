"""Tools of all benchmarks: rows and their table, timing, peak memory, and the machine's peak rates."""

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
    """A measurement.

    `speedup` is relative to the plain implementation, `ratio_to_floor` the time relative to the least that the machine
    needs; both come from the same run. `goal` is in words, and `goal_met` is None if there is none.
    """

    job: str
    seconds: float | None = None
    rate: float | None = None
    unit: str = ""
    peak_mib: float | None = None
    speedup: float | None = None
    ratio_to_floor: float | None = None
    goal: str = ""
    goal_met: bool | None = None
    note: str = ""


@dataclass
class Peak:
    """Peak memory of a block of code, above what was in use before it."""

    mib: float | None = None
    before: float = field(default=0.0, repr=False)


def seconds_of(work: Callable[[], object], repeats: int = 3) -> float:
    """Return the median time of `repeats` runs, after one to warm up."""
    work()
    return statistics.median(seconds_once(work) for _ in range(repeats))


def seconds_once(work: Callable[[], object]) -> float:
    """Return the time of one run, without a warm-up."""
    synchronize()
    started = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - started


def synchronize() -> None:
    """Wait until the GPU is idle, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Measure peak memory of the GPU, or of this process without one; None if the system does not report it."""
    peak = Peak()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield peak
        peak.mib = (torch.cuda.max_memory_allocated() - before) / MIB
        return
    try:
        # On Linux, writing 5 resets the peak.
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
    """Memory bandwidth, measured by summing a large tensor."""
    size = 64 if device.type == "cpu" else 1024
    data = torch.ones(size * MIB, device=device)
    return data.numel() * 4 / min(seconds_of(data.sum) for _ in range(3))


# A product that takes this long is large enough for a measurement.
_LONG_SECONDS = 0.2


@cache
def products_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """Rate of a large matrix product, in floating-point operations; a multiply-add counts as two."""
    largest = 2048 if device.type == "cpu" else 8192
    size = largest // 16
    while True:
        square = torch.randn(size, size, device=device, dtype=dtype)
        # Start small: a CPU without bf16 instructions would take minutes for the largest size.
        if size == largest or seconds_once(lambda: square @ square) > _LONG_SECONDS:  # noqa: B023 (called at once)
            return 2 * size**3 / min(seconds_once(lambda: square @ square) for _ in range(4))  # noqa: B023
        size *= 2


def table(rows: list[Row]) -> str:
    """Format rows as a Markdown table."""
    head = ("job", "seconds", "rate", "peak MiB", "speedup", "ratio to floor", "goal", "met")
    body = [
        (
            row.job,
            _number(row.seconds),
            f"{_number(row.rate)} {row.unit}" if row.rate is not None else "",
            _number(row.peak_mib),
            f"{row.speedup:.1f} x" if row.speedup is not None else "",
            f"{row.ratio_to_floor:.2f} x" if row.ratio_to_floor is not None else "",
            row.goal,
            {True: "yes", False: "no", None: row.note}[row.goal_met],
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
    """Describe the machine: its name, memory bandwidth and matrix product rates."""
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
