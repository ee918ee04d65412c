"""Writing a checkpoint by all ranks together, at once or while training goes on.

Ranks say nothing to each other while they write, which may be in a thread beside training's own exchanges. They meet
before, to know the folder, and after, when all are done: then the first one completes the checkpoint, or all fail.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..io.weights import Shard, index_shards, join_shards
from ..models.lora.files import PEFT_STEM
from ..parallel.agreement import exchange
from ..seam.ranks import Ranks
from .checkpoints import Checkpoints, Entry, entries

Write = Callable[[Path, Shard], None]
"""Writes a rank's part into the folder of a checkpoint."""


def not_shared(folder: Path) -> CheckpointError:
    """What to raise where a run's folder lacks what the first rank has just written there."""
    return CheckpointError(f"{folder}: is not the same on all machines; name a folder that they share")


class Saving:
    """The checkpoint that is being written, of which there is one at a time. All ranks make the same calls.

    Each raises CheckpointError on all ranks when one cannot write; the checkpoint does not come about then.
    """

    def __init__(self, checkpoints: Checkpoints, ranks: Ranks, in_background: bool) -> None:
        self.checkpoints, self.ranks, self.in_background = checkpoints, ranks, in_background
        self.last: Path | None = None
        """The last complete checkpoint."""
        self._pending: _Pending | None = None

    def save(self, step: int, write: Write) -> None:
        """Write the checkpoint of a step; nothing else is in writing."""
        shard = Shard(self.ranks.rank, self.ranks.world.size)
        if shard.count == 1:
            save_all = partial(self.checkpoints.save, step, lambda folder: write(folder, shard))
            self._pending = _Pending(step, None, save_all, self.in_background)
        else:
            begun = exchange(self.ranks.world, partial(self._begin, step))[0]
            if begun is None:
                self.last = self.checkpoints.path(step)
                return
            save_part = partial(self._write_part, step, Path(begun), write, shard)
            self._pending = _Pending(step, Path(begun), save_part, self.in_background)
        if not self.in_background:
            self.wait()

    def look(self) -> None:
        """Complete the checkpoint if all ranks have written their parts."""
        if self._pending is not None and not self.ranks.world.any(not self._pending.is_done):
            self.wait()

    def wait(self) -> None:
        """Until nothing is being written."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            parts = exchange(self.ranks.world, pending.result)
            if pending.folder is not None:
                exchange(self.ranks.world, partial(self._complete, pending.step, pending.folder, parts))
        finally:
            if pending.folder is not None and self.ranks.is_first:
                self.checkpoints.abandon(pending.folder)
        self.last = self.checkpoints.path(pending.step)

    def _begin(self, step: int) -> str | None:
        folder = self.checkpoints.begin(step) if self.ranks.is_first else None
        return None if folder is None else str(folder)

    def _write_part(self, step: int, folder: Path, write: Write, shard: Shard) -> Mapping[str, Entry]:
        if not folder.is_dir():
            raise not_shared(folder.parent)
        with self.checkpoints.naming(step):
            write(folder, shard)
            return entries(folder, shard.file("*"))

    def _complete(self, step: int, folder: Path, parts: Sequence[Mapping[str, Entry]]) -> None:
        if not self.ranks.is_first:
            return
        with self.checkpoints.naming(step):
            ending = Shard(0, len(parts)).file("")
            for file in sorted(folder.rglob(f"*{ending}")):
                stem = file.name.removesuffix(ending)
                # peft reads one file, and adapters are small.
                (join_shards if stem == PEFT_STEM else index_shards)(file.parent, len(parts), stem)
        held = {name: entry for part in parts for name, entry in part.items()}
        known = {name: entry for name, entry in held.items() if (folder / name).exists()}
        self.checkpoints.complete(step, folder, known)


class _Pending:
    """A checkpoint, or this rank's part of it, in writing."""

    def __init__(self, step: int, folder: Path | None, work: Callable[[], Any], in_background: bool) -> None:
        """folder: where ranks write together; None: `work` does all."""
        self.step, self.folder = step, folder
        self._work, self._value = work, None
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        if in_background:
            self._thread = threading.Thread(target=self._run, name="saving")
            self._thread.start()
        else:
            self._run()

    @property
    def is_done(self) -> bool:
        return self._thread is None or not self._thread.is_alive()

    def result(self) -> Any:
        """What the work gave. Raises what went wrong."""
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error
        return None if self.folder is None else self._value

    def _run(self) -> None:
        try:
            self._value = self._work()
        except BaseException as error:  # raised where the result is asked for
            self._error = error
