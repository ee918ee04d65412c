"""Text of strangers as one line of a terminal: names of tensors, keys, paths, captions and messages of libraries.

Whatever reaches a terminal goes through `say`, the tables of `core.cli.tables` or the bars of `core.progress`.
"""

from __future__ import annotations

import sys
from typing import TextIO

MAX_LINE = 1000
"""Characters of a message; whoever needs more has a file to look at."""
MAX_NAME = 160
"""Characters of a name inside a message."""
_CUT = " ... "


def say(*lines: object, file: TextIO | None = None) -> None:
    """Print lines, above the bars where there are any, each as `printable` makes it; file None: stdout."""
    from tqdm import tqdm

    for line in lines:
        tqdm.write(printable(line), file=file or sys.stdout)
    (file or sys.stdout).flush()


def printable(text: object, limit: int = MAX_LINE) -> str:
    """The text on one line of at most `limit` characters, with blanks as they are.

    Control characters, escape sequences, marks that turn the direction of writing, and surrogates are written as Python
    escapes, so that they cannot move the cursor or hide a part of the line. What is too long loses its middle.
    """
    whole = str(text)
    ends = whole if len(whole) <= 2 * limit else whole[:limit] + whole[-limit:]  # what is cut out is not looked at
    shown = "".join(map(_shown, ends))
    if len(shown) <= limit:
        return shown
    end = (limit - len(_CUT)) // 3
    return shown[: limit - len(_CUT) - end] + _CUT + shown[len(shown) - end :]


def one_line(text: object, limit: int = MAX_LINE) -> str:
    """The same for a message: runs of blanks and line ends become one blank."""
    return printable(" ".join(str(text).split()), limit)


def short_name(name: object) -> str:
    """The same for a name inside a message."""
    return one_line(name, MAX_NAME)


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
