"""`duosora launch`: a verb on several processes of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

NAMES_OF_BACKENDS = ("backend.name", "compute.name")
"""Settings that name it, of sampling and of training."""


def launch(
    command: Annotated[
        list[str],
        typer.Argument(
            metavar="-- VERB ...", help="What each process runs: sample, train, doctor ... with its options, or a .py."
        ),
    ],
    processes: Annotated[
        int, typer.Option("--processes", "-n", min=1, help="How many on this machine, one for each device.")
    ] = 1,
    backend: Annotated[
        str | None, typer.Option(help="torch or mindspore; taken from the verb's own options where they say it.")
    ] = None,
    log_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder of rank_0.log, rank_1.log ...; by default one in logs, named by the time, or "
            "a temporary one where the current folder cannot be written."
        ),
    ] = None,
    nodes: Annotated[int, typer.Option(min=1, help="Machines; the same command runs on each.")] = 1,
    node: Annotated[int, typer.Option(min=0, help="Number of this machine, from 0.")] = 0,
    address: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Where the processes meet: node 0 and a port of it that is free."),
    ] = None,
    meet: Annotated[float, typer.Option(min=0, help="Seconds in which all machines must have started.")] = 600.0,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds from asking the others to end, when one has failed, to killing them.")
    ] = 10.0,
    leave: Annotated[
        float, typer.Option(min=0, help="Seconds to save and leave in after SIGTERM or Ctrl-C, before killing.")
    ] = 600.0,
    linger: Annotated[
        float, typer.Option(min=0, help="Seconds that the others may go on when one has ended well.")
    ] = 1800.0,
) -> None:
    """Run a verb on several processes of this machine, or of each of several.

    Shows what rank 0 says; all have their logs. When one fails the others are ended, and the exit code is its own.
    """
    from ..launch import launcher
    from ..launch.environment import Launch

    program, chosen = _program(command, backend)
    host, port = _address(address)
    job = Launch(
        program=program,
        processes=processes,
        backend=chosen,
        nodes=nodes,
        node=node,
        host=host,
        port=port,
        log_folder=log_dir,
        meet_seconds=meet,
        grace_seconds=grace,
        leave_seconds=leave,
        linger_seconds=linger,
    )
    raise typer.Exit(launcher.run(job))


def _program(words: list[str], backend: str | None) -> tuple[tuple[str, ...], str]:
    """The command line of each process, and the backend that it is for."""
    import sys

    from ..errors import ConfigError
    from ..seam.backend import NAMES, default_name

    named = _named_backend(words)
    if backend and named and backend != named:
        raise ConfigError(f"--backend {backend}: but the command says {named}; say it once")
    chosen = backend or named or _backend_of_file(words) or default_name()
    if chosen not in NAMES:
        raise ConfigError(f"--backend {chosen}: there are {' and '.join(NAMES)}")
    if words[0].endswith(".py"):
        return (sys.executable, *words), chosen
    # -P: a file of the working folder takes no module's place, as with the duosora command itself.
    program = (sys.executable, "-P", "-m", "duosora", *words)
    return (program if named or not backend else (*program, "--backend", backend)), chosen


def _named_backend(words: list[str]) -> str | None:
    """The backend that a verb's options name."""
    found = None
    for option, value in zip(words, [*words[1:], ""], strict=True):
        name, _, given = option.partition("=")
        if name == "--backend":
            found = given or value
        elif option in ("--set", "-s"):
            key, _, setting = value.partition("=")
            found = setting if key in NAMES_OF_BACKENDS else found
    return found


def _backend_of_file(words: list[str]) -> str | None:
    """The backend that a verb's settings file names; what is wrong with the file, the verb will say."""
    from ..config.loading import read_values
    from ..config.shipped import settings_file
    from ..errors import DuosoraError

    found = None
    for option, value in zip(words, [*words[1:], ""], strict=True):
        name, _, given = option.partition("=")
        if name not in ("--config", "-c"):
            continue
        try:
            values = read_values(settings_file(Path(given or value)))
        except DuosoraError:
            return None
        for group, key in (path.split(".") for path in NAMES_OF_BACKENDS):
            inner = values.get(group)
            found = inner.get(key) if isinstance(inner, dict) and key in inner else found
    return found


def _address(text: str | None) -> tuple[str, int | None]:
    from ..errors import ConfigError

    if text is None:
        return "127.0.0.1", None
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"--address {text}: expected a host and a port, as in 10.0.0.1:29500")
    return host, int(port)
