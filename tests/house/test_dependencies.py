"""Every import is declared: at the top of a file what its room always has, in functions also what an extra brings."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from duosora.backends.torch.optimization import OTHER_OPTIMIZERS
from duosora.core.cli import doctor

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
ROOMS: dict[str, tuple[str, ...]] = {
    "src": (),
    "core": (),
    "convert": (),
    "benchmarks": ("torch",),
    "backends/__init__.py": (),
    "backends/torch": ("torch",),
    "backends/mindspore": ("mindspore",),
    "tests": ("test",),
}
"""The extras that the files of a room can count on."""
DISTRIBUTIONS = {
    "PIL": "pillow",
    "bs4": "beautifulsoup4",
    "decord": "decord2",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "xdist": "pytest-xdist",
    "yaml": "pyyaml",
}
"""Of the modules that have another name than the package they come in."""
OWN = {"duosora", "plain"} | {file.stem for room in ("tests", "benchmarks") for file in (ROOT / room).rglob("*.py")}


def normal(name: str) -> str:
    return name.lower().replace("_", "-")


def distribution(module: str) -> str:
    top = module.partition(".")[0]
    return DISTRIBUTIONS.get(top, normal(top))


def declared(*extras: str) -> set[str]:
    """The packages of duosora itself and of extras, with those of the extras that these name."""
    found = set()
    for requirement in [*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])]:
        name, inner = re.match(r"([\w.-]+)(?:\[([\w,-]+)\])?", requirement).groups()
        found |= declared(*inner.split(",")) if name == "duosora" else {normal(name)}
    return found


class Imports(ast.NodeVisitor):
    """What a source imports of other projects: at the top, and in functions with the extra that guards it."""

    def __init__(self, source: str) -> None:
        self.top: list[tuple[int, str]] = []
        self.inner: list[tuple[int, str, str | None]] = []
        self._functions, self._extra = 0, None
        self.visit(ast.parse(source))

    def modules(self) -> set[str]:
        """The outermost names of all."""
        return {module.partition(".")[0] for _, module, *_ in [*self.top, *self.inner]}

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._note(node.lineno, alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if not node.level:
            self._note(node.lineno, node.module)

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) != "TYPE_CHECKING":  # where nothing is imported when the program runs
            self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._functions += 1
        self.generic_visit(node)
        self._functions -= 1

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_With(self, node: ast.With) -> None:
        around, call = self._extra, node.items[0].context_expr
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "needs_extra":
            self._extra = getattr(call.args[0], "value", None)
        self.generic_visit(node)
        self._extra = around

    def _note(self, line: int, module: str) -> None:
        if module.partition(".")[0] in OWN | sys.stdlib_module_names:
            return
        if self._functions:
            self.inner.append((line, module, self._extra))
        else:
            self.top.append((line, module))


def undeclared(source: str, extras: tuple[str, ...]) -> Iterator[str]:
    """What a file of a room with these extras may not import, or not like this."""
    imports, own = Imports(source), declared(*extras)
    for line, module in imports.top:
        if distribution(module) not in own:
            yield f"line {line}: {module} at the top"
    for line, module, extra in imports.inner:
        if distribution(module) not in (declared(extra) if extra else own):
            yield f"line {line}: {module} under {extra or 'no extra'}"


def files_of(room: str) -> list[Path]:
    if room.endswith(".py"):
        return [ROOT / room]
    return sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("room", ROOMS)
def test_what_is_imported_is_declared(room: str) -> None:
    files = files_of(room)
    assert files
    wrong = {str(file.relative_to(ROOT)): list(undeclared(file.read_text("utf-8"), ROOMS[room])) for file in files}
    assert {file: lines for file, lines in wrong.items() if lines} == {}


@pytest.mark.parametrize(
    ("source", "is_wrong"),
    [
        ("import safetensors.numpy", False),
        ("import yaml, PIL.Image", False),
        ("from . import torch", False),
        ("import torch", True),
        ("import numpy, matplotlib", True),
        ("try:\n    import tensorboard\nexcept ImportError: pass", True),
        ("class A:\n    import ftfy", True),
        ("def f():\n    import av", False),
        ("def f():\n    import ftfy", True),
        ("async def f():\n    import ftfy", True),
        ("def f():\n    try:\n        import ftfy\n    except ImportError: pass", True),
        ("def f():\n    with needs_extra('train', 'x'):\n        import ftfy", False),
        ("def f():\n    with needs_extra('train', 'x'):\n        pass\n    import ftfy", True),
        ("def f():\n    with needs_extra('parquet', 'x'):\n        import ftfy", True),
        ("with needs_extra('train', 'x'):\n    import ftfy", True),
    ],
)
def test_what_is_not_declared_is_seen(source: str, is_wrong: bool) -> None:
    assert bool(list(undeclared(source, ()))) == is_wrong


def test_packages_are_known_by_their_names() -> None:
    installed = packages_distributions()
    modules = set().union(*(Imports(file.read_text("utf-8")).modules() for room in ROOMS for file in files_of(room)))
    names = {module: set(map(normal, installed[module])) for module in modules & set(installed)}
    assert {module: known for module, known in names.items() if distribution(module) not in known} == {}


def test_optimisers_of_libraries_are_in_their_extra() -> None:
    modules = {module: extra for module, _, extra in OTHER_OPTIMIZERS.values()}
    assert modules
    assert [module for module, extra in modules.items() if distribution(module) not in declared(extra)] == []


def test_the_doctor_knows_every_optional_package() -> None:
    extras = {package.distribution: package.extra for package in doctor.PACKAGES}
    assert set().union(*(declared(extra) for extra in EXTRAS if extra != "test")) - declared() <= set(extras)
    assert [name for name, extra in extras.items() if name not in (declared(extra) if extra else declared())] == []
