"""YAML by the rules of version 1.2, with no key written twice.

`1e-4` is a number, `no` and `2024-01-01` are texts, `010` is ten. PyYAML's own rules are those of 1.1, in which all
four are something else.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from ..errors import ConfigError

_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
DEEPEST = 100
"""Levels of lists and mappings inside each other; Python's own limit of recursion is changed by some libraries."""


def parse_yaml(text: str, place: str, is_file: bool = True) -> Any:
    """The value of a YAML text, None when it is empty.

    Raises: ConfigError that begins with `place`, with the line when the place is a file.
    """
    try:
        loader = _Loader(text)
        loader.name = place
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if is_file and error.problem_mark else ""
        raise ConfigError(f"{place}{line}: is not valid YAML ({error.problem})") from error
    except yaml.reader.ReaderError as error:
        raise ConfigError(f"{place}: is not valid YAML ({error.reason})") from error
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{place}: is not valid YAML ({error})") from error


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2, without doubled keys, and of limited depth."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._depth += 1
        if self._depth > DEEPEST:
            raise ConfigError(f"{self.name}: is nested too deeply")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(f"{self.name}:{line}: the name of a setting must be a text")
            if key.value in lines:
                raise ConfigError(f"{self.name}:{line}: {key.value} is set twice, first in line {lines[key.value]}")
            lines[key.value] = line
            if key.tag != _MERGE:
                key.tag = f"{_TAG}str"  # names are texts, also `1` and `true`
        return node


_SCALARS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),
)
_Loader.yaml_implicit_resolvers = {}  # SafeLoader's are those of YAML 1.1
for _name, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(f"^(?:{_pattern})$"), _first)
_Loader.add_constructor(_TAG + "int", lambda loader, node: int(node.value))
