"""YAML by the rules of version 1.2, with no key written twice.

`1e-4` is a number, `no` and `2024-01-01` are texts, `010` is ten. PyYAML's own rules are those of 1.1, in which all
four are something else.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from ..errors import ConfigError
from ..printable import short_name

_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
DEEPEST = 100
"""Levels of lists and mappings inside each other; Python's own limit of recursion is changed by some libraries."""
LONGEST = 1_000_000
"""Characters of a text; PyYAML reads about 200,000 in a second."""
MOST = 2_000_000
"""Characters when every alias is written out: a few lines can stand for gigabytes."""
NODE = 40
"""As so many characters a value counts, beside its own."""


def parse_yaml(text: str, place: str, is_file: bool = True) -> Any:
    """The value of a YAML text, None when it is empty.

    Raises: ConfigError that begins with `place`, with the line when the place is a file.
    """
    if len(text) > LONGEST:
        raise ConfigError(f"{place}: has more than {LONGEST} characters; long lists belong into files of their own")
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
        line = f":{text.count(chr(10), 0, error.position) + 1}" if is_file else ""
        raise ConfigError(f"{place}{line}: is not valid YAML ({error.reason})") from error
    except RecursionError as error:
        raise ConfigError(f"{place}: is nested too deeply") from error


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2 and no other tags, without doubled keys, of limited depth and size."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._size = 0
        self._sizes: dict[yaml.Node, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        event, before = self.peek_event(), self._size
        self._depth += 1
        if self._depth > DEEPEST:
            raise ConfigError(f"{self.name}: is nested too deeply")
        node: Any = super().compose_node(parent, index)
        self._depth -= 1
        if not isinstance(event, yaml.AliasEvent):
            self._size += NODE + (len(node.value) if isinstance(node, yaml.ScalarNode) else 0)
            self._sizes[node] = self._size - before
        elif node in self._sizes:
            self._size += self._sizes[node]
        else:
            raise self._wrong(event, f"*{event.anchor} is inside what it stands for")
        if self._size > MOST:
            most = f"at most {MOST // NODE} values or {MOST} characters"
            raise self._wrong(event, f"holds too much: {most}, with every alias written out")
        return node

    def compose_scalar_node(self, anchor: Any) -> Any:
        node = super().compose_scalar_node(anchor)
        pattern = _PATTERNS.get(node.tag)
        if pattern and not pattern.match(node.value):
            raise self._wrong(node, f"{short_name(node.value)!r} is not {_shown_tag(node)}")
        try:
            # JSON writes a character beyond the first 65536 as two surrogates.
            node.value = node.value.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError as error:
            raise self._wrong(node, f"{short_name(node.value)} is not valid text (a lone surrogate)") from error
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for number, (key, value) in enumerate(node.value):
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise self._wrong(key, "the name of a setting must be a text")
            if key.value in lines:
                name = short_name(key.value)
                raise self._wrong(key, f"{name} is set twice, first in line {lines[key.value]}")
            lines[key.value] = line
            if key.tag != _MERGE:  # names are texts, also `1` and `true`; an alias stays what it is elsewhere
                text = yaml.ScalarNode(f"{_TAG}str", key.value, key.start_mark, key.end_mark)
                node.value[number] = (text, value)
        return node

    def construct_undefined(self, node: Any) -> Any:
        raise self._wrong(node, f"{_shown_tag(node)} is not read; write a text, number, list or mapping")

    def construct_whole_number(self, node: Any) -> int:
        try:
            return int(self.construct_scalar(node))
        except ValueError as error:
            raise self._wrong(node, f"{short_name(node.value)} has too many digits") from error

    def _wrong(self, at: Any, what: str) -> ConfigError:
        return ConfigError(f"{self.name}:{at.start_mark.line + 1}: {what}")


def _shown_tag(node: yaml.Node) -> str:
    return short_name(node.tag.replace(_TAG, "!!"))


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
_PATTERNS = {_TAG + name: re.compile(rf"^(?:{pattern})\Z") for name, pattern, _ in _SCALARS}
_Loader.yaml_implicit_resolvers = {}  # SafeLoader's are those of YAML 1.1
for _name, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(_TAG + _name, _PATTERNS[_TAG + _name], _first)
_READ = [_TAG + name for name in ("null", "bool", "float", "str", "seq", "map")]
_Loader.yaml_constructors = {tag: yaml.SafeLoader.yaml_constructors[tag] for tag in _READ}
_Loader.add_constructor(_TAG + "int", _Loader.construct_whole_number)
_Loader.add_constructor(None, _Loader.construct_undefined)
