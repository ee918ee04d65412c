"""Commands in the documents run as written: verbs and options exist, and so does every file that a line names.

A file is in the repository, of the published ones under models/, written by a line before, or a word in CAPITALS, of
which the page says that they stand for what a reader puts in.
"""

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from duosora.core.cli.main import app
from duosora.core.config.schema import split_lora
from duosora.core.config.settings import list_settings
from duosora.core.config.shipped import shipped_names
from duosora.core.config.verbs import SCHEMAS

ROOT = Path(__file__).parents[2]
FOLDERS = (".", "docs", "scripts", "scripts/ascend", "core/models/tiny", "core/models/tiny_v1_2", "tests/media")
ELSEWHERE = ("CHANGELOG.md", "tutorial.md")
"""What was once so, and what tests/cli/test_tutorial.py runs from its first command to its last."""
PAGES = [page for folder in FOLDERS for page in sorted((ROOT / folder).glob("*.md")) if page.name not in ELSEWHERE]
ASSIGNED = re.compile(r"(?:[A-Z_]+=\S+\s+)*")
COMMAND = re.compile(rf"(?:export )?{ASSIGNED.pattern}(?:duosora|scripts/|sbatch )")
REST = re.compile(r"\[--[^\]]*\]| > .*")
"""What a synopsis says may be left out, and where a shell puts what is printed."""
PLACEHOLDER = re.compile(r"[A-Z]+(\.[a-z0-9]+)?|<[^<>]+>")
EXPLAINED = re.compile(r"words\s+in\s+CAPITALS\s+stand\s+for\s+what\s+you\s+put\s+in", re.IGNORECASE)
PUBLISHED = {"models", *(f"models/{name}" for name in ("any93x640x640", "any93x640x640_i2v", "mt5-xxl", "vae"))}
WRITING = ("--out", "-o", "--json", "--report", "--picture", "--markdown", "--to", "caches.text", "caches.latents")
"""Options and settings whose value is a file or folder that the line makes."""
OF_WORDS = ("--backend", "--metrics", "--dtype", "--reference", "--other", "-k", "--resume", "--spelling", "--colour")
"""Options whose value is a word and no file."""
SETTINGS = {setting.path for schema in SCHEMAS.values() for setting in list_settings(schema)}
GROUPS = {"cache", "data"}


def commands(text: str) -> list[list[str]]:
    """The words of each line that starts duosora, in order."""
    blocks = re.findall(r"```(?:bash|text|sh|)\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if COMMAND.match(line)]
    return [shlex.split(ASSIGNED.sub("", REST.sub("", line), count=1), comments=True) for line in lines]


def verbs_of(words: list[str]) -> Iterator[list[str]]:
    """The verb with its words, and those that a launcher starts."""
    if words[0] == "duosora" and words[1:]:
        yield words[1:]
        if words[1] == "launch":
            yield words[words.index("--") + 1 :]


def misused(words: list[str]) -> str | None:
    """What is wrong with the options of a verb; nothing is run."""
    command = get_command(app)
    names = words[:2] if words[0] in GROUPS else words[:1]
    try:
        for name in names:
            command = command.commands[name]
        command.make_context(" ".join(names), words[len(names) :])
    except Exception as error:
        return str(error)
    keys = {word.partition("=")[0] for option, word in pairwise(words) if option in ("--set", "-s")}
    return f"no settings: {sorted(keys - SETTINGS)}" if keys - SETTINGS else None


def files_of(words: list[str]) -> Iterator[tuple[str, bool]]:
    """The files that a line names, as far as its words look like some, and whether the line writes them; a script of
    launch lines writes its run."""
    inner = list(verbs_of(words))[-1:] or [words]
    option = ""
    for word in inner[0][2 if inner[0][0] in GROUPS else 1 :]:
        if word.startswith("-"):
            option = word
            continue
        key, _, value = word.partition("=") if option in ("--set", "-s") else (option, "", word)
        option = "" if option in ("--set", "-s", *WRITING, *OF_WORDS) else option
        looks_like_one = "/" in value or key.startswith("caches.") or not word.count("=")
        if key in OF_WORDS or not looks_like_one or " " in value or re.fullmatch(r"[\d.]+|\w+=\S*", value):
            continue
        value = split_lora(value)[0] if key == "--lora" else value
        yield value.strip("[]"), key in WRITING or (not words[0].startswith("duosora") and value.startswith("runs/"))


def missing(words: list[str], written: set[str]) -> list[str]:
    """Files of a line that nobody has. written: by the lines before, to which those of this one are added."""
    named = list(files_of(words))
    absent = [name for name, is_written in named if not is_written and not is_known(name, written)]
    for name, is_written in named:
        if is_written:
            written.add(name)
        elif name.removeprefix("configs/").removesuffix(".yaml") in shipped_names() and "/train/" in name:
            written.add(yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))["folder"])
    return absent


def is_known(name: str, written: set[str]) -> bool:
    below = any(name == folder or name.startswith(f"{folder}/") for folder in written)
    known = name in PUBLISHED or name in shipped_names() or (ROOT / name).exists()
    return below or known or bool(PLACEHOLDER.fullmatch(name))


def problems(text: str) -> list[str]:
    found, written = [], set()
    for words in commands(text):
        line = " ".join(words)
        found += [f"{line}: {wrong}" for inner in verbs_of(words) if "--" not in inner and (wrong := misused(inner))]
        found += [f"{line}: {name} is not there" for name in missing(words, written)]
        if any(map(PLACEHOLDER.fullmatch, words)) and not EXPLAINED.search(text):
            found.append(f"{line}: the page does not say what words in CAPITALS are")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_run_as_written(page: Path) -> None:
    assert problems(page.read_text(encoding="utf-8")) == []


def test_the_documents_hold_commands() -> None:
    assert sum(len(commands(page.read_text(encoding="utf-8"))) for page in PAGES) > 30


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("duosora convert mt5-xxl --to mt5-xxl", "mt5-xxl is not there"),
        ("duosora sample prompts.txt --out outputs/t2v", "prompts.txt is not there"),
        ("duosora data check annotations.json", "annotations.json is not there"),
        ("duosora cache text --config configs/train/YOURS.yaml", "configs/train/YOURS.yaml is not there"),
        ("duosora evaluate originals/ results/", "originals/ is not there"),
        ("duosora launch -n 8 -- sample prompts.txt", "prompts.txt is not there"),
        ("NPROC=8 scripts/cuda/train.sh configs/train/mine.yaml models x", "configs/train/mine.yaml is not there"),
        ("duosora plot RUN", "does not say what words in CAPITALS are"),
        ("duosora plot runs/mine", "runs/mine is not there"),
        ("duosora sampel 'a dog'", "sampel"),
        ("duosora sample 'a dog' --steps 3", "No such option: --steps"),
        ("duosora sample 'a dog' --set steps=3", "no settings: ['steps']"),
        ("duosora sample 'a dog' --set model.vae=vae/mine", "vae/mine is not there"),
        ("duosora sample 'a dog' --lora runs/mine:0.8", "runs/mine is not there"),
    ],
)
def test_what_does_not_run_as_written_is_seen(line: str, words: str) -> None:
    assert words in "; ".join(problems(f"```bash\n{line}\n```"))
