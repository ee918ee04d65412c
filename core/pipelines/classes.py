"""Prompts that are classes: from their names or numbers to the numbers that a denoiser reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path

from ..conditioning.base import Note
from ..errors import ConfigError, MediaError
from ..io.files import MAX_TEXT_BYTES, read_written
from ..printable import short_name

NEAREST = 3
"""Names that a message proposes."""


@dataclass(frozen=True)
class Classes:
    """Those that a denoiser reads. Raises: ConfigError for more names than there are classes."""

    count: int
    names: tuple[str, ...] = ()
    """In the order of their numbers; fewer where it was trained on the first ones only, (): nobody knows them."""
    where: str = ""
    """What says the names, for messages."""

    def __post_init__(self) -> None:
        if len(self.names) > self.count:
            raise ConfigError(f"{self.where}: names {len(self.names)} classes, and the model has {self.count}")

    def number(self, text: str, note: Note = lambda line: None) -> int:
        """Of the class of a number or a name, upper and lower case alike.

        note: is told where a number is the name of another class. Raises: ConfigError for what is no class.
        """
        wanted = text.strip()
        if not wanted.lstrip("-").isdecimal():
            return self._named(wanted)
        if not wanted.isdecimal() or len(wanted) > 9 or int(wanted) >= self.count:
            raise ConfigError(f"class {short_name(wanted)}: the model has classes 0 to {self.count - 1}")
        number = int(wanted)
        if wanted in self.names and self.names.index(wanted) != number:
            named = f", {short_name(self.names[number])}" if number < len(self.names) else ""
            note(
                f"{wanted} is read as the number of a class{named}; the class of this name has the number "
                f"{self.names.index(wanted)}"
            )
        return number

    def _named(self, wanted: str) -> int:
        numbers = self._numbers.get(wanted.casefold(), [])
        if len(numbers) > 1:
            several = " and ".join(map(str, numbers))
            raise ConfigError(f"class {short_name(wanted)!r}: is the name of classes {several}; write the number")
        if numbers:
            return numbers[0]
        if not self.names:
            raise ConfigError(
                f"class {short_name(wanted)!r}: the model has classes 0 to {self.count - 1}, whose names nobody knows; "
                "write the number, or set prompts.classes to a file of their names"
            )
        near = get_close_matches(wanted.casefold(), self._numbers, n=NEAREST, cutoff=0.0)
        raise ConfigError(
            f"class {short_name(wanted)!r}: there is none of this name; the nearest are "
            f"{', '.join(short_name(name) for name in near)} (of classes 0 to {self.count - 1})"
        )

    @cached_property
    def _numbers(self) -> dict[str, list[int]]:
        """By whole names, and by each of several that a comma parts."""
        found: dict[str, list[int]] = {}
        for number, name in enumerate(self.names):
            for each in {name.strip().casefold(), *(part.strip().casefold() for part in name.split(","))} - {""}:
                found.setdefault(each, []).append(number)
        return found


def read_class_names(path: Path, count: int) -> tuple[str, ...]:
    """The names in a file, in the order of their numbers: a line each, or the texts of a JSON list.

    count: of the classes. Raises: MediaError for a file that is missing, or holds others than so many names.
    """
    text = read_written(path, MediaError, MAX_TEXT_BYTES)
    if path.suffix.lower() != ".json":
        names: Sequence[object] = [line.strip() for line in text.splitlines() if line.strip()]
    else:
        try:
            names = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise MediaError(f"{path}: is no JSON ({error})") from error
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise MediaError(f"{path}: expected the names of the classes, a line each, or a JSON list of texts")
    if len(names) != count:
        raise MediaError(f"prompts.classes = {path}: names {len(names)} classes, and the model has {count}")
    return tuple(map(str, names))
