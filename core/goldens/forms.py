"""The two forms in which golden cases are written down, read into one.

One names its tensors `tag.name` under `tensors`, with a role each, has limits by name under `tolerance` and says what
its weights are and their sha256. The other names them `call/name` under `io_tensors`; `calls` list inputs, its limits
under `tolerances` are partly words, and its weights are the file beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

WEIGHTS_FILE = "weights.safetensors"
_NUMBER = r"(?P<number>\d[\d.]*(?:e-?\d+)?(?:/\d[\d.]*)?)(?P<largest>\s*\*\s*max)?"
_AMOUNT = re.compile(_NUMBER)
_IN_WORDS = {kind: re.compile(rf"\b{kind}:?\s*{_NUMBER}") for kind in ("atol", "rtol")}
_PER_STEP = "per step: tensor "


@dataclass(frozen=True)
class Limit:
    """How far a number may be from the recorded one: the sum of these."""

    absolute: float = 0.0
    relative: float = 0.0
    """Of the recorded number."""
    of_largest: float = 0.0
    """Of the largest recorded number of the tensor."""
    per_step: str = ""
    """A tensor of absolute limits, one for each entry of the first axis."""


@dataclass(frozen=True)
class Contents:
    """What a case.json says, whichever form it has."""

    separator: str
    """Between the parts of a tensor's name."""
    roles: Mapping[str, str]
    """input, output or another, by tensor; "" where it is not said."""
    limits: Mapping[str, Limit]
    """By tensor; whole numbers and constants may have none."""
    weights: Mapping[str, Mapping[str, Any]]
    """How to get them, by their key."""


def read_contents(raw: Mapping[str, Any]) -> Contents:
    """Read either form. Raises: LookupError, TypeError and ValueError when it is neither."""
    if "io_tensors" in raw:
        return _read_calls(raw)
    roles = {name: entry["role"] for name, entry in raw.get("tensors", {}).items()}
    limits = {name: _named(entry) for name, entry in raw.get("tolerance", {}).items() if entry is not None}
    return Contents(".", roles, limits, {key: entry for key, entry in raw.items() if _is_weights(key, entry)})


def manifest_shapes(raw: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a full-size model in a manifest, which may hold them by themselves or among other things."""
    named = raw.get("params", raw.get("tensors", raw))
    return {name: tuple(shape) for name, shape in named.items()}


def _read_calls(raw: Mapping[str, Any]) -> Contents:
    """The form with calls. A limit belongs to all fractions, or to those whose names have a part that begins so."""
    tensors: Mapping[str, Any] = raw["io_tensors"]
    calls = {call: (entry or {}).get("inputs", ()) for call, entry in raw.get("calls", {}).items()}
    inputs = {f"{call}/{name}" for call, names in calls.items() for name in names}
    roles = {name: "input" if name in inputs else "" for name in tensors}
    by_part = dict(_worded(raw.get("tolerances", {})))
    limits = {}
    for name in (name for name, entry in tensors.items() if entry["dtype"].startswith("float")):
        fitting = [key for key in by_part if any(part.startswith(key) for part in name.split("/"))]
        if fitting:
            limits[name] = by_part[max(fitting, key=len)]
    return Contents("/", roles, limits, {"weights": {"file": WEIGHTS_FILE}})


def _is_weights(key: str, entry: Any) -> bool:
    return key.startswith("weights") and isinstance(entry, Mapping)


def _named(entry: Any) -> Limit:
    amounts: Mapping[str, Any] = {"max_abs": entry} if isinstance(entry, str) else entry
    absolute, relative = amounts["max_abs"], amounts.get("rel") or 0.0
    if isinstance(absolute, str):
        return Limit(relative=relative, per_step=absolute.removeprefix(_PER_STEP))
    return Limit(absolute, relative)


def _worded(tolerances: Mapping[str, Any]) -> Iterator[tuple[str, Limit]]:
    """Limits by part of a name: {"rtol": 1e-4, "atol": "2e-4*max|out|"}, {"grad": "rtol 2e-3, atol 1e-5*max|grad|"}."""
    amounts: dict[str, dict[str, Any]] = {}
    for key, entry in tolerances.items():
        part, _, kind = key.rpartition(" ")
        if kind in _IN_WORDS:
            amounts.setdefault(part, {})[kind] = _AMOUNT.match(str(entry))
        else:
            amounts[key] = {kind: pattern.search(str(entry)) for kind, pattern in _IN_WORDS.items()}
    for part, found in amounts.items():
        if any(found.values()):
            yield part, _limit(found.get("atol"), found.get("rtol"))


def _limit(absolute: re.Match[str] | None, relative: re.Match[str] | None) -> Limit:
    of_largest = absolute is not None and absolute["largest"] is not None
    amount = _amount(absolute)
    return Limit(0.0 if of_largest else amount, _amount(relative), amount if of_largest else 0.0)


def _amount(found: re.Match[str] | None) -> float:
    """A number, or a fraction such as 1/127.5."""
    if found is None:
        return 0.0
    above, _, below = str(found["number"]).partition("/")
    return float(Fraction(above) / Fraction(below or "1"))
