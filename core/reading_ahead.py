"""Work that is done one item ahead of its use, on a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")


def read_ahead(read: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
    """What `read` makes of each item in turn; while one is used, the next is made.

    Not before one is let go of, by asking for the next, is the one after that begun: there are two at a time.
    Raises: what `read` raises, when its item is asked for.
    """
    remaining = iter(items)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="reading ahead") as thread:
        upcoming = [thread.submit(read, item) for item in _first(remaining)]
        while upcoming:
            result = upcoming.pop().result()
            upcoming += [thread.submit(read, item) for item in _first(remaining)]
            yield result
            del result


def _first(items: Iterator[T]) -> Iterator[T]:
    """The next item, if there is one."""
    for item in items:
        yield item
        return
