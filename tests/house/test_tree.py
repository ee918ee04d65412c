"""The tree is laid out as promised: rooms, links, packages, nothing that belongs to one machine, no dead reference."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

from duosora.core.config import schema, training
from duosora.core.config.loading import load

ROOT = Path(__file__).parents[2]
ROOMS = ("core", "backends", "convert")
TOP_LEVEL_FOLDERS = {*ROOMS, "scripts", "configs", "tests", "src", "docs", "benchmarks", "examples", ".ci"}
TEXT_SUFFIXES = {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".jsonl", ".txt", ".sh", ".cfg", ""}
SCHEMAS = {"sample": schema.SampleConfig, "reconstruct": schema.ReconstructConfig, "train": training.TrainConfig}
"""What the files in each folder of configs/ are read as."""

# In two parts, so that this file does not hold what it looks for.
MACHINE_PATH = re.compile(
    "|".join((r"(?<![\w.])/work" + "/", r"(?<![\w.])/tmp" + "/", r"/root" + "/", r"/home" + r"/\w"))
)
REGISTRY_HOST = re.compile("|".join(("pypi" + r"\.org", "python" + "hosted", "npm" + r"js\.", "deb" + r"ian\.org")))
RANK_WORDS = re.compile(r"process_group|all_to_all|all_gather|all_reduce|get_rank|world_size|hccl|nccl", re.IGNORECASE)


def git(*arguments: str) -> list[str]:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")[
        :-1
    ]


def tracked() -> list[Path]:
    """Files that git knows, without the links."""
    paths = [ROOT / name for name in git("ls-files", "-z")]
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def test_top_level_folders_are_the_agreed_ones() -> None:
    held = {path.relative_to(ROOT).parts[0] for path in tracked() if path.parent != ROOT}
    assert held <= TOP_LEVEL_FOLDERS
    assert set(ROOMS) <= held


@pytest.mark.parametrize("room", [*ROOMS, "configs"])
def test_the_package_links_to_its_rooms(room: str) -> None:
    (entry,) = git("ls-files", "-z", "--stage", f"src/duosora/{room}")
    assert entry.startswith("120000 "), "git holds a file or folder instead of a symbolic link"
    assert (ROOT / "src" / "duosora" / room).readlink() == Path("..", "..", room)


@pytest.mark.parametrize("room", ROOMS)
def test_every_folder_with_python_is_a_package(room: str) -> None:
    folders = {file.parent for file in (ROOT / room).rglob("*.py")}
    for folder in list(folders):
        folders |= {parent for parent in folder.parents if parent.is_relative_to(ROOT / room)}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_models_know_nothing_of_ranks() -> None:
    files = sorted((ROOT / "backends").glob("*/models/**/*.py"))
    assert files
    knowing = {f"{file.relative_to(ROOT)}: {word}" for file in files for word in RANK_WORDS.findall(file.read_text())}
    assert knowing == set()


@pytest.mark.parametrize("pattern", [MACHINE_PATH, REGISTRY_HOST], ids=["path of a machine", "host of a registry"])
def test_no_file_depends_on_one_machine(pattern: re.Pattern[str]) -> None:
    texts = {file: file.read_text(encoding="utf-8") for file in tracked() if file.suffix in TEXT_SUFFIXES}
    assert {
        f"{file.relative_to(ROOT)}: {found}" for file, text in texts.items() for found in pattern.findall(text)
    } == set()


def test_nobody_is_told_to_install_a_package_that_is_not_published() -> None:
    told = re.compile("pip install " + r'"?duosora\b|`duosora\[')
    files = [file for file in tracked() if file.suffix in TEXT_SUFFIXES and file.parts[-2] != "house"]
    assert [str(file.relative_to(ROOT)) for file in files if told.search(file.read_text(encoding="utf-8"))] == []


def test_golden_cases_are_few() -> None:
    """Those who have more run `duosora check` on their folder."""
    assert sum(file.stat().st_size for file in tracked() if "goldens" in file.parts) <= 10e6


def test_links_in_documents_lead_somewhere() -> None:
    documents = [file for file in tracked() if file.suffix == ".md"]
    assert documents
    assert [f"{file.relative_to(ROOT)}: {link}" for file in documents for link in dead_links(file)] == []


def dead_links(document: Path) -> list[str]:
    """Links of a Markdown file to files or headings that are not there; links to the web are not followed."""
    dead = []
    for link in re.findall(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, heading = link.partition("#")
        target = document.parent / name if name else document
        if not target.exists() or (heading and heading not in anchors(target)):
            dead.append(link)
    return dead


def anchors(document: Path) -> set[str]:
    """The names under which a Markdown file's headings can be linked to."""
    headings = re.findall(r"^#+ +(.*?) *$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "file", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda file: f"{file.parent.name}/{file.name}"
)
def test_config_files_fit_their_schema(file: Path) -> None:
    load(file, SCHEMAS[file.parent.name])


def test_a_class_name_stands_for_one_thing() -> None:
    files: dict[str, list[str]] = {}
    for file in [*(ROOT / "core").rglob("*.py"), *(ROOT / "convert").rglob("*.py")]:
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                files.setdefault(node.name, []).append(str(file.relative_to(ROOT)))
    assert {name: places for name, places in files.items() if len(places) > 1} == {}
