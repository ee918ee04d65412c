"""The two backends mirror each other: same files, same public names, same signatures, in the same order.

Read from the source, so neither framework needs to be there. What a framework writes in its own way is brought to one
form: its name in names (TorchBackend, MindSporeBackend), and construct for forward. Bodies and annotations may differ.
"""

import ast
import re
from pathlib import Path

import pytest

BACKENDS = Path(__file__).parents[2] / "backends"


def files(backend: str) -> set[str]:
    return {str(file.relative_to(BACKENDS / backend)) for file in (BACKENDS / backend).rglob("*.py")}


def test_both_backends_have_the_same_files() -> None:
    assert files("torch") == files("mindspore")


def test_twin_files_offer_the_same() -> None:
    found = {}
    for file in sorted(files("torch") & files("mindspore")):
        torch, mindspore = (public((BACKENDS / name / file).read_text("utf-8")) for name in ("torch", "mindspore"))
        found[file] = differences(torch, mindspore)
    assert {file: lines for file, lines in found.items() if lines} == {}


Public = dict[str, str | None]
"""Public names in their order; a function, method or class with its signature, anything else with None."""


def public(source: str) -> Public:
    """What a module offers: methods as Class.method behind their class, and names in `__all__` that it passes on."""
    names: Public = {}
    passed_on: list[str] = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names |= _definition(node, "")
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            bound = [_neutral(target.id) for target in targets if isinstance(target, ast.Name)]
            names |= {name: None for name in bound if not name.startswith("_")}
            if "__all__" in bound and node.value:
                passed_on = [_neutral(name) for name in ast.literal_eval(node.value)]
    return names | {name: None for name in passed_on if name not in names}


def differences(torch: Public, mindspore: Public) -> list[str]:
    """What one offers and the other does not, signatures that differ, and an order that differs."""
    found = [f"only in torch: {name}" for name in _lacking(torch, mindspore)]
    found += [f"only in mindspore: {name}" for name in _lacking(mindspore, torch)]
    both = [name for name in torch if torch[name] is not None and mindspore.get(name) is not None]
    for name in both:
        if torch[name] != mindspore[name]:
            found.append(f"{name}{torch[name]} in torch, {name}{mindspore[name]} in mindspore")
    turned = [name for name in mindspore if name in set(both)]
    if turned != both:
        found.append(f"order: {both} in torch, {turned} in mindspore")
    return found


def _lacking(one: Public, other: Public) -> list[str]:
    """Names of one that the other lacks, save the methods of a class that the other passes on from its framework."""
    passed_on = {name for name, signature in other.items() if signature is None}
    return [name for name in one if name not in other and name.partition(".")[0] not in passed_on]


def _definition(node: ast.FunctionDef | ast.ClassDef, inside: str) -> Public:
    name = _neutral(node.name)
    is_hidden = name.startswith("_") and name not in ("__init__", "__call__")
    if is_hidden:
        return {}
    if isinstance(node, ast.FunctionDef):
        return {inside + name: _signature(node.args)}
    names: Public = {inside + name: ""}
    for member in node.body:
        if isinstance(member, ast.FunctionDef | ast.ClassDef):
            names |= _definition(member, f"{inside}{name}.")
    return names


def _signature(arguments: ast.arguments) -> str:
    """Parameters with their kinds and defaults, without annotations."""
    for argument in ast.walk(arguments):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    return f"({ast.unparse(arguments)})"


def _neutral(name: str) -> str:
    name = re.sub("torch|mindspore", "framework", name, flags=re.IGNORECASE)
    return "forward" if name == "construct" else name


TORCH = """
from torch import cat, nn
__all__ = ["Linear", "cat"]
Linear = nn.Linear
def double(x, axis=2): ...
class TorchBlock(nn.Module):
    def __init__(self, width: int) -> None: ...
    def forward(self, x: torch.Tensor, *, mask=None): ...
    def _hidden(self): ...
"""
MINDSPORE = """
__all__ = ["Linear", "cat"]
class Linear(nn.Cell):
    def construct(self, x): ...
def cat(parts, axis): ...
def double(x, axis=2): ...
class MindSporeBlock(nn.Cell):
    def __init__(self, width) -> None: ...
    def construct(self, x: Tensor, *, mask=None): ...
"""


def test_names_of_the_framework_and_own_layers_make_no_difference() -> None:
    assert differences(public(TORCH), public(MINDSPORE)) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("axis=2", "axis=1", "double(x, axis=2) in torch, double(x, axis=1) in mindspore"),
        ("*, mask=None", "mask=None", "frameworkBlock.forward(self, x, *, mask=None) in torch"),
        ("def double", "def triple", "only in torch: double"),
        ("def double", "def more(): ...\ndef double", "only in mindspore: more"),
        ("def __init__(self, width)", "def width(self)", "only in torch: frameworkBlock.__init__"),
    ],
)
def test_differences_are_seen(old: str, new: str, expected: str) -> None:
    found = differences(public(TORCH), public(MINDSPORE.replace(old, new)))
    assert any(line.startswith(expected) for line in found), found


def test_another_order_is_seen() -> None:
    torch, mindspore = public("def a(): ...\ndef b(): ...\n"), public("def b(): ...\ndef a(): ...\n")
    assert differences(torch, mindspore) == ["order: ['a', 'b'] in torch, ['b', 'a'] in mindspore"]
