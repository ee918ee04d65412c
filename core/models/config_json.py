"""Strict reading of the models' config.json: every key is taken, checked and accounted for."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, TypeVar

from ..errors import ConfigError

T = TypeVar("T")

# What diffusers and its EMA wrapper write beside the model's own keys.
_BOOKKEEPING = (
    *("_class_name", "_diffusers_version", "_name_or_path", "decay", "min_decay", "optimization_step"),
    *("update_after_step", "use_ema_warmup", "inv_gamma", "power"),
)
_REQUIRED = object()


def take(rest: dict[str, Any], source: str, key: str, kind: type[T], default: Any = _REQUIRED) -> T:
    """Remove a key from `rest` and return its value, of the given type. Raises ConfigError when it does not fit."""
    if key not in rest:
        if default is _REQUIRED:
            raise ConfigError(f"{source}: {key} is missing")
        return default
    value = rest.pop(key)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f"{source}: {key} = {value!r}: needs {_ARTICLES.get(kind, kind.__name__)}")
    return value


def choice(rest: dict[str, Any], source: str, key: str, allowed: Sequence[Any], default: Any = _REQUIRED) -> Any:
    """Remove a key from `rest` and return its value, one of `allowed`. Raises ConfigError naming what is
    implemented."""
    if key not in rest:
        if default is _REQUIRED:
            raise ConfigError(f"{source}: {key} is missing")
        return default
    value = rest.pop(key)
    if not any(value == option and isinstance(value, bool) == isinstance(option, bool) for option in allowed):
        options = " or ".join(dict.fromkeys(str(option) for option in allowed))
        raise ConfigError(f"{source}: {key} = {value!r}: duosora implements {options}")
    return value


def refuse_unknown(rest: dict[str, Any], source: str, known: Sequence[str] = ()) -> None:
    """Raises ConfigError for a key that nothing took, naming the nearest known one."""
    for key in rest:
        if key in _BOOKKEEPING:
            continue
        near = difflib.get_close_matches(key, known, n=1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{source}: {key}: unknown key{hint}")


_ARTICLES: dict[type, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    str: "a text",
}
