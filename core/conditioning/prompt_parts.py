"""A prompt taken apart: its texts, and the references that it names itself."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Segments:
    """Texts, each for the loops from its start on."""

    texts: tuple[str, ...]
    starts: tuple[int, ...] = ()
    """None: a plain prompt, one text for all loops."""

    def at(self, loop: int) -> str:
        """The text of a loop."""
        return self.texts[max(0, bisect_right(self.starts, loop) - 1)]

    def __str__(self) -> str:
        if not self.starts:
            return self.texts[0]
        return "".join(f"|{start}|{text}" for start, text in zip(self.starts, self.texts, strict=True))


@dataclass(frozen=True)
class PromptParts:
    """A prompt taken apart."""

    where: str
    """For messages."""
    texts: Segments
    references: tuple[str, ...] = ()
    """Paths of pictures and videos, as they are written."""
    mask_strategy: str | None = None
    """None: it says none."""

    def reading(self, texts: tuple[str, ...]) -> PromptParts:
        """The same with other texts."""
        return replace(self, texts=replace(self.texts, texts=texts))


TakeApart = Callable[[str, str], PromptParts]
"""From a prompt, and what messages call it. Raises: MediaError for what does not parse."""


def one_text(text: str, where: str) -> PromptParts:
    """A prompt that is a text as a whole."""
    return PromptParts(where, Segments((text,)))
