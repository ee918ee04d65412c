"""Prompts from the command line, text files and JSON lines, and the file names made of them."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..errors import ConfigError, MediaError
from ..random import SEED_LIMIT
from .files import read_written
from .safetensors_format import unique_keys

FILE_SUFFIXES = (".txt", ".jsonl")
_KEYS = ("prompt", "negative_prompt", "seed", "image", "images", "video")
_CONDITION_KEYS = ("image", "images", "video")
_HASH_LENGTH = 8


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One thing to generate. None leaves the choice to the config."""

    text: str
    negative: str | None = None
    seed: int | None = None
    conditions: tuple[str, ...] = ()
    """Paths of the pictures, or of the one video, that the result has to fit."""
    name: str
    """A file name without ending, different for each prompt of a run."""


def read_prompts(sources: Sequence[str]) -> list[Prompt]:
    """Read prompts; a source is a prompt itself, a .txt file (a prompt a line) or a .jsonl file (an object a line).

    Blank lines are skipped. Objects have `prompt` and may have `negative_prompt`, `seed`, and one of `image`,
    `images` and `video`, whose paths count from the folder of the .jsonl file.
    Raises: ConfigError when there is no source; MediaError, with file and line, for an unreadable or empty file, an
    unknown key or a wrong value.
    """
    if not sources:
        raise ConfigError("there is no prompt; give one in quotes, or a .txt or .jsonl file")
    prompts = [prompt for source in sources for prompt in _read_source(source)]
    return _with_distinct_names(prompts)


def apply_template(template: str, prompt: str) -> str:
    """The template with the prompt in place of its `{}`. Raises: ConfigError when it does not hold `{}` once."""
    if template.count("{}") != 1:
        raise ConfigError(f"prompt template {template!r}: needs {{}} once, where the prompt goes")
    return template.replace("{}", prompt)


def slug(text: str, limit: int = 60) -> str:
    """A file name of at most `limit` characters (a-z, 0-9, hyphens), the same for the same text.

    Ends in a hash of the text when letters or digits were lost (other scripts) or cut off, so that such texts stay
    apart.
    """
    decomposed = unicodedata.normalize("NFKD", text).lower()
    words = re.findall("[a-z0-9]+", decomposed.encode("ascii", "ignore").decode())
    whole = "-".join(words)
    is_lossy = any(character.isalnum() and not character.isascii() for character in text)
    if whole and len(whole) <= limit and not is_lossy:
        return whole
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_LENGTH]
    room = max(limit - _HASH_LENGTH - 1, 0)
    beginning = whole[:room].rstrip("-") or "prompt"[:room]
    return f"{beginning}-{digest}".strip("-")


def _read_source(source: str) -> Iterator[Prompt]:
    path = Path(source)
    suffix = path.suffix.lower()
    if suffix not in FILE_SUFFIXES:
        yield Prompt(text=source, name=slug(source))
        return
    read = _from_line if suffix == ".txt" else _from_json
    is_empty = True
    for number, line in enumerate(read_written(path, MediaError).split("\n"), start=1):
        if line.strip():
            is_empty = False
            yield read(path, number, line.strip())
    if is_empty:
        raise MediaError(f"{path}: holds no prompt; write one a line")


def _from_line(path: Path, number: int, line: str) -> Prompt:
    return Prompt(text=line, name=slug(line))


def _from_json(path: Path, number: int, line: str) -> Prompt:
    where = f"{path}:{number}"
    try:
        described = json.loads(line, object_pairs_hook=unique_keys)
    except json.JSONDecodeError as error:
        raise MediaError(f"{where}: is not valid JSON ({error.msg} at column {error.colno})") from error
    except (ValueError, RecursionError) as error:
        raise MediaError(f"{where}: is not valid JSON ({error})") from error
    if not isinstance(described, dict):
        raise MediaError(f'{where}: expected an object such as {{"prompt": "a dog"}}')
    for key in described:
        if key not in _KEYS:
            near = get_close_matches(key, _KEYS, n=1)
            raise MediaError(
                f"{where}: unknown key {key!r}, "
                + (f"did you mean {near[0]!r}?" if near else f"known are {', '.join(_KEYS)}")
            )
    text = _value(where, described, "prompt", str, "text")
    if text is None:
        raise MediaError(f"{where}: the key 'prompt' is missing")
    seed = _value(where, described, "seed", int, f"a whole number from 0 to {SEED_LIMIT - 1}")
    if seed is not None and not 0 <= seed < SEED_LIMIT:
        raise MediaError(f"{where}: seed: expected a whole number from 0 to {SEED_LIMIT - 1}, got {seed}")
    return Prompt(
        text=text,
        negative=_value(where, described, "negative_prompt", str, "text"),
        seed=seed,
        conditions=_conditions(where, path.parent, described),
        name=slug(text),
    )


def _conditions(where: str, folder: Path, described: dict[str, Any]) -> tuple[str, ...]:
    given = [key for key in _CONDITION_KEYS if described.get(key) is not None]
    if not given:
        return ()
    if len(given) > 1:
        raise MediaError(f"{where}: has {' and '.join(given)}; give only one of them")
    value = described[given[0]]
    names = value if given[0] == "images" else [value]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        expected = "a list of paths" if given[0] == "images" else "a path"
        raise MediaError(f"{where}: {given[0]}: expected {expected}, got {json.dumps(value)}")
    for name in names:
        if not (folder / name).is_file():
            raise MediaError(f"{where}: {given[0]}: there is no file {folder / name}")
    return tuple(str(folder / name) for name in names)


def _value(where: str, described: dict[str, Any], key: str, kind: type, expected: str) -> Any:
    value = described.get(key)
    if value is not None and type(value) is not kind:  # not isinstance: true is no seed
        raise MediaError(f"{where}: {key}: expected {expected}, got {json.dumps(value)}")
    return value


def _with_distinct_names(prompts: list[Prompt]) -> list[Prompt]:
    """Number the second and further prompts that would get a name that is taken."""
    taken: set[str] = set()
    named = []
    for prompt in prompts:
        name, number = prompt.name, 1
        while name in taken:
            number += 1
            name = f"{prompt.name}-{number}"
        taken.add(name)
        named.append(replace(prompt, name=name))
    return named
