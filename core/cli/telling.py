"""What the library logs, on the terminal: notes and warnings, a line each."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from ..printable import say

_BEGINNINGS = {logging.INFO: "NOTE       ", logging.WARNING: "warning: "}


class _Teller(logging.Handler):
    """Says each record above the bars."""

    def emit(self, record: logging.LogRecord) -> None:
        say(_BEGINNINGS.get(record.levelno, "") + record.getMessage())


@contextmanager
def logs_told() -> Iterator[None]:
    """Inside, what is logged under "duosora" goes to the terminal."""
    log, teller = logging.getLogger("duosora"), _Teller()
    level = log.level
    log.addHandler(teller)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(teller)
        log.setLevel(level)
