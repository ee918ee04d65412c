"""What ruff overlooks: code that runs from files, ways to the terminal, private names that cross files.

Of the first it forbids eval, exec, pickle and unsafe YAML.
"""

import ast
import re
from collections.abc import Iterator, Mapping
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


def test_only_the_command_line_speaks_of_its_options() -> None:
    """Messages of these rooms reach users of Python too, to whom `--set` says nothing: they name the setting."""
    rooms = ("pipelines", "samplers", "conditioning", "recipes", "models")
    files = [file for room in rooms for file in (ROOT / "core" / room).rglob("*.py")]
    said = {
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in files
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.search(r"--set [a-z{]", node.value)
    }
    assert said == set()


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


PRIVATE = re.compile(r"_(?!_)\w+")
"""A name that is its file's own affair."""


def crossing(sources: Mapping[str, str]) -> list[str]:
    """Where a file imports or reads a private name of another one. sources: modules' text by their dotted names."""
    trees = {module: ast.parse(source) for module, source in sources.items()}
    owned = {module: set(_private_names(tree)) for module, tree in trees.items()}
    found = []
    for module, tree in trees.items():
        foreign = set().union(*(names for other, names in owned.items() if other != module))
        for node, name, is_from_module in _private_uses(tree):
            # What no file of ours defines is a framework's, or a named tuple's.
            if name in foreign and (is_from_module or name not in owned[module]):
                found.append(f"{module}, line {node.lineno}: {ast.unparse(node)}")
    return found


def _private_names(tree: ast.Module) -> Iterator[str]:
    """Private names that a module gives to anything: functions, classes, variables, attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            names = [node.id if isinstance(node, ast.Name) else node.attr]
        else:
            continue
        yield from filter(PRIVATE.fullmatch, names)


def _private_uses(tree: ast.Module) -> Iterator[tuple[ast.stmt | ast.expr, str, bool]]:
    """Where a private name is imported, or read from something else; the name; whether that is a module."""
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules |= {alias.asname or alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            yield from ((node, alias.name, True) for alias in node.names if PRIVATE.fullmatch(alias.name))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and PRIVATE.fullmatch(node.attr):
            yield node, node.attr, ast.unparse(node.value) in modules
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr"):
            names = [name.value for name in node.args[1:2] if isinstance(name, ast.Constant)]
            yield from ((node, name, False) for name in names if PRIVATE.fullmatch(str(name)))


def test_private_names_stay_in_their_files() -> None:
    """What other files need has a public name, and so a twin in the other backend: see test_mirror.py."""
    files = [file for room in ("core", "backends", "convert") for file in (ROOT / room).rglob("*.py")]
    sources = {".".join(file.relative_to(ROOT).with_suffix("").parts): file.read_text("utf-8") for file in files}
    assert crossing(sources) == []


@pytest.mark.parametrize(
    "use",
    [
        "from .layers import _forms",
        "from a.layers import Linear, _forms as forms",
        "from a import layers\nlayers._forms.linear",
        "from a import layers\n_forms = layers._forms",
        "import a.layers\na.layers._forms = 1",
        "def norm(shards): return shards._hidden()",
        "self._hidden()",
        "getattr(shards, '_hidden')()",
    ],
)
def test_private_names_of_other_files_are_seen(use: str) -> None:
    layers = "_forms = {}\nclass Linear:\n    def _hidden(self): ..."
    assert crossing({"a.layers": layers, "a.other": use})


def test_private_names_of_the_own_file_and_of_libraries_are_left_alone() -> None:
    own = "import torch\n_x = torch._foreach_norm(_made)\nclass A:\n    def _y(self, other): return other._y(self._y)"
    assert crossing({"a.layers": "_x = _y = 1", "a.other": own + "\nshape._asdict()"}) == []
