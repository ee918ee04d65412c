"""All golden families: which runner computes a case, and the verdict on each of its tensors.

A runner is a file of core.goldens.runners, called after its family. It has `run(case, backend)`, which gives every
result of a case, and may have
GRADIENTS = True: its cases need gradients;
INPUTS: a pattern of the names of tensors that are no results, for cases that do not say it themselves;
NOT_YET: names of cases that it cannot compute yet;
layout(manifest): the layout that a manifest of a full-size model is compared with.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from ..errors import CheckpointError, DuosoraError
from ..io.files import read_json
from ..seam.backend import Backend
from . import runners
from .case import Case, Verdict, find_cases
from .forms import manifest_shapes

RUNNERS = frozenset(module.name for module in iter_modules(runners.__path__))
UNREADABLE = (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What a case of another form comes to, deep in a runner or a framework."""


@dataclass(frozen=True)
class Result:
    """What became of one case or manifest."""

    name: str
    verdicts: tuple[Verdict, ...] = ()
    error: str = ""
    """Why the case could not be run; empty when it was."""

    @property
    def passed(self) -> bool:
        return not self.error and bool(self.verdicts) and all(verdict.passed for verdict in self.verdicts)

    @property
    def worst(self) -> Verdict | None:
        return max(self.verdicts, key=lambda verdict: verdict.ratio, default=None)


def is_implemented(case: Case) -> bool:
    """Whether a runner for the case is written."""
    runner = _runner(case.family)
    return runner is not None and case.name.rpartition("/")[2] not in getattr(runner, "NOT_YET", ())


def run_case(case: Case, backend: Backend, slack: float = 1.0) -> Result:
    """Compute every result of a case and judge it; one that nothing computes counts as failed.

    A case that its runner cannot make sense of is an error in the result, so that the others are run all the same.
    """
    runner = _runner(case.family)
    try:
        with nullcontext() if getattr(runner, "GRADIENTS", False) else backend.inference():
            comparisons = (each for each in runner.run(case, backend) if case.holds(each))
            verdicts = [case.judge(comparison, slack) for comparison in comparisons]
        computed = {verdict.name.split(" ")[0] for verdict in verdicts}
        forgotten = [name for name in _results(case, runner) if name not in computed]
        verdicts += [Verdict(f"{name} (not computed)", float("inf"), float("inf")) for name in forgotten]
        return Result(case.name, tuple(verdicts))
    except DuosoraError as error:
        return Result(case.name, error=str(error))
    except UNREADABLE as error:
        told = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return Result(case.name, error=f"{case.folder}: cannot be run as a case of {case.family} ({told})")


def run_manifest(file: Path) -> Result:
    """Compare a full-size model's layout with a manifest of its parameter names and shapes."""
    name = f"{file.parent.name}/{file.stem}"
    try:
        manifest = read_json(file)
        expected = manifest_shapes(manifest)
        layout = _runner(file.parent.name).layout(manifest)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return Result(name, error=f"{file}: cannot be read as a manifest ({error})")
    ours = {key: weight.shape for key, weight in layout.items()}
    ours |= {alias: ours[target] for alias, target in layout.aliases.items() if alias in expected}
    wrong = {key for key, _ in set(ours.items()) ^ set(expected.items())}
    return Result(
        name, (Verdict(f"{len(expected)} names and shapes", float(len(wrong)), 0.0 if not wrong else float("inf")),)
    )


def find_manifests(folder: Path) -> Iterator[Path]:
    """Manifests of the families whose runner has a layout to compare them with."""
    for file in sorted(folder.rglob("manifest_*.json")):
        if hasattr(_runner(file.parent.name), "layout"):
            yield file


def find_all(folder: Path) -> tuple[list[Path], list[Case]]:
    """Manifests and cases below a folder. Raises CheckpointError when there is neither."""
    manifests = list(find_manifests(folder)) if folder.is_dir() else []
    try:
        cases = list(find_cases(folder))
    except CheckpointError:
        if not manifests:
            raise
        cases = []
    return manifests, cases


def _runner(family: str) -> Any:
    """The runner of a family; None where none is written."""
    return importlib.import_module(f".{family}", runners.__name__) if family in RUNNERS else None


def _results(case: Case, runner: Any) -> list[str]:
    """Names of the tensors that have to be computed: those that a case calls its outputs, or all but its inputs."""
    inputs = getattr(runner, "INPUTS", None)
    if inputs is None:
        return case.outputs()
    roles = case.contents.roles
    return [name for name, role in roles.items() if role != "input" and not re.fullmatch(inputs, name)]
