"""Text of strangers as one line of a terminal: names of tensors, keys, paths, captions and messages of libraries."""

from __future__ import annotations

MAX_LINE = 1000
"""Characters of a message; whoever needs more has a file to look at."""
MAX_NAME = 160
"""Characters of a name inside a message."""
_CUT = " ... "


def one_line(text: object, limit: int = MAX_LINE) -> str:
    """The text on one line of at most `limit` characters.

    Runs of blanks and line ends become one blank. Control characters, escape sequences, marks that turn the direction
    of writing, and surrogates are written as Python escapes, so that they cannot move the cursor or hide a part of the
    line. What is too long loses its middle.
    """
    shown = "".join(_shown(character) for character in " ".join(str(text).split()))
    if len(shown) <= limit:
        return shown
    end = (limit - len(_CUT)) // 3
    return shown[: limit - len(_CUT) - end] + _CUT + shown[len(shown) - end :]


def short_name(name: object) -> str:
    """The same for a name inside a message."""
    return one_line(name, MAX_NAME)


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
