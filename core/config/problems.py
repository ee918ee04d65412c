"""What is wrong with settings, in one line: pydantic's list of errors in the words and places of the user."""

from __future__ import annotations

import json
from difflib import get_close_matches
from itertools import groupby
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from ..printable import short_name
from .settings import Settings, list_settings

Keys = tuple[str, ...]

MOST_PROBLEMS = 20
"""That are told; a list of the wrong kind can have as many as entries."""


def place_of(override: str) -> str:
    """An override as it begins an error line."""
    return f"--set {short_name(override)}"


def describe_problems(
    place: str, given: list[tuple[Keys, str]], schema: type[Settings], values: Any, error: ValidationError
) -> str:
    """All that is wrong, each setting once, each place named once in front of what is wrong there."""
    problems: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for detail in error.errors(include_url=False):
        if len(problems) > MOST_PROBLEMS:
            break
        problems.setdefault(_path(detail, values), []).append(dict(detail))
    lines = []
    for path, details in problems.items():
        text = _problem(schema, path, details)
        override = next((text for keys, text in reversed(given) if _concerns(keys, path)), None)
        if override is None:
            lines.append((place, f"{'.'.join(path)}: {text}" if path else text))
        else:
            is_named = override.partition("=")[0].strip() == ".".join(path)
            lines.append((place_of(override), text if is_named else f"{'.'.join(path)}: {text}"))
    grouped = groupby(lines, key=lambda line: line[0])
    return "; ".join(f"{where}: {'; '.join(text for _, text in texts)}" for where, texts in grouped)


def _concerns(keys: Keys, path: tuple[str, ...]) -> bool:
    """Whether an override of `keys` made or touched the setting at `path`."""
    return path[: len(keys)] == keys or keys[: max(len(path), 1)] == path


def _path(detail: Any, values: Any) -> tuple[str, ...]:
    """Where an error is, without the names of a union's members, which pydantic mixes in and which lead nowhere."""
    path: list[str] = []
    held = values
    for step in detail["loc"]:
        if isinstance(held, dict):
            held = {str(key): value for key, value in held.items()}  # to YAML, 51 is no text
        if (isinstance(held, dict) and step in held) or (isinstance(held, list) and isinstance(step, int)):
            held = held[step]
            path.append(str(step))
        elif detail["type"] == "missing":
            path.append(str(step))
    return tuple(path)


def _problem(schema: type[Settings], path: tuple[str, ...], details: list[dict[str, Any]]) -> str:
    first = details[0]
    if first["type"] == "extra_forbidden":
        return _unknown(schema, path)
    if first["type"] == "missing":
        return "is missing and has no default"
    if first["type"] in ("value_error", "assertion_error"):
        return str(first["ctx"]["error"])
    if any(detail["type"] == "model_type" for detail in details):
        return _scalar_for_group(schema, path, first["input"])
    expected = " or ".join(dict.fromkeys(_expected(detail) for detail in details))
    return f"expected {expected}, got {shown(first['input'])}"


def _scalar_for_group(schema: type[Settings], path: tuple[str, ...], value: Any) -> str:
    """What to say where a value stands for a group: the settings in it that take such a value, and all that it has."""
    group = _groups_at(schema, path)[0]
    near = {name: fit for name in group.model_fields for fit in _fitting(group, name, value)[:1]}
    if len(near) < len(group.model_fields):  # else it may be meant for all of them, as a dtype is
        near = dict(list(near.items())[:1])
    meant = " or ".join(f"{'.'.join((*path, name))}={_written(fit)}" for name, fit in near.items())
    meant = f"did you mean {meant}? It has" if near else "it has"
    return f"expected settings inside it, got {shown(value)}; {meant} {', '.join(group.model_fields)}"


def _accepts(group: type[BaseModel], name: str, value: Any) -> bool:
    try:
        group.model_validate_json(json.dumps({name: value}))
    except ValidationError as error:
        return all(detail["loc"][0] != name for detail in error.errors())
    return True


def _fitting(group: type[BaseModel], name: str, value: Any) -> list[Any]:
    """The value, and a list of it alone, where a setting takes it so."""
    return [fit for fit in (value, [value]) if _accepts(group, name, fit)]


def _written(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    return value if isinstance(value, str) else json.dumps(value)


def _unknown(schema: type[Settings], path: tuple[str, ...]) -> str:
    names = _names_beside(schema, path)
    near = get_close_matches(path[-1], names, n=1)
    if near:
        return f"unknown key, did you mean {near[0]!r}?"
    elsewhere = [line.path for line in list_settings(schema) if line.path.split(".")[-1] == path[-1]]
    if elsewhere:
        return f"unknown key, did you mean {elsewhere[0]!r}?"
    return f"unknown key; known are {', '.join(names)}"


def _names_beside(schema: type[Settings], path: tuple[str, ...]) -> list[str]:
    """The names that may stand where the last one of the path stands."""
    return [name for group in _groups_at(schema, path[:-1]) for name in group.model_fields]


def _groups_at(schema: type[Settings], path: tuple[str, ...]) -> list[type[BaseModel]]:
    """The groups that may stand at a path."""
    groups: list[type[BaseModel]] = [schema]
    for key in path:
        fields = [group.model_fields[key] for group in groups if key in group.model_fields]
        if fields:  # else the key is a place in a list of groups
            groups = [group for field in fields for group in _groups_in(field.annotation)]
    return groups


def _groups_in(annotation: Any) -> list[type[BaseModel]]:
    """The groups of settings anywhere in a type, as in `Tiles | None` and `tuple[Dataset, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [group for part in get_args(annotation) for group in _groups_in(part)]


_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "a text",
    "model_type": "settings inside it",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "greater_than_equal": "at least {ge}",
    "greater_than": "more than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
    "literal_error": "{expected}",
    "too_short": "at least {min_length} entries",
    "too_long": "at most {max_length} entries",
}


def _expected(detail: dict[str, Any]) -> str:
    phrase = _EXPECTED.get(detail["type"])
    if phrase is None:
        return str(detail["msg"]).removeprefix("Input should be ")
    return phrase.format(**detail.get("ctx", {}))


def shown(value: Any) -> str:
    """A value as the user wrote it, short enough for an error line."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False)
        return f"the text {text if len(text) <= 60 else text[:57] + '...' + text[0]}"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return json.dumps(value)[:60]
