"""Paths that people write, in settings, arguments and files: `~` is expanded, and what cannot be a path is refused."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..printable import short_name

NAME_BYTES, PATH_BYTES = 255, 4095
"""What Linux takes; everything beyond is OSError or, in some calls, nothing at all."""
_ADDRESS = re.compile(r"[A-Za-z][\w+.-]*://")
_VARIABLE = re.compile(r"\$(?:[A-Za-z_]\w*|\{[^}]*\}?|\([^)]*\)?)")


def given_path(text: str | os.PathLike[str]) -> Path:
    """The path of a text that a person wrote.

    A `$` stays where a file or folder of that name exists. Raises: ValueError, beginning with the text, for a variable
    of a shell, the home of an unknown user, an address on the network, a NUL, text that is no UTF-8, and names that no
    file system takes.
    """
    written = os.fspath(text)
    if _ADDRESS.match(written):
        raise ValueError(f"{short_name(written)}: is an address; download what is there, and write the file's path")
    if "\0" in written:
        raise ValueError(f"{short_name(written)}: holds a NUL character, which no path can have")
    path = os.path.expanduser(written)
    try:
        raw = path.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{short_name(written)}: is not valid text at character {error.start + 1}; rename the file"
        ) from error
    longest = max(map(len, raw.split(b"/")))
    if longest > NAME_BYTES or len(raw) > PATH_BYTES:
        raise ValueError(f"{short_name(written)}: is too long for a path ({max(longest, len(raw))} bytes)")
    if path.startswith("~") and not os.path.lexists(path):
        user = path.split("/")[0]
        raise ValueError(
            f"{short_name(written)}: there is no user {user[1:]!r}; write the path out, or ./{user} for a file of that "
            "name"
        )
    variable = _unexpanded(path)
    if variable:
        raise ValueError(f"{short_name(written)}: holds {variable}, which only a shell replaces; write the path out")
    return Path(path)


def _unexpanded(path: str) -> str | None:
    """The first variable in the path that is no part of an existing name."""
    for found in _VARIABLE.finditer(path):
        end = path.find("/", found.end())
        if not os.path.lexists(path[: end if end >= 0 else None]):
            return found.group()
    return None
