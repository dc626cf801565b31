"""Plain log lines that do not break a progress bar."""

import logging
import sys

from tqdm import tqdm

log = logging.getLogger("vallet")


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
