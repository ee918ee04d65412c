"""What ranks tell each other of work that each does by itself, errors included: one rank's error ends all.

Where one process is alone, nothing is sent and errors go their way.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from .. import errors
from ..errors import DuosoraError
from ..memory import out_of_memory
from ..seam.group import Group
from .messages import pack, unpack

T = TypeVar("T")
_DONE, _FAILED = b"+", b"-"


def exchange(group: Group, work: Callable[[], Any]) -> list[Any]:
    """What `work` gives on each rank, as JSON knows it. When it fails on one rank, it fails on all.

    Raises: the DuosoraError of the first rank that has one; all others know that this rank tells it.
    """
    if group.size == 1:
        return [work()]
    return [json.loads(value) for value in _exchange(group, lambda: json.dumps(work()).encode())]


def exchange_arrays(group: Group, work: Callable[[], Mapping[str, np.ndarray]]) -> list[Mapping[str, np.ndarray]]:
    """The same for arrays by name."""
    if group.size == 1:
        return [work()]
    return [unpack(message)[0] for message in _exchange(group, lambda: pack(work()))]


def agreed(group: Group, work: Callable[[], T]) -> T:
    """What `work` gives on this rank, if it fails on none. Raises: as exchange."""
    values: list[T] = []
    exchange(group, lambda: values.append(work()))
    return values[0]


def _exchange(group: Group, work: Callable[[], bytes]) -> list[bytes]:
    own = None
    try:
        message = _DONE + work()
    except Exception as raised_here:
        error = raised_here if isinstance(raised_here, DuosoraError) else out_of_memory(raised_here)
        if error is None:
            raise
        own = error
        message = _FAILED + json.dumps([type(error).__name__, str(error), error.is_told]).encode()
    said = group.share(message)
    problems = {rank: json.loads(answer[1:]) for rank, answer in enumerate(said) if answer[:1] == _FAILED}
    if not problems:
        return [answer[1:] for answer in said]
    teller = next((rank for rank, (_, _, is_told) in problems.items() if not is_told), min(problems))
    kind, text, is_told = problems[teller]
    raised: DuosoraError = own if own is not None and teller == group.index else getattr(errors, kind)(text)
    raised.is_told = is_told or teller != group.index
    raise raised
