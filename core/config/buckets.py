"""The setting `data.buckets`: which part of the clips a resolution and a length get, and in batches of how many."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator

from ..printable import short_name


class Chances(NamedTuple):
    """What a table says of a resolution and a length."""

    keep: float
    """Probability that a sample which fits stays here; else it goes to the next smaller resolution."""
    consider: float
    """Probability that this length is looked at; else the next shorter one is."""
    batch_size: int | None
    """None: nothing stays here."""


def read_frames(value: Any) -> int:
    """A number of frames, or the text of one. Raises: ValueError."""
    text = str(value)
    if not (text.isascii() and text.isdigit() and len(text) < 10 and text[0] != "0"):  # 051 would be 51 once more
        raise ValueError(f"expected a number of frames, got {short_name(text)!r}")
    return int(text)


def read_chances(pair: Any) -> Chances:
    """What [keep, batch size] or [[keep, consider], batch size] says. Raises: ValueError."""
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise ValueError(f"expected [probability, batch size], got {_shown(pair)}")
    chances, batch_size = pair
    keep, consider = chances if isinstance(chances, list | tuple) and len(chances) == 2 else (chances, 1.0)
    for chance in (keep, consider):
        if isinstance(chance, bool) or not isinstance(chance, int | float) or not 0 <= chance <= 1:
            raise ValueError(f"expected probabilities from 0 to 1, got {_shown(chances)}")
    is_size = isinstance(batch_size, int) and not isinstance(batch_size, bool) and batch_size > 0
    if not is_size and not (batch_size is None and keep == 0):
        raise ValueError(f"expected a batch size of at least 1, got {_shown(batch_size)}")
    return Chances(float(keep), float(consider), batch_size)


def _shown(value: Any) -> str:
    return short_name(repr(value))


def _checked_frames(text: str) -> str:
    return str(read_frames(text))


def _checked_chances(pair: Any) -> Any:
    read_chances(pair)
    return pair


BucketRow = dict[Annotated[str, AfterValidator(_checked_frames)], Annotated[Any, AfterValidator(_checked_chances)]]
"""[keep, batch size] or [[keep, consider], batch size] by number of frames."""
