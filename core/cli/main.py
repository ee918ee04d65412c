"""The `duosora` command: one verb per file, one-line errors, exit code 2.

Verbs import what they need when they run, so that `--help` answers at once and never loads a framework.
"""

from __future__ import annotations

import errno
import sys
from io import TextIOWrapper
from typing import Any

import typer

from duosora.core.cli.arguments import read_paths, refuse_other_encodings
from duosora.core.cli.cache import cache
from duosora.core.cli.calibrate import calibrate
from duosora.core.cli.check import check
from duosora.core.cli.convert import convert
from duosora.core.cli.data import data
from duosora.core.cli.doctor import doctor
from duosora.core.cli.evaluate import evaluate
from duosora.core.cli.inspect import inspect
from duosora.core.cli.judge import judge
from duosora.core.cli.launch import launch
from duosora.core.cli.parity import parity
from duosora.core.cli.plan import plan
from duosora.core.cli.plot import plot
from duosora.core.cli.reconstruct import reconstruct
from duosora.core.cli.sample import sample
from duosora.core.cli.sample_set import sample_set
from duosora.core.cli.settings import settings
from duosora.core.cli.telling import logs_told
from duosora.core.cli.train import train
from duosora.core.errors import ConfigError, DuosoraError, OutOfMemory
from duosora.core.parallel.launched import launched, told_once, unset
from duosora.core.printable import one_line, say, short_name

EXIT_USER_ERROR = 2
REFUSED_BY_THE_SYSTEM = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EMFILE),
}
"""What is about files and not about this program, wherever it happens."""
SHARED_VERBS = ("sample", "sample-set", "train", "cache", "doctor")
"""Those that many processes can work on together."""
STARTING_VERB = "launch"
"""The one that starts them, whatever its own environment says."""

app = typer.Typer(
    name="duosora",
    help="Open text-to-video: one model on two kinds of hardware (PyTorch on CUDA, MindSpore on Ascend).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: importing rich for a frame around it would double its time
)
app.command()(sample)
app.command()(sample_set)
app.command()(reconstruct)
app.command()(evaluate)
app.command()(train)
app.command(context_settings={"allow_interspersed_args": False})(launch)
app.add_typer(plan)
app.add_typer(cache)
app.command()(plot)
app.command()(calibrate)
app.command()(judge)
app.command()(convert)
app.command()(inspect)
app.command()(check)
app.command()(parity)
app.command()(doctor)
app.command()(settings)
app.add_typer(data)
read_paths(app)


@app.callback(invoke_without_command=True)
def _global(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and leave."),
) -> None:
    if version:
        from duosora import __version__

        say(__version__)
        raise typer.Exit
    if context.invoked_subcommand == STARTING_VERB:
        return  # whose processes are told anew
    processes = launched().world
    if processes > 1 and context.invoked_subcommand not in SHARED_VERBS:
        with told_once():
            raise ConfigError(
                f"duosora {context.invoked_subcommand} works in one process, and {processes} were started; "
                f"start it without a launcher, or where there was none: {unset()}"
            )


def main() -> None:
    """Entry point: a DuosoraError becomes one line on stderr and exit code 2; anything else keeps its traceback.

    Only a file that the operating system refuses is one line too, as it is named.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that is not in UTF-8 cannot show every name
    try:
        with told_once():
            refuse_other_encodings(sys.argv[1:])
        with logs_told():
            # Standalone, typer would print wrong uses itself: in four lines, and with the characters that came.
            sys.exit(app(standalone_mode=False))
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()  # type: ignore[attr-defined]
            sys.exit(EXIT_USER_ERROR)
        told = _told(error)
        if told is None:
            raise
        sys.exit(report(told))


def _told(error: Exception) -> DuosoraError | None:
    """What is the user's to mend; None for our own slips."""
    if isinstance(error, DuosoraError):
        told: DuosoraError | None = error
    elif hasattr(error, "format_message"):  # click's errors, whose home differs between typer's releases
        told = _wrong_use(error)
    elif isinstance(error, OSError) and error.filename is not None and error.errno in REFUSED_BY_THE_SYSTEM:
        told = DuosoraError(f"{error.filename}: {error.strerror}")
    else:
        from duosora.core.memory import out_of_memory  # it loads numpy, which --help does without

        told = out_of_memory(error)
    return _with_advice(told) if isinstance(told, OutOfMemory) else told


def _wrong_use(error: Any) -> ConfigError:
    context = getattr(error, "ctx", None)
    command = "duosora" if context is None else context.command_path
    told = short_name(error.format_message().rstrip("."))
    if context is not None and hasattr(context.command, "list_commands"):
        told += f"; {command} has {', '.join(context.command.list_commands(context))}"
    return ConfigError(f"{told}; see {command} --help")


def _with_advice(error: OutOfMemory) -> OutOfMemory:
    from duosora.core.memory import savings

    verb = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    advised = OutOfMemory(f"{error}; {savings(verb)}")
    advised.is_told = error.is_told
    return advised


def report(error: DuosoraError) -> int:
    """Print an error as one line, unless another process of the run does; returns the exit code."""
    if not error.is_told:
        say(f"duosora: {one_line(error)}", file=sys.stderr)
    return EXIT_USER_ERROR
