"""What gets imported when: core without a framework, the help without anything heavy, sampling without what trains."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from duosora.core.cli.doctor import PACKAGES

ROOT = Path(__file__).parents[2]
FRAMEWORKS = {"torch", "mindspore", "mindone", "transformers", "einops"}
HEAVY = FRAMEWORKS | {"numpy", "av", "PIL", "scipy", "sentencepiece", "safetensors"}
HEAVY |= {package.module for package in PACKAGES}

NEEDLESS_TO_SAMPLE = (
    *("torch._dynamo", "torch._inductor", "sympy", "mindone", "transformers", "tokenizers", "deepspeed"),
    *("matplotlib", "tensorboard", "sklearn", "pandas", "pyarrow", "ftfy", "bs4", "decord", "rich"),
    *("duosora.convert", "duosora.core.api", "duosora.core.evaluate", "duosora.core.goldens", "duosora.core.launch"),
    *("duosora.core.train", "duosora.core.config.training", "duosora.core.data.annotations", "duosora.core.checkup"),
)
"""Each takes time to import that a short run feels."""

IMPORT_ALL = """
import importlib, json, pkgutil, sys
package = importlib.import_module(sys.argv[1])
names = [module.name for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
for name in names:
    importlib.import_module(name)
print(json.dumps([names, sorted({name.partition(".")[0] for name in sys.modules})]))
"""
HELP = """
import json, sys
from typer.main import get_command
from duosora.core.cli.main import app, main

def verbs(command, *names):
    yield names
    for name, inner in getattr(command, "commands", {}).items():
        yield from verbs(inner, *names, name)

loaded = {}
for names in verbs(get_command(app)):
    sys.argv = ["duosora", *names, "--help"]
    try:
        main()
    except SystemExit as leaving:
        assert leaving.code == 0, names
    loaded[" ".join(names)] = sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps(loaded))
"""
SAMPLE = """
import gc, json, sys
from duosora.core.cli.main import main
sys.argv = ["duosora", "sample", *sys.argv[1:]]
try:
    main()
except SystemExit as leaving:
    assert not leaving.code
print(json.dumps([gc.isenabled(), gc.get_freeze_count(), [*sys.modules]]))
"""


def run(code: str, *arguments: str) -> str:
    """What a fresh interpreter prints last."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("package", ["duosora.core", "duosora.convert"])
def test_every_module_imports_without_a_framework(package: str) -> None:
    names, loaded = json.loads(run(IMPORT_ALL, package))
    folder = ROOT / package.rpartition(".")[2]
    assert len(names) + 1 == len(list(folder.rglob("*.py"))), "a module was left out of the walk"
    assert not FRAMEWORKS & set(loaded)


def test_importing_duosora_loads_nothing_and_its_names_no_framework() -> None:
    code = "import sys, json, duosora; first = [*sys.modules]; duosora.load; print(json.dumps([first, [*sys.modules]]))"
    first, then = ({name.partition(".")[0] for name in names} for names in json.loads(run(code)))
    assert not (HEAVY | {"pydantic", "typer", "tqdm"}) & first
    assert "numpy" in then
    assert not FRAMEWORKS & then


def test_help_of_every_verb_imports_nothing_heavy() -> None:
    loaded = json.loads(run(HELP))
    assert {"", "sample", "data check", "cache text"} <= set(loaded)
    assert {verb: HEAVY & set(modules) for verb, modules in loaded.items() if HEAVY & set(modules)} == {}


@pytest.mark.parametrize("backend", ["torch", pytest.param("mindspore", marks=pytest.mark.slow)])
def test_sampling_imports_nothing_that_it_does_not_need(backend: str, tmp_path: Path) -> None:
    sampling = ("--config", str(ROOT / "configs/sample/tiny.yaml"), "--set", "sampler.steps=1")
    collects, kept, loaded = json.loads(run(SAMPLE, *sampling, "--backend", backend, "--out", str(tmp_path)))
    other = "mindspore" if backend == "torch" else "torch"
    needless = {*NEEDLESS_TO_SAMPLE, other, f"duosora.backends.{other}"}
    assert sorted(name for name in loaded for each in needless if f"{name}.".startswith(f"{each}.")) == []
    assert collects
    assert kept > 100_000, "garbage is looked for in what the framework's import brought"


def contracts() -> list[dict[str, Any]]:
    """What `make lint` holds imports to."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return settings["tool"]["importlinter"]["contracts"]


def test_nothing_in_core_is_left_out_of_its_layers() -> None:
    (layers,) = (contract for contract in contracts() if contract["type"] == "layers")
    assert layers["exhaustive"]
    assert layers["ignore_imports"] == ["duosora -> duosora.core.*"]
    named = {name.strip() for layer in layers["layers"] for name in layer.split("|")}
    held = {path.stem for path in (ROOT / "core").iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert named == held - {"__init__"}


def test_circles_are_looked_for_everywhere() -> None:
    (circles,) = (contract for contract in contracts() if contract["type"] == "acyclic_siblings")
    assert circles["ancestors"] == ["duosora"]
    assert not circles.keys() & {"ignore_imports", "skip_descendants", "depth"}


def test_every_backend_has_an_import_contract() -> None:
    covered = {source for contract in contracts() for source in contract.get("source_modules", ())}
    backends = {f"duosora.backends.{init.parent.name}" for init in (ROOT / "backends").glob("*/__init__.py")}
    assert backends <= covered
