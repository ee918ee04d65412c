"""Filling in what nobody has set, and what to say of where each value came from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Set
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError

from ..errors import CheckpointError
from ..printable import short_name
from .settings import BY_RECIPE, Settings, list_settings, read, takes_none

Config = TypeVar("Config", bound=Settings)
SPEAKERS = RECIPE, RUN, FILE, OVERRIDE = "recipe", "run", "file", "--set"
"""Who may say the value of a setting; who comes later has the last word."""
SHOWN_ELSEWHERE = ("prompts.sources",)
"""Settings that a plan has a line of its own for."""
_LONGEST = 40


class Said(NamedTuple):
    """Values of settings by their paths, and who says them."""

    who: str
    """RECIPE or RUN."""
    name: str
    values: Mapping[str, Any]


class Filling(NamedTuple):
    """A value for a setting that nobody has set."""

    value: Any
    by: Said


def wishes(said: tuple[Said, ...]) -> dict[str, Filling]:
    """What all say together; who comes later has the last word."""
    return {path: Filling(value, each) for each in said for path, value in each.values.items()}


def is_set(config: Settings, path: str) -> bool:
    """Whether a setting was given, and not by default."""
    *_, group = _groups(config, path)
    given = group.model_fields_set if isinstance(group, Settings) else group or ()
    return path.rpartition(".")[2] in given


def value_at(config: Settings, path: str) -> Any:
    """The value of a setting; None in a group that is left out."""
    *_, group = _groups(config, path)
    return None if group is None else getattr(group, path.rpartition(".")[2])


def fill(config: Config, wished: Mapping[str, Filling]) -> Config:
    """Settings with values where nobody has set any; groups that are left out stay so.

    Raises: CheckpointError for a value that the setting cannot have, as damaged records of runs hold.
    """
    dumped = config.model_dump(mode="json", exclude_unset=True)
    for path, wish in wished.items():
        if is_set(config, path) or None in _groups(config, path):
            continue
        group = dumped
        *names, name = path.split(".")
        for key in names:
            group = group.setdefault(key, {})
        group[name] = wish.value
    try:
        return read(type(config), dumped)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        path = ".".join(map(str, detail["loc"]))
        by = wished[path].by
        raise CheckpointError(
            f"{by.who} {by.name}: {path} = {short_name(str(detail['input']))!r}, which no setting can be"
        ) from error


def lacking(config: Settings, besides: tuple[str, ...] = ()) -> list[str]:
    """The settings that need a value and have none. besides: beginnings of paths that need none here."""
    return [
        path
        for path, group in _by_recipe(config)
        if not path.startswith(besides)
        and _value(group, path) is None
        and not takes_none(type(group).model_fields[_name(path)])
        and _name(path) not in unused(group)
    ]


def unused(group: Settings) -> Set[str]:
    """What a group's choice has no use for; nothing as long as it is not made."""
    chosen = getattr(group, group.choice) if group.choice else None
    return group.unused(chosen) if chosen is not None else frozenset()


def origins(config: Settings, given: Settings, wished: Mapping[str, Filling], overrides: Set[str]) -> list[str]:
    """Where values came from that recipes can say, or that stand beside such: a line for each who said some.

    given: the settings before they were filled in. overrides: the paths that the command line set.
    """
    told: dict[tuple[str, str], list[str]] = {}
    for path in _beside_recipes(config):
        is_group = isinstance(value_at(config, path), Settings)  # whose own settings have paths
        if not is_group and (is_set(given, path) or _wish(path, wished)):
            told.setdefault(_speaker(path, given, wished, overrides), []).append(path)
    speakers = sorted(told, key=lambda speaker: SPEAKERS.index(speaker[0]))
    return [f"{who:<10} {f'{name}: ' if name else ''}{_listed(config, told[who, name])}" for who, name in speakers]


def _speaker(path: str, given: Settings, wished: Mapping[str, Filling], overrides: Set[str]) -> tuple[str, str]:
    wish = _wish(path, wished)
    if wish is not None and not is_set(given, path):
        return wish.by.who, wish.by.name
    return (OVERRIDE if any(f"{path}.".startswith(f"{each}.") for each in overrides) else FILE), ""


def _wish(path: str, wished: Mapping[str, Filling]) -> Filling | None:
    """That for a setting, or for an entry of it where it is a table."""
    return next((wish for wished_path, wish in wished.items() if f"{wished_path}.".startswith(f"{path}.")), None)


def _listed(config: Settings, paths: list[str]) -> str:
    """Values in the order of the schema, the name of a group said once."""
    groups: dict[str, list[str]] = {}
    for path in paths:
        groups.setdefault(path.rpartition(".")[0], []).append(f"{_name(path)} {_shown(value_at(config, path))}")
    return "; ".join(f"{group} {', '.join(texts)}" if group else ", ".join(texts) for group, texts in groups.items())


def _shown(value: Any) -> str:
    if isinstance(value, str) and value.isidentifier():
        return value
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST else short_name(f"{text[: _LONGEST - 4]}...")


def _by_recipe(config: Settings) -> Iterator[tuple[str, Settings]]:
    """Every setting that recipes can say, with the group that it is in, where that is there."""
    for setting in list_settings(type(config)):
        *_, group = _groups(config, setting.path)
        if setting.default is BY_RECIPE and isinstance(group, Settings):
            yield setting.path, group


def _beside_recipes(config: Settings) -> Iterator[str]:
    """Every setting that recipes can say, and those of the same groups, of which they make or change these."""
    groups = {path.rpartition(".")[0] for path, _ in _by_recipe(config)}
    by_recipe = {path for path, _ in _by_recipe(config)}
    for setting in list_settings(type(config)):
        group = setting.path.rpartition(".")[0]
        if setting.path in by_recipe or (group and group in groups and setting.path not in SHOWN_ELSEWHERE):
            yield setting.path


def _groups(config: Settings, path: str) -> list[Settings | dict[str, Any] | None]:
    """The settings, and all groups down to the one or the table that holds a path; None from one that is left out."""
    groups: list[Settings | dict[str, Any] | None] = [config]
    for name in path.split(".")[:-1]:
        groups.append(getattr(groups[-1], name, None))
    return groups


def _value(group: Settings, path: str) -> Any:
    return getattr(group, _name(path))


def _name(path: str) -> str:
    return path.rpartition(".")[2]
