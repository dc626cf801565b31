"""Plain log lines, and progress bars that they do not break."""

import logging
import sys
import threading

from tqdm import tqdm

log = logging.getLogger("vallet")
# A bar is one process's own. Tqdm's lock is shared with those that are forked, and stays locked where one is killed.
tqdm.set_lock(threading.RLock())


def progress_bar(
    *, total: float | None, desc: str, unit: str, initial: float = 0, disable: bool = False, unit_scale: bool = False
) -> tqdm:
    """A bar with a rate and an ETA; where no one watches, in a log file, it says something every ten seconds only."""
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
    """Lines go to the terminal above any progress bar; other processes than the main one only warn."""
    handler = _AboveBars()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers = [handler]
    log.propagate = False
    log.setLevel(logging.INFO if is_main_process else logging.WARNING)
