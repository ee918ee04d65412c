"""The wheel in fresh environments outside the source tree: every verb, and every command of the README, works there."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

pytestmark = pytest.mark.install

ROOT = Path(__file__).parents[2]
EXTRAS = ((), ("torch",), ("mindspore",), ("torch", "train"))
LINES = [
    line.partition(" #")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    for line in block.splitlines()
]
TWO = re.compile(r"(-n |NPROC=|sequence=)8")
"""Processes: as many as there are where the tests run, instead of those of a large machine."""
COMMANDS = [TWO.sub(r"\g<1>2", line) for line in LINES if re.match(r"duosora |[A-Z]+=", line)]
OF_A_CLONE = ("git clone ", "pip install -e ", "make ")
"""What the other lines do; test_demo.py makes a clone."""
DRY_RUN = " --dry-run"
ON_MINDSPORE = " --backend mindspore --out outputs/by_mindspore"
RUNS_WITH = {
    'duosora sample "a small': ("backend",),
    "duosora reconstruct tests/media/city.mp4 --set": ("backend",),
    "duosora evaluate": ("backend",),
    "duosora train --config configs/train/example_t2v.yaml": ("backend",),
    "duosora train --config configs/train/example_wfvae.yaml": ("backend",),
    "duosora plot": ("backend", "train"),
    "duosora data check": (),
    "duosora cache latents": ("backend",),
    "duosora launch -n 2 -- doctor": ("backend",),
}
"""What commands do what they are for with: extras, and "backend" for either of them. The others want models that nobody
has from the start; tests/cli/test_readme.py has stand-ins for them."""
BACKENDS = {"torch", "mindspore"}
HELP = """
import json, sys
from typer.main import get_command
from duosora.core.cli.main import app, main

def verbs(command, *names):
    yield names
    for name, inner in getattr(command, "commands", {}).items():
        yield from verbs(inner, *names, name)

codes = {}
for names in verbs(get_command(app)):
    sys.argv = ["duosora", *names, "--help"]
    try:
        main()
    except SystemExit as leaving:
        codes[" ".join(names)] = leaving.code
print(json.dumps([sys.modules["duosora"].__file__, codes]))
"""


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def refuses(self) -> bool:
        """In one line, below what the launcher announces, with the exit code of errors that a user can mend."""
        return self.code == 2 and bool(re.fullmatch(r"(launch: .+\n)*(duosora|launch): .+\n", self.err))


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel, and a folder to work in that holds what a user would bring."""

    extras: tuple[str, ...]
    prefix: Path
    work: Path
    variables: dict[str, str]

    def run(self, *words: str) -> Outcome:
        path = f"{self.prefix / 'bin'}:{self.variables['PATH']}"
        done = subprocess.run(
            words, cwd=self.work, env={**self.variables, "PATH": path}, capture_output=True, text=True, check=False
        )
        return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def wheel(clone: Path, variables: dict[str, str]) -> Iterator[Path]:
    with TemporaryDirectory(prefix="duosora-wheel-") as folder:
        pip(variables, "wheel", "--no-deps", "--wheel-dir", folder, str(clone))
        (built,) = Path(folder).glob("*.whl")
        yield built


@pytest.fixture(scope="module", params=EXTRAS, ids=lambda extras: f"[{','.join(extras)}]")
def installed(request: pytest.FixtureRequest, wheel: Path, variables: dict[str, str]) -> Iterator[Installed]:
    with TemporaryDirectory(prefix="duosora-installed-") as folder:
        prefix, work = Path(folder, "venv"), Path(folder, "work")
        subprocess.run(["python3", "-m", "venv", "--without-pip", prefix], env=variables, check=True)
        wanted = f"duosora[{','.join(request.param)}] @ {wheel.as_uri()}"
        limits = ("--constraint", str(ROOT / "constraints.txt"))
        pip(variables, "--python", str(prefix / "bin" / "python"), "install", "--no-compile", *limits, wanted)
        bring_files(work)
        yield Installed(request.param, prefix, work, variables)


def pip(variables: dict[str, str], *words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", *words], env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def bring_files(work: Path) -> None:
    """What of a clone is beside a user: the scripts, and the clips."""
    for name in ("scripts", "tests/media"):
        shutil.copytree(ROOT / name, work / name)


def problem(installed: Installed, command: str) -> str | None:
    """What is wrong with how a command of the README ends in an environment: it may run, or refuse in one line."""
    assignments = re.match(r"(?:[A-Z]+=\S+ )*", command)[0]
    outcome = installed.run("env", *shlex.split(assignments), *shlex.split(command[len(assignments) :]))
    needed = needed_extras(command)
    there = {*installed.extras, *(["backend"] if BACKENDS & set(installed.extras) else [])}
    if "Traceback" in outcome.out + outcome.err:
        right = False
    elif command == "duosora doctor":
        right = outcome.code == (0 if "backend" in there else 1)
    elif needed is None:
        right = outcome.code == 0 or outcome.refuses
    elif needed <= there:
        right = outcome.code == 0
    else:
        right = outcome.refuses and re.search(r"in the clone of duosora|no such file", outcome.err)
    return None if right else f"{command}\n{outcome.code}\n{outcome.out[-2000:]}\n{outcome.err[-2000:]}"


def needed_extras(command: str) -> set[str] | None:
    if command.endswith(ON_MINDSPORE):
        return {"mindspore"}
    return next((set(extras) for words, extras in RUNS_WITH.items() if command.startswith(words)), None)


def test_commands_of_the_readme_are_all_known() -> None:
    others = [line for line in LINES if line and TWO.sub(r"\g<1>2", line) not in COMMANDS]
    assert [line for line in others if not line.startswith(OF_A_CLONE)] == []
    assert [words for words in RUNS_WITH if not any(command.startswith(words) for command in COMMANDS)] == []


def test_the_wheel_holds_what_runs_and_nothing_else(wheel: Path, clone: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if not name.startswith("duosora-")}
    rooms = ("core", "backends", "convert", "configs")
    files = [path for room in rooms for path in (clone / room).rglob("*") if path.is_file()]
    expected = {f"duosora/{path.relative_to(clone)}" for path in files}
    expected |= {f"duosora/configs/media/{path.name}" for path in (clone / "tests" / "media").iterdir()}
    assert held == expected | {f"duosora/{name}" for name in ("__init__.py", "__main__.py", "py.typed")}


def test_every_verb_helps(installed: Installed) -> None:
    outcome = installed.run("python", "-c", HELP)
    assert outcome.code == 0, outcome.err
    place, codes = json.loads(outcome.out.splitlines()[-1])
    assert Path(place).is_relative_to(installed.prefix)
    assert {"", "train", "plot", "judge", "parity", "calibrate", "cache text", "data check"} <= set(codes)
    assert {verb: code for verb, code in codes.items() if code != 0} == {}


def test_the_readme_can_be_followed(installed: Installed) -> None:
    """From its first command to its last, as some need what those before them wrote."""
    commands = [*COMMANDS, COMMANDS[1] + ON_MINDSPORE]
    if "train" not in installed.extras:  # where a minute is saved; it trains with the extra that the README names
        commands = [command + DRY_RUN if command.startswith("duosora train") else command for command in commands]
    if found := list(filter(None, [problem(installed, command) for command in commands])):
        pytest.fail("\n\n".join(found), pytrace=False)
