"""From a YAML file and overrides `--set a.b=c` to settings; every error is one line with its place."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from ..errors import ConfigError
from ..io.files import read_written
from ..parallel.launched import launched
from ..printable import one_line
from .beside import found_beside
from .problems import Keys, describe_problems, place_of, shown
from .settings import Settings, group_in, read
from .shipped import settings_file
from .yaml12 import parse_yaml

log = logging.getLogger("duosora")
Schema = TypeVar("Schema", bound=Settings)


def load(path: str | os.PathLike[str] | None, schema: type[Schema], overrides: Sequence[str] = ()) -> Schema:
    """Settings from a YAML file (None: from the defaults) with overrides `a.b=c`; c is YAML, a later one wins.

    path: of a file, or the name of one that comes with duosora (core.config.shipped). Relative paths inside it are read
    as core.config.beside says.
    Raises: ConfigError naming the file (or the override), the setting, what was expected and what came, for all wrong
    settings.
    """
    values: Any = {}
    if path is not None:
        file = settings_file(Path(path))
        values = read_values(file)
        if values.keys() - schema.model_fields.keys():
            from .verbs import refuse_other_verbs  # not at the top: the settings of all verbs take long to import

            refuse_other_verbs(file, values.keys(), schema)
        values = found_beside(values, schema, file.parent)
    given: list[tuple[Keys, str]] = []
    changes = [(override, *_read_override(override)) for override in overrides]
    if path is not None:
        for _, keys, value in changes:
            _leave_out_unused(values, schema, keys, value, str(path))
    place = "settings" if path is None else str(path)
    for override, keys, value in changes:
        try:
            _put(values, keys, value, place_of(override))
        except ConfigError:
            _checked(values, schema, given, place)  # a value in the place of a group is what there is to tell
            raise
        given.append((keys, override))
    return _checked(values, schema, given, place)


def _checked(values: Any, schema: type[Schema], given: list[tuple[Keys, str]], place: str) -> Schema:
    """The settings that these values are. Raises: ConfigError for all that is wrong."""
    try:
        values = schema.written_out(values)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error
    try:
        return read(schema, values)
    except ValidationError as error:
        raise ConfigError(describe_problems(place, given, schema, values, error)) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{place}: holds a value that is no text, number, list or mapping ({error})") from error


def changed(settings: Schema, changes: Mapping[str, Any]) -> Schema:
    """Settings with other values at dotted paths, for those who hold them in Python; as load does with overrides.

    Raises: ConfigError.
    """
    schema, values = type(settings), settings.model_dump(mode="json", exclude_unset=True)
    for path, value in changes.items():
        keys = tuple(path.split("."))
        _leave_out_unused(values, schema, keys, value, "the settings before")
        _put(values, keys, value, "settings")
    return _checked(values, schema, [], "settings")


def override_paths(overrides: Sequence[str]) -> frozenset[str]:
    """The dotted paths that overrides set."""
    return frozenset(override.partition("=")[0].strip() for override in overrides)


def read_values(path: Path) -> dict[str, Any]:
    """What stands in a YAML file of settings, of whatever verb. Raises: ConfigError."""
    values = parse_yaml(read_written(path, ConfigError), str(path))
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected settings such as `seed: 1`, got {shown(values)}")
    return values


def _read_override(override: str) -> tuple[Keys, Any]:
    path, equals, text = override.partition("=")
    keys = tuple(path.strip().split("."))
    if not equals or not all(keys):
        raise ConfigError(f"{place_of(override)}: expected name=value, such as sampler.steps=30")
    if not text.strip():
        return keys, ""  # a shell takes the quotes off name="", and who means nothing can say null
    try:
        return keys, parse_yaml(text, place_of(override), is_file=False)
    except ConfigError as error:
        raise ConfigError(f"{error}; a text with signs of YAML needs quotes inside the argument") from error


def _leave_out_unused(values: dict[str, Any], schema: type[Settings], keys: Keys, chosen: Any, place: str) -> None:
    """Remove, with a note, what a file sets beside a choice that an override changes and that has no use any more."""
    group: dict[str, Any] = values
    kind: type[Settings] | None = schema
    for key in keys[:-1]:
        field = kind.model_fields.get(key) if kind else None
        kind = group_in(field.annotation) if field else None
        if kind is None or not isinstance(group.get(key), dict):
            return
        group[key] = group = dict(group[key])  # a copy: with a YAML alias the same group stands elsewhere too
    if kind is None or keys[-1] != kind.choice or not isinstance(chosen, str) or group.get(keys[-1]) == chosen:
        return
    for name in sorted(kind.unused(chosen) & {name for name, value in group.items() if value is not None}):
        setting = ".".join((*keys[:-1], name))
        _note(f"{setting} = {_written(group.pop(name))} in {place} is left out: {chosen} has no use for it")


def _written(value: Any) -> str:
    return one_line(json.dumps(value, default=str))


def _note(line: str) -> None:
    """Tell it once, however many processes read the same settings."""
    if launched().rank == 0:
        log.info(line)


def _put(values: dict[str, Any], keys: Keys, value: Any, place: str) -> None:
    """Set a value inside nested groups, which are made where they are missing."""
    group = values
    for depth, key in enumerate(keys[:-1], start=1):
        if group.get(key) is None:
            group[key] = {}
        if not isinstance(group[key], dict):
            held = shown(group[key])
            raise ConfigError(f"{place}: {'.'.join(keys[:depth])} is {held} and has no settings inside")
        group[key] = dict(group[key])  # a copy: with a YAML alias the same group stands elsewhere too
        group = group[key]
    group[keys[-1]] = value
