"""The command line, run in this process: same code path as the `duosora` script, without importing torch anew."""

from collections.abc import Callable
from typing import NamedTuple

import pytest

from duosora.core.cli.main import main


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def duosora(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr("sys.argv", ["duosora", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        captured = capsys.readouterr()
        code = left.value.code
        return Outcome(0 if code is None else int(code), captured.out, captured.err)

    return run
