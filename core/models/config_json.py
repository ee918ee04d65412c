"""Strict reading of the models' config.json: every key is taken, checked and accounted for.

What is a size has a limit, about ten times that of the largest published model: a layout is only made of sizes that can
be meant, as a wrong one would take gigabytes for the names of its weights.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, TypeVar

from ..errors import ConfigError
from ..printable import short_name

T = TypeVar("T")

# What diffusers, transformers and the EMA wrapper write beside the model's own keys.
_BOOKKEEPING = (
    *("_class_name", "_diffusers_version", "_name_or_path", "decay", "min_decay", "optimization_step"),
    *("update_after_step", "use_ema_warmup", "inv_gamma", "power"),
    *("architectures", "dtype", "torch_dtype", "transformers_version"),
)
_REQUIRED: Any = object()


def take(rest: dict[str, Any], source: str, key: str, kind: type[T], default: Any = _REQUIRED) -> T:
    """Remove a key from `rest` and return its value, of the given type. Raises ConfigError when it does not fit."""
    value = _pop(rest, source, key, default)
    if not isinstance(value, kind):
        raise _unfit(source, key, value, f"needs {_ARTICLES.get(kind, kind.__name__)}")
    return value


def count(rest: dict[str, Any], source: str, key: str, most: int, default: int = _REQUIRED, *, least: int = 1) -> int:
    """The same for a whole number from `least` to `most`; 2.0 is one."""
    return whole_number(_pop(rest, source, key, default), source, key, most, least)


def whole_number(value: Any, source: str, key: str, most: int, least: int = 1) -> int:
    """A value that was taken from a key, as a whole number. Raises ConfigError."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not least <= value <= most or value != int(value):
        raise _unfit(source, key, value, f"needs a whole number from {least} to {most}")
    return int(value)


def number(rest: dict[str, Any], source: str, key: str, least: float, most: float, default: float = _REQUIRED) -> float:
    """The same for any number from `least` to `most`."""
    return _number(_pop(rest, source, key, default), source, key, least, most)


def numbers(
    rest: dict[str, Any], source: str, key: str, least: float, most: float, default: list[float]
) -> tuple[float, ...]:
    """The same for a list of numbers."""
    return tuple(_number(value, source, key, least, most) for value in take(rest, source, key, list, default))


def choice(rest: dict[str, Any], source: str, key: str, allowed: Sequence[Any], default: Any = _REQUIRED) -> Any:
    """Remove a key from `rest` and return its value, or the default, one of `allowed`. Raises ConfigError naming what
    is implemented."""
    value = _pop(rest, source, key, default)
    if not any(value == option and isinstance(value, bool) == isinstance(option, bool) for option in allowed):
        options = " or ".join(dict.fromkeys(str(option) for option in allowed))
        raise _unfit(source, key, value, f"duosora implements {options}")
    return value


def build(spec: type[T], source: str, **fields: Any) -> T:
    """A spec of values that were taken. Raises ConfigError, naming the file, for those that do not go together."""
    try:
        return spec(**fields)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error


def refuse_unknown(rest: dict[str, Any], source: str, known: Sequence[str] = ()) -> None:
    """Raises ConfigError for a key that nothing took, naming the nearest known one."""
    for key in rest:
        if key in _BOOKKEEPING:
            continue
        near = difflib.get_close_matches(key, known, n=1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{source}: {short_name(key)}: unknown key{hint}")


_ARTICLES: dict[type, str] = {bool: "true or false", list: "a list"}


def _pop(rest: dict[str, Any], source: str, key: str, default: Any) -> Any:
    if key in rest:
        return rest.pop(key)
    if default is _REQUIRED:
        raise ConfigError(f"{source}: {key} is missing")
    return default


def _number(value: Any, source: str, key: str, least: float, most: float) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not least <= value <= most:  # neither do NaN nor infinity
        raise _unfit(source, key, value, f"needs a number from {least:g} to {most:g}")
    return float(value)


def _unfit(source: str, key: str, value: Any, wish: str) -> ConfigError:
    # The text of a list or an object may be long, and too deep to be made.
    shown = "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else short_name(repr(value))
    return ConfigError(f"{source}: {key} = {shown}: {wish}")
