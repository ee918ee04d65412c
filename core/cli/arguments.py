"""What all verbs do with their arguments before they begin: paths are read, and other encodings refused."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import typer
from typer.models import OptionInfo

from ..errors import ConfigError
from ..printable import short_name


def read_paths(app: typer.Typer) -> None:
    """Let every verb of a command, and of the groups inside it, take its paths as `core.io.paths` reads them."""
    for command in app.registered_commands:
        if command.callback is not None:
            command.callback = _with_paths(command.callback)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            read_paths(group.typer_instance)


def lora_override(files: Sequence[str] | None) -> list[str]:
    """The values of --lora as a `--set`; nothing where there are none."""
    return [f"model.lora={json.dumps(list(files))}"] if files else []


def refuse_other_encodings(arguments: Sequence[str]) -> None:
    """Raises: ConfigError for an argument whose bytes are no UTF-8, which Python hands on as lone surrogates."""
    for number, argument in enumerate(arguments, start=1):
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(
                f"argument {number} ({short_name(argument)}): is not UTF-8 at character {error.start + 1}; "
                "write it in UTF-8, and rename files of such a name"
            ) from error


def _with_paths(verb: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(verb)
    def run(**arguments: Any) -> Any:
        return verb(**{name: _read(verb, name, value) for name, value in arguments.items()})

    return run


def _read(verb: Callable[..., Any], name: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_read(verb, name, each) for each in value]
    if not isinstance(value, Path):
        return value
    from ..io.paths import given_path

    try:
        return given_path(value)
    except ValueError as error:
        raise ConfigError(f"{_shown(verb, name)}: {error}") from error


def _shown(verb: Callable[..., Any], name: str) -> str:
    """A parameter as the user knows it: --json of `report`, or PATH of `path`."""
    hint = get_type_hints(verb, include_extras=True)[name]
    option = next((each for each in getattr(hint, "__metadata__", ()) if isinstance(each, OptionInfo)), None)
    if option is None:
        return name.upper()
    names = [str(each) for each in (option.default, *(option.param_decls or ()))]  # the first one is put in `default`
    return next((each for each in names if each.startswith("--")), f"--{name.replace('_', '-')}")
