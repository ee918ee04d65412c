"""A rank that runs what it is told over a socket, one program after the other, until the other end is closed.

A program finds the process as it was before the first one, as far as environment, folder and arguments go.
"""

import json
import os
import runpy
import socket
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from duosora.core.parallel.launched import launched


@contextmanager
def as_it_was() -> Iterator[None]:
    """Undoes what a program does to the process's surroundings."""
    environment, folder, arguments = dict(os.environ), os.getcwd(), sys.argv
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        sys.argv = arguments


def run(program: str, arguments: Sequence[str]) -> int:
    """The exit code that it would have as a process of its own."""
    sys.argv = [program, *arguments]
    try:
        runpy.run_path(program, run_name="__main__")
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main(door: str) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(door)
        line = connection.makefile("rw", encoding="utf-8")
        print(launched().rank, file=line, flush=True)
        for job in line:
            with as_it_was():
                code = run(**json.loads(job))
            sys.stdout.flush()
            sys.stderr.flush()
            print(code, file=line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
