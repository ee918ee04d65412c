"""Reading files, and writing them whole or not at all.

Every file goes to a hidden temporary name beside its target and is renamed when it is complete and on the disk. Whoever
looks at the target sees the old file or the new one. A process killed outright leaves at most a `.duosora-*` file.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any

from ..errors import DuosoraError, MediaError

MAX_TEXT_BYTES = 16_000_000
"""Of an index or a configuration: as JSON a hostile one takes forty times as much."""
MAX_WRITTEN_BYTES = 64_000_000
"""Of a file that somebody wrote or exported: prompts, settings, lists."""
TEMPORARY = ".duosora-"
"""How the names of unfinished files begin."""
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def atomic_write(
    path: str | os.PathLike[str], overwrite: bool = False, error: type[DuosoraError] = MediaError
) -> Iterator[Path]:
    """Give the path of an empty temporary file to write; it becomes `path` when the block ends without an error.

    The temporary has the suffix of `path`, so that libraries that choose a format by name choose the right one. Missing
    parent folders are made, and removed again when the block fails.
    Raises: `error` when `path` exists and `overwrite` is off, is a folder or lies where nothing can be written (before
    the block runs), or when the disk is full.
    """
    target = Path(path)
    refuse_unwritable(target, overwrite, error)
    with _naming(target, error):
        missing = [parent for parent in target.parents if not parent.exists()]
    temporary = target.with_name(f"{TEMPORARY}{secrets.token_hex(4)}{target.suffix}")
    is_done = False
    try:
        with _naming(target, error):
            target.parent.mkdir(parents=True, exist_ok=True)
            _make_file(temporary)
        with _naming(target, error, only=_DISK_FULL):  # other errors of the block are its own to explain
            yield temporary
        with _naming(target, error):
            sync(temporary)
            refuse_existing(target, overwrite, error)  # somebody else may have written it meanwhile
            temporary.replace(target)
        is_done = True
    finally:
        if not is_done:
            _remove(temporary, missing)
    with suppress(OSError):  # some network file systems cannot flush the names in a folder, and need not
        sync(target.parent)


def refuse_existing(path: Path, overwrite: bool, error: type[DuosoraError] = MediaError) -> None:
    """Raise `error` when `path` exists and may not be replaced."""
    if not overwrite and os.path.lexists(path):
        raise error(f"{path}: exists already and is kept; choose another name or add --overwrite")


def refuse_unwritable(path: Path, overwrite: bool, error: type[DuosoraError] = MediaError) -> None:
    """Raise `error` when a file cannot be written: for callers that must know before long work begins.

    It exists and may not be replaced, is a folder, a pipe or a device, or its folder is none, or does not let this
    process write.
    """
    refuse_existing(path, overwrite, error)
    with _naming(path, error):
        if path.is_dir():
            raise error(f"{path}: is a folder, expected the name of a file to write")
        if path.exists() and not path.is_file():
            raise error(f"{path}: is a pipe or a device and stays; expected the name of a file to write")
        place = next(parent for parent in path.parents if os.path.lexists(parent))
        if not place.is_dir():
            raise error(f"{path}: cannot be written ({place} is no folder)")
        if not os.access(place, os.W_OK | os.X_OK):
            raise error(f"{path}: cannot be written (the folder {place} is read-only here)")


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file to read its bytes.

    Raises: OSError; also for a named pipe, a device or a socket, whose reading could wait for ever.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe opens without waiting for its writer
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "is a pipe, a device or a socket, expected a regular file", str(path))
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_text(path: Path, limit: int = MAX_TEXT_BYTES) -> str:
    """The text of a file of at most `limit` bytes, UTF-8 with or without a mark at its beginning.

    Raises: OSError; ValueError when it is larger or no UTF-8.
    """
    return _read(path, limit).decode("utf-8-sig")


def read_json(path: Path, limit: int = MAX_WRITTEN_BYTES) -> Any:
    """The value of a JSON file that a program wrote.

    Raises: OSError; ValueError when it is larger than `limit` bytes, no UTF-8, no JSON, or nested too deeply.
    """
    try:
        return json.loads(read_text(path, limit))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_written(path: Path, error: type[DuosoraError], limit: int = MAX_WRITTEN_BYTES) -> str:
    """The text of a file that somebody wrote, UTF-8 with or without a mark at its beginning. Raises: `error`."""
    try:
        raw = _read(path, limit)
    except FileNotFoundError as problem:
        raise error(f"{path}: there is no such file") from problem
    except OSError as problem:
        raise error(f"{path}: cannot be read ({problem.strerror or problem})") from problem
    except ValueError as problem:
        raise error(f"{path}: cannot be read ({problem}); split it, or name the right file") from problem
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = raw.count(b"\n", 0, problem.start) + 1
        raise error(f"{path}:{line}: is not UTF-8 text; save the file in UTF-8") from problem


def _read(path: Path, limit: int) -> bytes:
    with open_regular(path) as file:
        raw = file.read(limit + 1)
    if len(raw) > limit:
        raise ValueError(f"it has more than {limit} bytes")
    return raw


def sha256(path: Path) -> str:
    """Of all bytes of a file, in hexadecimal. Raises: OSError."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unfinished(folder: Path) -> list[Path]:
    """Temporary files in a folder: of runs that were killed outright, or that still write."""
    try:
        return sorted(path for path in folder.glob(f"{TEMPORARY}*") if path.is_file())
    except OSError:
        return []


def sync(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _naming(target: Path, error: type[DuosoraError], only: set[int] | None = None) -> Iterator[None]:
    """Turn what the operating system refuses into one line about the target; `only` these error numbers, if given."""
    try:
        yield
    except OSError as problem:
        if only is not None and problem.errno not in only:
            raise
        if problem.errno in _DISK_FULL:
            advice = "the disk is full, nothing was written; free some space or choose another folder"
        else:
            advice = f"cannot be written ({problem.strerror or problem})"
        raise error(f"{target}: {advice}") from problem


def _make_file(path: Path) -> None:
    path.open("xb").close()


def _remove(temporary: Path, folders: list[Path]) -> None:
    """Remove a temporary file and the folders, innermost first, that were made for it and hold nothing else."""
    with suppress(OSError):
        temporary.unlink()
        for folder in folders:
            folder.rmdir()
