"""Log lines and progress bars that do not break each other."""

import logging
import sys
import threading

from tqdm import tqdm

log = logging.getLogger("vallet")
# Tqdm's default lock is shared with forked processes, and stays locked if one of them is killed.
tqdm.set_lock(threading.RLock())


def progress_bar(
    *, total: float | None, desc: str, unit: str, initial: float = 0, disable: bool = False, unit_scale: bool = False
) -> tqdm:
    """A bar with a rate and an ETA; printed every ten seconds only if stderr is not a terminal."""
    return tqdm(
        total=total,
        desc=desc,
        unit=unit,
        initial=initial,
        disable=disable,
        unit_scale=unit_scale,
        dynamic_ncols=True,
        mininterval=0.1 if sys.stderr.isatty() else 10.0,
    )


class _AboveBars(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def set_up_logging(is_main_process: bool = True) -> None:
    """Print log lines above any progress bar; ranks other than the main one print warnings only."""
    handler = _AboveBars()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers = [handler]
    log.propagate = False
    log.setLevel(logging.INFO if is_main_process else logging.WARNING)
