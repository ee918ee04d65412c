"""The weights that training begins with: published ones, another stage's, fresh ones, or a stated mixture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import ConfigError, LayoutError
from ..layout import Constant, FreshWeights, Layout, Weights
from ..models.finding import CONFIG_FILE, Part, recognise

SHOWN = 4


class Start(NamedTuple):
    """Weights, and where each group of them came from."""

    weights: Weights
    report: tuple[str, ...]
    """A line each on what was taken, drawn freshly and not used."""
    notes: tuple[str, ...] = ()
    """On how the weights were found."""
    base: Mapping[str, str | None] = {}
    """With LoRA, what it says of the model that it is for: `source`, and `fingerprint`."""


def check_frozen(layout: Layout, frozen: tuple[str, ...]) -> None:
    """See that beginnings of names, `start.frozen`, each keep some weights as they are and leave others to train.

    Raises: LayoutError naming the beginning that no weight has; ConfigError when nothing is left.
    """
    _refuse_unknown(layout, "start.frozen", frozen)
    if not layout:
        raise ConfigError(f"{layout.model} has no weights, so there is nothing to train")
    if not leaves_some(layout, frozen):
        raise ConfigError(f"start.frozen: names all weights of {layout.model}, so that none is left to train")


def check_meaning(trained: Part, folder: Path) -> None:
    """See that weights of the trained model's names and shapes mean the same, as far as a config.json beside them says.

    Raises: ConfigError naming what is different; CheckpointError for a config.json that cannot be read.
    """
    if not trained.family.untold or not (folder / CONFIG_FILE).is_file():
        return
    given = recognise(folder)
    for field in trained.family.untold if given.family is trained.family else ():
        theirs, ours = getattr(given.spec, field), getattr(trained.spec, field)
        if theirs != ours:
            raise ConfigError(
                f"start.weights = {folder}: its {field} is {theirs}, and that of {trained.source} is {ours}; begin "
                "with weights of the same, or train another model"
            )


def leaves_some(layout: Layout, frozen: tuple[str, ...]) -> bool:
    """Whether there are weights to train beside those whose names begin so."""
    kept = (*frozen, *layout.frozen, *layout.untrained)
    return any(not name.startswith(kept) for name, weight in layout.items() if not isinstance(weight.init, Constant))


class MixedWeights(Mapping[str, np.ndarray]):
    """Some weights of a layout from a file, the others freshly drawn."""

    def __init__(self, layout: Layout, given: Mapping[str, str], file: Weights, seed: int) -> None:
        """given: the names of the layout for which the file holds a weight, to the file's own name of it."""
        self._layout, self._given, self._file = layout, given, file
        self._fresh = FreshWeights(layout, seed)
        self.source = file.source

    def __getitem__(self, name: str) -> np.ndarray:
        return self._file[self._given[name]] if name in self._given else self._fresh[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layout)

    def __len__(self) -> int:
        return len(self._layout)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._file.shape(self._given[name]) if name in self._given else self._fresh.shape(name)

    def dtype(self, name: str) -> np.dtype[Any]:
        return self._file.dtype(self._given[name]) if name in self._given else self._fresh.dtype(name)


def start_from(
    layout: Layout, file: Weights, seed: int, leave_out: tuple[str, ...] = (), allow_missing: bool = False
) -> Start:
    """A file's weights, but for those left out by the beginnings of their names and, if allowed, those it lacks.

    These are copies where the layout says what they grow from, and fresh otherwise. Weights that the file holds and
    the layout does not know are refused, as are shapes that differ.
    Raises: LayoutError naming them, or what `leave_out` names and nobody has.
    """
    left_out = {name for name in layout if name.startswith(leave_out)} if leave_out else set()
    _refuse_unknown(layout, "start.leave_out", leave_out)
    if not left_out and not allow_missing:
        return Start(file, (f"weights    all {len(layout)} from {file.source}",))
    alias_of = {target: alias for alias, target in layout.aliases.items()}
    given = {}
    for name in layout:
        held = name if name in file else alias_of.get(name, name)
        if held in file and name not in left_out:
            given[name] = held
    missing = [name for name in layout if name not in given and name not in left_out]
    if missing and not allow_missing:
        raise LayoutError(
            f"{file.source} lacks {len(missing)} weights of {layout.model} ({_some(missing)}); "
            "start.allow_missing=true draws them freshly"
        )
    grown = {name: given[source] for name in missing if (source := layout[name].grows_from) in given}
    used = {*given.values(), *left_out, *(alias_of.get(name, name) for name in left_out)}
    unknown = [name for name in file if name not in used and name not in layout.aliases and name not in layout]
    unknown = [name for name in unknown if not name.startswith(layout.ignores)] if layout.ignores else unknown
    if unknown:
        raise LayoutError(f"{file.source} holds {len(unknown)} weights that {layout.model} lacks ({_some(unknown)})")
    report = [f"weights    {len(given)} of {len(layout)} from {file.source}"]
    fresh = [name for name in missing if name not in grown]
    for what, names in (
        ("left out, freshly drawn", sorted(left_out)),
        ("not there, copied from others", list(grown)),
        ("not there, freshly drawn", fresh),
    ):
        if names:
            report.append(f"           {len(names)} {what}: {_some(names)}")
    return Start(MixedWeights(layout, given | grown, file, seed), tuple(report))


def _refuse_unknown(layout: Layout, setting: str, beginnings: tuple[str, ...]) -> None:
    for beginning in beginnings:
        if not any(name.startswith(beginning) for name in layout):
            raise LayoutError(f"{setting}: no weight of {layout.model} begins with {beginning!r}")


def _some(names: list[str]) -> str:
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
