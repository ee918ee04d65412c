"""Prompts from the command line and from files, and the file names made of them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..errors import ConfigError, MediaError
from ..printable import short_name
from ..random import SEED_LIMIT
from .paths import given_path
from .prompt_files import CONDITION_KEYS, FILE_SUFFIXES, KEYS, TEXT_KEYS, Note, read_entries

MAX_CHARACTERS = 100_000
"""Of a prompt; a text encoder reads some two thousand."""
_READ = f"{', '.join(FILE_SUFFIXES[:-1])} and {FILE_SUFFIXES[-1]} files"
_REFUSED_SUFFIXES = (".yaml", ".yml")
"""Names of files, not prompts, also where there is no such file."""
_HASH_LENGTH = 8


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One thing to generate. None leaves the choice to the config."""

    text: str
    negative: str | None = None
    seed: int | None = None
    conditions: tuple[str, ...] = ()
    """Paths of the pictures, or of the one video, that the result has to fit."""
    is_video: bool = False
    """Whether the condition is read as a video, whatever its name ends in."""
    name: str
    """A file name without ending, different for each prompt of a run."""


def read_prompts(sources: Sequence[str], note: Note = lambda line: None) -> list[Prompt]:
    """Read prompts; a source is a prompt itself or a file with one of FILE_SUFFIXES.

    Objects, and tables by their columns, have `prompt` (or `text`, `caption`, `cap`) and may have `negative_prompt`,
    `seed`, and one of `image`, `images` and `video`, whose paths count from the folder of the file. `note` is told
    what of a file is left alone.
    Raises: ConfigError when there is no source or a blank one; MediaError for a file or folder of another kind, and,
    with file and line, for an unreadable or empty file, an unknown key or a wrong value.
    """
    if not sources:
        raise ConfigError(f"there is no prompt; give one in quotes, or one of {_READ}")
    prompts = [
        prompt for number, source in enumerate(sources, start=1) for prompt in _read_source(number, source, note)
    ]
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


def _read_source(number: int, source: str, note: Note) -> Iterator[Prompt]:
    if Path(source).suffix.lower() in FILE_SUFFIXES:
        try:
            path = given_path(source)
        except ValueError as error:
            raise MediaError(str(error)) from error
        for where, entry in read_entries(path, note):
            yield _from_entry(where, path.parent, entry)
        return
    _refuse_other_files(source)
    text = _checked(f"prompt {number}", source, ConfigError)
    yield Prompt(text=text, name=slug(text))


def _refuse_other_files(source: str) -> None:
    path = os.path.expanduser(source)
    if os.path.isdir(path):
        kind = "a folder"
    elif os.path.lexists(path) or (len(source.split()) == 1 and source.lower().endswith(_REFUSED_SUFFIXES)):
        kind = "no file of prompts by its name"
    else:
        return
    raise MediaError(
        f"{source}: is {kind}; prompts are read from {_READ}, and a prompt of these very letters from one of them too"
    )


def _checked(where: str, text: str, kind: type[ConfigError | MediaError] = MediaError) -> str:
    """The text of a prompt. Raises: `kind` when nothing of it can be seen, it is too long, or no text."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise kind(f"{where} is not valid text at character {error.start + 1}") from error
    if not any(character.isprintable() and not character.isspace() for character in text):
        raise kind(f"{where} is blank; write what the video shows")
    if "\0" in text:
        raise kind(f"{where} holds a NUL character; save a file of prompts in UTF-8")
    if len(text) > MAX_CHARACTERS:
        raise kind(f"{where} has {len(text)} characters; at most {MAX_CHARACTERS} are read")
    return text


def _from_entry(where: str, folder: Path, entry: Any) -> Prompt:
    if isinstance(entry, str):
        entry = {"prompt": entry}
    if not isinstance(entry, dict):
        raise MediaError(f'{where}: expected a text or an object such as {{"prompt": "a dog"}}')
    for key in entry:
        if key not in KEYS:
            near = get_close_matches(key, KEYS, n=1)
            raise MediaError(
                f"{where}: unknown key {short_name(key)!r}, "
                + (f"did you mean {near[0]!r}?" if near else f"known are {', '.join(KEYS)}")
            )
    texts = {key: text for key in TEXT_KEYS if (text := _value(where, entry, key, str, "text")) is not None}
    if not texts:
        raise MediaError(f"{where}: the key 'prompt' is missing")
    if len(texts) > 1:
        raise MediaError(f"{where}: has {' and '.join(texts)}; give only one of them")
    seed = _value(where, entry, "seed", int, f"a whole number from 0 to {SEED_LIMIT - 1}")
    if seed is not None and not 0 <= seed < SEED_LIMIT:
        raise MediaError(f"{where}: seed: expected a whole number from 0 to {SEED_LIMIT - 1}, got {_shown(seed)}")
    ((key, text),) = texts.items()
    return Prompt(
        text=_checked(f"{where}: the {key}", text),
        negative=_negative(where, entry),
        seed=seed,
        conditions=_conditions(where, folder, entry),
        is_video=entry.get("video") is not None,
        name=slug(text),
    )


def _negative(where: str, entry: dict[str, Any]) -> str | None:
    text: str | None = _value(where, entry, "negative_prompt", str, "text")
    return _checked(f"{where}: the negative_prompt", text) if text and text.strip() else text


def _conditions(where: str, folder: Path, described: dict[str, Any]) -> tuple[str, ...]:
    given = [key for key in CONDITION_KEYS if described.get(key) is not None]
    if not given:
        return ()
    if len(given) > 1:
        raise MediaError(f"{where}: has {' and '.join(given)}; give only one of them")
    value = described[given[0]]
    names = value if given[0] == "images" else [value]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        expected = "a list of paths" if given[0] == "images" else "a path"
        raise MediaError(f"{where}: {given[0]}: expected {expected}, got {_shown(value)}")
    return tuple(_existing(f"{where}: {given[0]}", folder, name) for name in names)


def _existing(where: str, folder: Path, name: str) -> str:
    try:
        path = folder / given_path(name)
    except ValueError as error:
        raise MediaError(f"{where}: {error}") from error
    if not os.path.isfile(path):  # unlike Path.is_file, no error where the way there is closed
        raise MediaError(f"{where}: there is no file {path}")
    return str(path)


def _value(where: str, described: dict[str, Any], key: str, kind: type, expected: str) -> Any:
    value = described.get(key)
    if value is not None and type(value) is not kind:  # not isinstance: true is no seed
        raise MediaError(f"{where}: {key}: expected {expected}, got {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    return short_name(json.dumps(value))


def _with_distinct_names(prompts: list[Prompt]) -> list[Prompt]:
    """Number the second and further prompts that would get a name that is taken."""
    taken: set[str] = set()
    numbers: dict[str, int] = {}
    """The last number that was given to a name: who starts again at 2 takes a minute for 30,000 equal prompts."""
    named = []
    for prompt in prompts:
        name, number = prompt.name, numbers.get(prompt.name, 1)
        while name in taken:
            number += 1
            name = f"{prompt.name}-{number}"
        taken.add(name)
        numbers[prompt.name] = number
        named.append(replace(prompt, name=name))
    return named
