"""Calls in a thread of their own, for libraries that look at the stack of whoever calls them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Result = TypeVar("_Result")
_apart = threading.local()
_thread = ThreadPoolExecutor(max_workers=1, initializer=lambda: setattr(_apart, "is_here", True))


def call_apart(function: Callable[..., _Result], *arguments: object) -> _Result:
    """What a function returns or raises, called in the one thread for this; a call from inside of it stays there."""
    return function(*arguments) if hasattr(_apart, "is_here") else _thread.submit(function, *arguments).result()
