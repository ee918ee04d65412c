"""A family is one name: a file of that name in each room, a line in the list, and nothing said of it elsewhere."""

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

from duosora.core.models import FAMILIES, NAMES
from duosora.core.models.kinds import GIVEN, Family

ROOT = Path(__file__).parents[2]
ROOMS = ("core/models", "backends/torch/models", "backends/mindspore/models", "convert/names")
ALONE = ("patch_discriminator", "lpips")
"""Architectures that have no folder of their own, and so no Family: two that judge what others make, and the
autoencoder of pictures that is a part of those of videos."""
HELPERS = {
    "core/models": {
        "adaln",
        "adaln_single",
        "by_shapes",
        "config_json",
        "epoch_folders",
        "finding",
        "kinds",
        "run_folders",
        "work",
    },
    "convert/names": {"mindone"},
}
"""What the rooms of families hold for all of them."""
ALLOWED = (*(f"{room}/" for room in ROOMS), "core/goldens/runners/")
"""Golden cases are of one architecture each, so a runner may say which."""
TINY = {"tiny"}
"""The preset and the recipe that are there where nobody names one."""


def sources() -> Iterator[tuple[str, str]]:
    """Files outside the rooms of families, by their path."""
    for room in ("core", "backends", "convert"):
        for file in sorted((ROOT / room).rglob("*.py")):
            path = file.relative_to(ROOT).as_posix()
            if not path.startswith(ALLOWED):
                yield path, file.read_text("utf-8")


@cache
def imported(source: str) -> set[str]:
    """Last names of the modules that a file imports, or imports from."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            found |= {(node.module or "").rpartition(".")[2], *(alias.name for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name.rpartition(".")[2] for alias in node.names}
    return found


@cache
def strings(source: str) -> set[str]:
    """Texts in a file that are no documentation."""
    tree = ast.parse(source)
    documented = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in documented)
    return {node.value for node in texts if isinstance(node.value, str)}


def naming(files: Mapping[str, str], name: str) -> list[str]:
    """The files that import a family by name, or have the name as a text."""
    return sorted(path for path, source in files.items() if name in imported(source) | strings(source))


@pytest.mark.parametrize("name", NAMES)
def test_a_family_has_its_file_in_every_room(name: str) -> None:
    assert [room for room in ROOMS if not (ROOT / room / f"{name}.py").is_file()] == []
    assert list((ROOT / "tests").rglob(f"test_{name}.py"))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_family_is_what_its_file_says(family: Family) -> None:
    assert family.name in NAMES
    assert family.spec.__module__.rpartition(".")[2] == family.name
    for spec in family.presets.values():
        assert type(spec) is family.spec


@pytest.mark.parametrize("room", ROOMS)
def test_a_file_in_a_room_is_a_familys(room: str) -> None:
    files = {file.stem for file in (ROOT / room).glob("*.py")} - {"__init__"}
    assert files >= HELPERS.get(room, set())
    assert files - HELPERS.get(room, set()) - {*ALONE} == set(NAMES)


@pytest.mark.parametrize("backend", ["torch", "mindspore"])
def test_a_backend_makes_each_model_by_create(backend: str) -> None:
    for name in (*NAMES, *ALONE):
        tree = ast.parse((ROOT / f"backends/{backend}/models/{name}.py").read_text("utf-8"))
        creators = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "create"]
        assert [ast.unparse(argument) for node in creators for argument in node.args.args][1:] == ["attend: Attend"]


@pytest.mark.parametrize("name", NAMES)
def test_no_other_file_names_a_family(name: str) -> None:
    listed = ("core/models/__init__.py",)
    files = {path: source for path, source in sources() if path not in listed}
    assert naming(files, name) == []


def test_class_names_stay_in_the_rooms() -> None:
    classes = {family.spec.__name__ for family in FAMILIES}
    found = {path: names for path, source in sources() if (names := classes & set(re.findall(r"\w+", source)))}
    assert found == {}


@pytest.mark.parametrize(
    "source",
    ["from ..models.wfvae import X", "from ..models import wfvae", "import a.wfvae", "kind = 'wfvae'"],
)
def test_a_name_is_seen(source: str) -> None:
    assert naming({"a.py": source, "b.py": '"""wfvae"""\nwfvae_like = "a wfvae"'}, "wfvae") == ["a.py"]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_spec_answers_the_questions_of_its_kind(family: Family) -> None:
    for name, spec in family.presets.items():
        assert spec.facts(), name
        assert all(spec.layout()), name
        if family.kind == "denoiser":
            assert spec.given <= set(GIVEN)
            assert ("channels" in spec.given) == (spec.further_channels > 0)
            assert ("text" in spec.given) == (spec.text_channels > 0)
            assert spec.costs().layers <= 2 * len(spec.blocks()), "a block attends among the tokens once or twice"
            assert spec.costs().width == spec.costs().heads * spec.costs().head_dim
        blocks = spec.blocks() if family.kind != "vae" else [each for half in spec.blocks().values() for each in half]
        assert all(any(weight.startswith(f"{block}.") for weight in spec.layout()) for block in blocks), name


def test_names_of_presets_are_unique_in_a_kind() -> None:
    kinds = {family.kind for family in FAMILIES}
    for kind in kinds:
        names = [name for family in FAMILIES if family.kind == kind for name in family.presets]
        assert len(names) == len(set(names))


RECIPE_FILES = {file.stem for file in (ROOT / "core/recipes").glob("*.py")} - {"__init__", "recipe"}


def test_no_file_outside_the_recipes_names_one() -> None:
    allowed = ("core/recipes/", "core/goldens/runners/")
    files = [file for room in ("core", "backends", "convert") for file in sorted((ROOT / room).rglob("*.py"))]
    paths = {file.relative_to(ROOT).as_posix(): file for file in files}
    others = {path: file.read_text("utf-8") for path, file in paths.items() if not path.startswith(allowed)}
    # A preset of a model may be called as the recipe that it is made for.
    presets = {preset for family in FAMILIES for preset in family.presets}
    rooms = tuple(f"{room}/" for room in ROOMS)
    found = {name: naming(others, name) for name in RECIPE_FILES - TINY}
    strangers = {
        name: [path for path in paths if not (name in presets and path.startswith(rooms))]
        for name, paths in found.items()
    }
    assert {name: paths for name, paths in strangers.items() if paths} == {}


def test_recipes_alone_name_presets() -> None:
    presets = {preset for family in FAMILIES for preset in family.presets} - TINY
    others = {path: source for path, source in sources() if not path.startswith("core/recipes/")}
    assert {path: named for path, source in others.items() if (named := presets & strings(source))} == {}


def test_recipes_alone_choose_how_more_than_text_is_given() -> None:
    """Training makes channels itself, of frames that it has masked; where nothing is given, nothing is chosen."""
    allowed = {"channels": ["core/train/inputs.py"], "nothing": ["core/pipelines/settled.py"], "references": []}
    files = {path: source for path, source in sources() if path.startswith(("core/pipelines/", "core/train/"))}
    found = {path: re.findall(r"^from \.+conditioning\.(\w+) import", text, re.M) for path, text in files.items()}
    assert {name: [path for path in sorted(files) if name in found[path]] for name in allowed} == allowed
