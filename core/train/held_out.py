"""The clips that a run is measured on: the same few at each validation."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from ..data.batch import ClipBatch
from .loop import Loader


class HeldOut:
    """The first micro-batches of a loader of their own."""

    def __init__(self, loader: Loader | None, count: int) -> None:
        """loader: nothing for a rank that does not read."""
        self.loader, self.count = loader, count

    def clips(self) -> Iterator[ClipBatch]:
        """The micro-batches."""
        assert self.loader is not None, "this rank does not read"
        steps = self.loader.batches(0)
        return islice((clips for step in steps for clips in step), self.count)
