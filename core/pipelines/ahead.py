"""Work that is done on another thread before its result is asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

Result = TypeVar("Result")

MOST_WAITING = 2
"""Results that nobody has asked for yet; each is as large as the latents."""


@contextmanager
def done_ahead(jobs: Iterable[Callable[[], Result]], name: str) -> Iterator[Iterator[Result]]:
    """The results of jobs in their order, each begun while those before it are in use.

    One thread of that name does them one after the other, and ends with the context, whatever ends it. What a job
    raises is raised where its result is asked for.
    """
    left = iter(jobs)
    pool = ThreadPoolExecutor(1, name)
    try:
        yield _results(pool, left)
    finally:
        pool.shutdown(cancel_futures=True)


def _results(pool: ThreadPoolExecutor, left: Iterator[Callable[[], Result]]) -> Iterator[Result]:
    waiting: deque[Future[Result]] = deque(pool.submit(job) for job in islice(left, MOST_WAITING))
    while waiting:
        result = waiting.popleft().result()
        waiting.extend(pool.submit(job) for job in islice(left, 1))
        yield result
