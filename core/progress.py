"""Progress bars for whatever may take longer than a second; none appear where there is no terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

from .printable import short_name

T = TypeVar("T")

PATIENCE_SECONDS = 1.0
"""Shorter work shows no bar."""


def progress(items: Iterable[T], what: str, unit: str, total: int | None = None) -> Iterator[T]:
    """Hand on the items, with a bar that goes away when they are done."""
    what = short_name(what)
    yield from tqdm(items, desc=what, unit=unit, total=total, delay=PATIENCE_SECONDS, leave=False, disable=None)


@contextmanager
def byte_progress(total: int, what: str) -> Iterator[Callable[[int], object]]:
    """Give a function to tell how many more bytes are done; the bar goes away at the end."""
    with tqdm(
        desc=short_name(what),
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        total=total,
        delay=PATIENCE_SECONDS,
        leave=False,
        disable=None,
    ) as bar:
        yield bar.update
