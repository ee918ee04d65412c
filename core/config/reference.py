"""The settings as text: what `duosora settings` prints and docs/settings.md holds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from difflib import get_close_matches

from ..errors import ConfigError
from .settings import BY_RECIPE, Setting, Settings, list_settings
from .verbs import ALSO_READ_BY, SCHEMAS

PAGE_HEAD = """\
# Settings

Written by `duosora settings --markdown` from the schema in `core/config`; a test compares the two.

A setting goes into a YAML file (`sampler: {steps: 30}`) or after `--set` (`--set sampler.steps=30`).
`duosora settings sampler` prints a part of this page. In the column "default", null means "not set"; the text says what
then happens. "recipe" means that the model decides: its recipe (`model.recipe`), or the run that made it, says the
value, and a run prints what it took from there.

`--config` takes a YAML file, or the short name of one that comes with duosora: `sample/tiny` is
`configs/sample/tiny.yaml`. A file that is there wins.

Relative paths in a YAML file: what a run reads is looked for in the folder of the file first, then in the current
folder. What a run writes (`folder`, `output.folder`, `caches.text`, `caches.latents`) is of the current folder, and so
is every path after `--set`.
"""


def find(path: str) -> dict[str, list[Setting]]:
    """The settings at or below a dotted path, by verb; `path` may begin with the verb, and "" finds all.

    Raises: ConfigError when there are none, with the nearest path.
    """
    found = {verb: _below(_without_verb(path, verb), SCHEMAS[verb]) for verb in SCHEMAS}
    verb_named = path.partition(".")[0]
    if verb_named in SCHEMAS and found[verb_named]:
        return {verb_named: found[verb_named]}
    found = {verb: settings for verb, settings in found.items() if settings}
    if not found:
        raise ConfigError(f"{path}: there is no such setting{_nearest(path)}")
    return found


def text(path: str = "") -> Iterator[str]:
    """Lines for the terminal. Raises: ConfigError, as find."""
    for verb, settings in find(path).items():
        yield f"duosora {_verbs(verb)}"
        for setting in settings:
            yield f"  {setting.path} = {_value(setting)}  ({setting.type})"
            yield f"      {setting.text}"


def markdown() -> Iterator[str]:
    """Lines of docs/settings.md."""
    yield from PAGE_HEAD.splitlines()
    for verb, settings in find("").items():
        yield from ("", f"## duosora {_verbs(verb)}", "")
        yield from ("| setting | type | default | |", "| --- | --- | --- | --- |")
        yield from map(_row, settings)


def _row(setting: Setting) -> str:
    kind = setting.type.replace("|", "\\|")
    return f"| `{setting.path}` | {kind} | `{_value(setting)}` | {setting.text} |"


def _below(path: str, schema: type[Settings]) -> list[Setting]:
    return [line for line in list_settings(schema) if not path or f"{line.path}.".startswith(f"{path}.")]


def _without_verb(path: str, verb: str) -> str:
    return "" if path == verb else path.removeprefix(f"{verb}.")


def _verbs(verb: str) -> str:
    return f"{verb} (and {ALSO_READ_BY[verb]})" if verb in ALSO_READ_BY else verb


def _value(setting: Setting) -> str:
    if setting.default is BY_RECIPE:
        return BY_RECIPE
    return json.dumps(setting.default, default=_plain, ensure_ascii=False)


def _plain(value: object) -> object:
    return value.model_dump(mode="json") if isinstance(value, Settings) else str(value)


def _nearest(path: str) -> str:
    names = set(_prefixes(setting.path for schema in SCHEMAS.values() for setting in list_settings(schema)))
    same = sorted(name for name in names if name.rpartition(".")[2] == path.rpartition(".")[2])
    near = same or get_close_matches(path, sorted(names), n=1)
    return f"; did you mean {near[0]!r}?" if near else "; duosora settings lists them all"


def _prefixes(paths: Iterable[str]) -> Iterator[str]:
    """The paths and those of the groups that they are in."""
    for path in paths:
        parts = path.split(".")
        yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1))
