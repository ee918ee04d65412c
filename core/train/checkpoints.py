"""Checkpoints of a run: written whole or not at all, found again, checked, and thinned out.

`checkpoint-<step>/` is made under a hidden temporary name, its files and their sizes and hashes are listed in
`manifest.json`, which is written last, everything is flushed to the disk, and then the folder gets its name. A process
killed at any moment leaves complete checkpoints and at most a hidden folder, which the next run removes. Of several
ranks each writes, flushes and hashes files of its own; the first one does all else.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..io.files import atomic_write, read_json, sha256, sync
from ..models.run_folders import CHECKPOINT, MANIFEST

UNFINISHED, ASIDE = ".duosora-", ".set-aside"

Entry = dict[str, Any]
"""What the manifest says of a file."""


@dataclass(frozen=True)
class Found:
    """What a search for the newest checkpoint came to."""

    path: Path | None
    step: int
    """Optimiser steps made; 0 without a checkpoint."""
    passed_over: tuple[str, ...]
    """Newer ones that are not complete, and why, a line each."""


class Checkpoints:
    """The checkpoints in a run's folder."""

    def __init__(self, folder: Path, keep: int = 3, keep_every: int | None = None) -> None:
        """keep: how many of the newest stay. keep_every: those at multiples of it stay for good as well."""
        self.folder, self.keep, self.keep_every = folder, keep, keep_every

    def save(self, step: int, write: Callable[[Path], None]) -> Path:
        """Make the checkpoint of a step from what `write` puts into a folder; older ones make room afterwards.

        Raises: CheckpointError when the disk is full or the folder cannot be written; nothing is changed then.
        """
        temporary = self.begin(step)
        if temporary is None:
            return self.path(step)
        try:
            with self.naming(step):
                write(temporary)
            return self.complete(step, temporary, {})
        finally:
            self.abandon(temporary)

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step is, or will be."""
        return self.folder / f"checkpoint-{step}"

    def begin(self, step: int) -> Path | None:
        """Make the hidden folder for the files of a checkpoint; None when there is a complete one already.

        Raises: as save.
        """
        target = self.path(step)
        if is_complete(target):
            return None
        temporary = self.folder / f"{UNFINISHED}{target.name}-{secrets.token_hex(4)}"
        with self.naming(step):
            temporary.mkdir(parents=True)
        return temporary

    def complete(self, step: int, temporary: Path, known: Mapping[str, Entry]) -> Path:
        """Make a checkpoint of a folder; older ones make room.

        known: sizes and hashes of files that are on the disk already, by their paths in the folder.
        Raises: as save.
        """
        target = self.path(step)
        with self.naming(step):
            _write_manifest(temporary, step, known)
            _flush(temporary, known)
            if target.exists():  # cut off by a crash of an older version or by hand
                _remove(target)
            temporary.rename(target)
            sync(self.folder)
        self._thin_out()
        return target

    def abandon(self, temporary: Path) -> None:
        """Remove the folder of a checkpoint that did not come about."""
        if temporary.exists():
            shutil.rmtree(temporary, ignore_errors=True)

    @contextmanager
    def naming(self, step: int) -> Iterator[None]:
        """Turn what the operating system refuses into one line about the checkpoint."""
        try:
            yield
        except OSError as error:
            raise CheckpointError(f"{self.path(step)}: cannot be written ({error.strerror or error})") from error

    def newest(self) -> Found:
        """The newest checkpoint whose files are all there, unchanged."""
        passed_over: list[str] = []
        for step, path in sorted(self._all(), reverse=True):
            reason = problem_of(path)
            if reason is None:
                return Found(path, step, tuple(passed_over))
            passed_over.append(f"{path}: {reason}")
        return Found(None, 0, tuple(passed_over))

    def set_aside(self, found: Found) -> list[Path]:
        """Rename what a run that goes on from `found` will write anew: later checkpoints, damaged or given up.

        They would take the places of its own, and damaged ones would count among those that are kept. Returns their
        new paths. Raises: CheckpointError when they cannot be renamed.
        """
        kept = found.path and found.path.resolve()
        moved = []
        for step, path in sorted(self._all()):
            if step >= found.step and path.resolve() != kept:
                target = path.with_name(path.name + ASIDE)
                try:
                    shutil.rmtree(target, ignore_errors=True)
                    path.rename(target)
                except OSError as error:
                    raise CheckpointError(f"{path}: cannot be renamed ({error.strerror or error})") from error
                moved.append(target)
        return moved

    def clean(self) -> None:
        """Remove what killed processes left behind."""
        for path in self.folder.glob(f"{UNFINISHED}*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)

    def _all(self) -> Iterator[tuple[int, Path]]:
        for path in self.folder.glob("checkpoint-*"):
            match = CHECKPOINT.fullmatch(path.name)
            if match and path.is_dir():
                yield int(match[1]), path

    def _thin_out(self) -> None:
        complete = sorted((step, path) for step, path in self._all() if is_complete(path))
        for step, path in complete[: -self.keep]:
            if not (self.keep_every and step % self.keep_every == 0):
                _remove(path)


def open_checkpoint(path: Path) -> Found:
    """A checkpoint that was named. Raises: CheckpointError when it is none, or not complete."""
    match = CHECKPOINT.fullmatch(path.name)
    if match is None or not path.is_dir():
        raise CheckpointError(f"{path}: is no checkpoint; expected a folder checkpoint-<step>")
    reason = problem_of(path)
    if reason is not None:
        raise CheckpointError(f"{path}: {reason}")
    return Found(path, int(match[1]), ())


def is_complete(path: Path) -> bool:
    """Whether a checkpoint was finished; its files are not looked at."""
    return (path / MANIFEST).is_file()


def problem_of(path: Path) -> str | None:
    """What is wrong with a checkpoint, in a few words; None when all its files are there with their recorded hashes."""
    try:
        files = read_json(path / MANIFEST)["files"]
        for name, entry in files.items():
            file = path / name
            if not file.is_file() or file.stat().st_size != entry["size"]:
                return f"{name} is missing or cut off"
            if sha256(file) != entry["sha256"]:
                return f"{name} was changed or damaged"
    except FileNotFoundError:
        return f"{MANIFEST} is missing: saving was cut off"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} cannot be read ({error})"
    return None


def entries(folder: Path, pattern: str) -> dict[str, Entry]:
    """Sizes and hashes of files, which are flushed to the disk."""
    found = {}
    for file in sorted(folder.rglob(pattern)):
        sync(file)
        found[str(file.relative_to(folder))] = _entry(file)
    return found


def _write_manifest(folder: Path, step: int, known: Mapping[str, Entry]) -> None:
    paths = {str(file.relative_to(folder)): file for file in sorted(folder.rglob("*")) if file.is_file()}
    files = {name: known.get(name) or _entry(file) for name, file in paths.items()}
    with atomic_write(folder / MANIFEST, error=CheckpointError) as temporary:
        temporary.write_text(json.dumps({"step": step, "files": files}, indent=1), encoding="utf-8")


def _flush(folder: Path, known: Mapping[str, Entry]) -> None:
    for path in folder.rglob("*"):
        if str(path.relative_to(folder)) not in known:
            sync(path)
    sync(folder)


def _remove(path: Path) -> None:
    """Remove a checkpoint so that at no moment a part of it passes for the whole."""
    hidden = path.with_name(f"{UNFINISHED}{path.name}-{secrets.token_hex(4)}")
    os.rename(path, hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def _entry(file: Path) -> Entry:
    return {"size": file.stat().st_size, "sha256": sha256(file)}
