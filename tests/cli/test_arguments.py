"""What holds for the arguments of every verb."""

import errno
import inspect
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import typer

from duosora.core.cli.main import app
from duosora.core.errors import ConfigError


def verbs(group: typer.Typer, prefix: str = "") -> Iterator[tuple[str, Callable]]:
    """Name and function of every verb, also of those in groups."""
    for command in group.registered_commands:
        yield f"{prefix}{command.callback.__name__}", command.callback
    for each in group.registered_groups:
        yield from verbs(each.typer_instance, f"{each.typer_instance.info.name} ")


VERBS = dict(verbs(app))
DRAWN = ("--set", "data.kind=moving_shapes", "--set", "data.height=32", "--set", "data.width=32", "--dry-run")


@pytest.mark.parametrize("name", VERBS)
def test_every_path_of_every_verb_is_read_as_one_that_a_person_wrote(name: str) -> None:
    hints = get_type_hints(VERBS[name])
    paths = [each for each in inspect.signature(VERBS[name]).parameters if "Path" in str(hints[each])]
    assert paths or name in ("doctor", "settings")
    for each in paths:
        path = Path("$HOME/x")
        with pytest.raises(ConfigError, match=r"^(--[a-z-]+|[A-Z]+): \$HOME/x: holds \$HOME"):
            VERBS[name](**{each: [path] if "list" in str(hints[each]) else path})


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["plot", "$X"], "RUN: $X: holds $X"),
        (["plot", "x", "--out", "${X}/y"], "--out: ${X}/y: holds ${X}"),
        (["judge", "--json=$X"], "--json: $X: holds $X"),
        (["inspect", "x" * 5000], "PATH: xxx"),
        (["plot", "~/there"], "{home}/there"),
        (["train", *DRAWN, "--resume", "$X/checkpoint-3", "--out", "{home}"], "--resume: $X/checkpoint-3: holds $X"),
        (["inspect", "a\udcff"], r"argument 2 (a\udcff): is not UTF-8 at character 2; "),
        (
            ["sample", "a", "--set", "seed=1", "--set", "output.folder=\udce9"],
            r"argument 6 (output.folder=\udce9): is not",
        ),
    ],
)
def test_a_wrong_argument_is_named_itself(
    duosora: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], told: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    outcome = duosora(*(each.replace("{home}", str(tmp_path)) for each in arguments))
    assert outcome.code == 2
    assert outcome.err.startswith(f"duosora: {told.replace('{home}', str(tmp_path))}")
    assert outcome.err.count("\n") == 1
    assert len(outcome.err) < 400


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENAMETOOLONG, errno.ELOOP, errno.EROFS])
def test_a_file_that_the_system_refuses_is_one_line(
    duosora: Callable, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number), "some/file")

    monkeypatch.setattr("duosora.core.train.plot.plot_run", refuse)
    outcome = duosora("plot", "somewhere")
    assert outcome == (2, "", f"duosora: some/file: {os.strerror(number)}\n")


def test_any_other_error_keeps_its_traceback(duosora: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise FileNotFoundError(errno.ENOENT, "our own slip", "some/file")

    monkeypatch.setattr("duosora.core.train.plot.plot_run", fail)
    with pytest.raises(FileNotFoundError):
        duosora("plot", "somewhere")
