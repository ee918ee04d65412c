"""The clips that a run is measured on: the same few at each validation."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from ..data.batch import ClipBatch
from .loop import Loader


class HeldOut:
    """The first micro-batches of a loader of their own."""

    def __init__(self, loader: Loader, count: int) -> None:
        self.loader, self.count = loader, count

    def clips(self) -> Iterator[ClipBatch]:
        """The micro-batches."""
        steps = self.loader.batches(0)
        return islice((clips for step in steps for clips in step), self.count)
