"""Where the processes of a run write what they say: a folder that takes files, known before any of them is started."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from ..errors import ConfigError


def log_name(process: str) -> str:
    """Of the file of a process: rank_0.log."""
    return f"{process.replace(' ', '_')}.log"


def writable_folder(chosen: Path | None, processes: Iterable[str], say: Callable[[str], None]) -> Path:
    """The folder for the logs of these processes, made where it is missing.

    Without a choice it is one in `logs`, named by the time; where that cannot be written it is a temporary one, and
    that is said.
    Raises: ConfigError when the chosen folder, or any temporary one, cannot be written.
    """
    names = [log_name(process) for process in processes]
    folder = chosen or Path("logs", time.strftime("%Y%m%d-%H%M%S"))
    try:
        _try(folder, names)
    except OSError as error:
        reason = f"logs cannot be written to {folder}: {error.strerror or error}"
        if chosen is not None:
            raise ConfigError(f"{reason}; name another folder by --log-dir") from error
        folder = _temporary(reason)
        say(f"{reason}; they go to {folder}")
    return folder


def _try(folder: Path, names: Iterable[str]) -> None:
    """Raises: OSError when a log cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=folder).close()
    for file in (folder / name for name in names):
        if file.exists():
            file.open("ab").close()


def _temporary(reason: str) -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix="duosora-logs-"))
    except OSError as error:
        raise ConfigError(f"{reason}, nor to a temporary folder: {error.strerror or error}; use --log-dir") from error
