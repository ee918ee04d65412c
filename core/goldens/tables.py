"""Comparing what is plain values in JSON: equal or not, refused or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import DuosoraError
from .case import Comparison

REFUSED = "refused"


def same(name: str, got: object, expected: object) -> Comparison:
    """Values that have to be equal."""
    return Comparison(name, np.array([got == expected], np.int64), expected=np.array([1]))


def answers(name: str, expected: Any, compute: Callable[..., object], *given: Any) -> Comparison:
    """What a function gives has to be equal, or a refusal where the record holds an error."""
    try:
        got = compute(*given)
    except DuosoraError:
        got = REFUSED
    return same(name, got, REFUSED if isinstance(expected, dict) and "raises" in expected else expected)
