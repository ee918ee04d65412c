"""The programs in benchmarks/ run, at sizes that take no time; what they measure is not looked at."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(BENCHMARKS / arguments[0]), *arguments[1:]]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def session() -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("gpu_session")
    sys.path.remove(str(BENCHMARKS))


@pytest.mark.slow
def test_a_session_checks_numbers_and_then_measures_every_row(tmp_path: Path) -> None:
    done = run("gpu_session.py", "--device", "cpu", "--tiny", "--out", str(tmp_path / "table.md"))
    assert done.returncode == 0, done.stdout + done.stderr
    written = (tmp_path / "table.md").read_text("utf-8")
    assert written == done.stdout
    checks, _, table = written.partition("checks are right")
    assert "WRONG" not in checks
    assert checks.count("golden ") > 10
    assert "failed" not in table
    assert "left out" not in table
    assert table.count("| ours |") == 8
    assert table.count("| plain |") == 7
    assert table.count("| ours, offloaded |") == table.count("| ours, in 8 bits |") == 1
    for check in ("offloaded", "offloaded, with a cache", "T5 encoder in 8 bits"):
        assert f"\n{check}: " in checks


@pytest.mark.parametrize("wrong", [(0.2, 0.1), (float("nan"), 0.1)])
def test_a_session_ends_where_a_number_is_wrong(
    session: Any, wrong: tuple[float, float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> tuple[float, float]:
        raise ValueError("no such kernel")

    checks = {"right": lambda: (0.1, 0.1), "wrong": lambda: wrong, "broken": broken}
    monkeypatch.setattr(session.gpu_checks, "checks", lambda device, few: checks)
    monkeypatch.setattr(session.gpu_checks, "goldens", lambda device, seconds, few: iter(()))
    monkeypatch.setattr(sys, "argv", ["gpu_session.py", "--device", "cpu", "--tiny"])
    with pytest.raises(SystemExit) as ended:
        session.main()
    assert ended.value.code == 1
    told = capsys.readouterr().out
    assert "2 of 3 checks are wrong, nothing is measured: wrong, broken" in told
    assert "no such kernel" in told
    assert "| case |" not in told


@pytest.mark.slow
def test_a_form_with_other_numbers_is_told_and_not_measured(session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "FORMS_LIMIT", 1e-9)
    row = session.rows()[0]
    case = session.cases.shrunk(row.case)
    for together in (True, False):
        forms = ("ours", "plain", "ours, offloaded")
        ours, plain, offloaded = session.Session("cpu", 60.0, tiny=True).measure(
            session.Row(case, row.needs, forms, together)
        )
        assert not ours.problem
        assert "apart from those of the row's first form" in plain.problem
        assert not plain.seconds
        assert offloaded.seconds


def test_rows_without_time_are_told(session: Any) -> None:
    lines = list(session.table(session.Session("cpu", 0.0, tiny=True)))
    assert all("left out" in line for line in lines[2:])


@pytest.mark.slow
def test_all_forms_of_a_case_run_by_turns(tmp_path: Path) -> None:
    done = run("run.py", "tiny-step", "--tiny", "--repeat", "2", "--json", str(tmp_path / "figures.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    heads, _, row, *_ = done.stdout.splitlines()
    assert "ours s | plain s | plain / ours" in heads
    assert "failed" not in row
    assert (tmp_path / "figures.json").read_text("utf-8").count("least") == 2


def test_an_unknown_case_is_refused() -> None:
    done = run("run.py", "tiny-stop")
    assert done.returncode == 2
    assert "unknown case 'tiny-stop'" in done.stderr
