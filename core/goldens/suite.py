"""All golden families: which runner computes a case, and the verdict on each of its tensors."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, DuosoraError
from ..io.files import read_json
from ..models.finding import family_of
from ..seam.backend import Backend
from .case import Case, Verdict, find_cases

RUNNERS = ("cond", "data", "loss", "mt5", "osdata", "osvae", "pipeline", "sched", "t2v", "t5", "train", "wfvae")
"""Families with a runner: `core.goldens.<family>.run(case, backend)` gives every output tensor of a case."""

TABLES = ("cond", "osdata", "osvae", "t5")
"""Those of them whose JSON files, manifests aside, are cases too."""

TRAINING = ("loss", "train")
"""Those of them that need gradients."""

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
    """Whether a runner for the case's family is written."""
    return case.family in RUNNERS


def run_case(case: Case, backend: Backend, slack: float = 1.0) -> Result:
    """Compute every output tensor of a case and judge it; a tensor that nothing computes counts as failed.

    A case that its runner cannot make sense of is an error in the result, so that the others are run all the same.
    """
    try:
        runner = importlib.import_module(f"{__package__}.{case.family}")
        with nullcontext() if case.family in TRAINING else backend.inference():
            comparisons = (each for each in runner.run(case, backend) if case.holds(each))
            verdicts = [case.judge(comparison, slack) for comparison in comparisons]
        computed = {verdict.name.split(" ")[0] for verdict in verdicts}
        outputs = case.outputs(runner.inputs(case) if hasattr(runner, "inputs") else ())
        forgotten = [Verdict(f"{name} (not computed)", float("inf"), float("inf")) for name in outputs]
        verdicts += [verdict for verdict in forgotten if verdict.name.split(" ")[0] not in computed]
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
        params = manifest["params"] if "params" in manifest else manifest["tensors"]
        expected = {key: tuple(shape) for key, shape in params.items()}
        layout = _manifest_spec(file.parent.name, manifest, name).layout()
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Result(name, error=f"{file}: cannot be read as a manifest ({error})")
    ours = {key: weight.shape for key, weight in layout.items()}
    ours |= {alias: ours[target] for alias, target in layout.aliases.items()}
    wrong = {key for key, _ in set(ours.items()) ^ set(expected.items())}
    return Result(
        name, (Verdict(f"{len(expected)} names and shapes", float(len(wrong)), 0.0 if not wrong else float("inf")),)
    )


def _manifest_spec(family: str, manifest: Mapping[str, Any], source: str) -> Any:
    """The spec of a manifest's model: as the family's runner reads it, or of its config.json."""
    runner = importlib.import_module(f"{__package__}.{family}")
    if hasattr(runner, "manifest_spec"):
        return runner.manifest_spec(manifest, source)
    config = manifest.get("config_json_as_saved", manifest.get("config"))
    return family_of(config or {"_class_name": "WFVAEModel"}, source).spec.from_config(config, source)


def find_manifests(folder: Path) -> Iterator[Path]:
    """Manifests of the families that have a runner."""
    for file in sorted(folder.rglob("manifest_*.json")):
        if file.parent.name in RUNNERS:
            yield file


def find_all(folder: Path) -> tuple[list[Path], list[Case]]:
    """Manifests and cases below a folder. Raises CheckpointError when there is neither."""
    manifests = list(find_manifests(folder)) if folder.is_dir() else []
    try:
        cases = list(find_cases(folder, TABLES))
    except CheckpointError:
        if not manifests:
            raise
        cases = []
    return manifests, cases
