"""Loading never runs code from a file. ruff forbids eval, exec, pickle and unsafe YAML; here is what it overlooks."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("core", "backends", "convert", "benchmarks", "scripts", "tests")


def unsafe_loads(source: str) -> Iterator[str]:
    """Calls of torch.load without weights_only=True, and any call with allow_pickle=True or trust_remote_code=True."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        is_torch_load = ast.unparse(node.func) == "torch.load" and given.get("weights_only") != "True"
        if is_torch_load or {given.get("allow_pickle"), given.get("trust_remote_code")} - {None, "False"}:
            yield f"line {node.lineno}: {ast.unparse(node)}"


def test_nothing_loads_files_that_may_run_code() -> None:
    files = [file for room in ROOMS for file in (ROOT / room).rglob("*.py")]
    assert [
        f"{file.relative_to(ROOT)} {call}" for file in files for call in unsafe_loads(file.read_text("utf-8"))
    ] == []


@pytest.mark.parametrize(
    "call",
    ["torch.load(p)", "torch.load(p, weights_only=False)", "np.load(p, allow_pickle=True)", "f(trust_remote_code=x)"],
)
def test_unsafe_calls_are_seen(call: str) -> None:
    assert list(unsafe_loads(call))


@pytest.mark.parametrize("call", ["torch.load(p, weights_only=True)", "np.load(p)", "np.load(p, allow_pickle=False)"])
def test_safe_calls_are_left_alone(call: str) -> None:
    assert not list(unsafe_loads(call))


def test_everything_that_is_printed_goes_through_one_place() -> None:
    """ruff forbids print(); these are the other ways to a terminal."""
    ways = {
        "tqdm.write(": ["core/printable.py"],
        "Console(": ["core/cli/tables.py", "core/launch/launcher.py"],
        "typer.echo(": [],
        "sys.stdout.write(": [],
        "rich.table import": ["core/cli/tables.py"],
    }
    files = [file for room in ("core", "backends", "convert") for file in (ROOT / room).rglob("*.py")]
    for way, allowed in ways.items():
        found = [str(file.relative_to(ROOT)) for file in files if way in file.read_text("utf-8")]
        assert sorted(found) == allowed, way
