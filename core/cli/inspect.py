"""`duosora inspect`: what a file or folder holds, with little of its tensors read."""

from __future__ import annotations

import os
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Annotated, Any

import typer

OBJECTIVE = "objective: "
"""How a denoiser's facts begin the line of what it predicts, which its run knows better."""


def inspect(
    path: Annotated[
        Path,
        typer.Argument(help="Weights, a model folder, a folder of those, a checkpoint, a run, a preset or a recipe."),
    ],
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
) -> None:
    """Say what a file or folder holds.

    Which model or LoRA it is, its objective, shapes, dtypes and size, and what is missing or should not be there.

    Exit code 1 when the weights do not fit the model.
    """
    from ..errors import CheckpointError
    from ..models.epoch_folders import epoch_folder
    from ..models.lora.files import is_lora
    from ..models.run_folders import model_folder
    from ..printable import say
    from .inspect_lora import describe

    if not os.path.exists(path):  # unlike Path.exists, no error where the way there is closed
        lines = [*_recipe(str(path)), *_presets(str(path))]
        if not lines:
            raise CheckpointError(f"{path}: no such file or folder, and no preset or recipe of that name")
        say(*lines)
        return
    meant, notes = model_folder(path)
    theirs = epoch_folder(path) if meant != path else None
    if theirs is not None:
        say(f"{theirs.path}: {theirs.describe()}")
    if meant != path:
        say(
            *(f"NOTE: {note}" for note in notes),
            f"{path}: a training run's; where a model is asked for, it means {meant}",
        )
        path = meant.parent
    if is_lora(meant):
        lines, is_fitting = describe(meant, tensors)
        say(*lines)
        if not is_fitting:
            raise typer.Exit(1)
        return
    places = _folders_in(path) if theirs is None else [place for place in (theirs.model, theirs.average) if place]
    fits = [_inspect_one(place, tensors) for place in places]
    if not all(fits):
        raise typer.Exit(1)


def _recipe(name: str) -> list[str]:
    """What a recipe puts together; nothing where there is none of that name."""
    from .. import recipes
    from ..printable import one_line

    found = next((recipe for recipe in recipes.ALL if recipe.name == name), None)
    if found is None:
        return []
    parts = [f"  model.{kind}: {' or '.join(presets)}" for kind, presets in found.parts.items()]
    settings = one_line(
        ", ".join(f"{path}={'null' if value is None else value}" for path, value in found.sampling_settings().items()),
        600,
    )
    return [
        f"{name}: a recipe, {found.title}",
        *parts,
        f"  objective: {found.objective}",
        f"  sampled with: {settings}",
    ]


def _presets(name: str) -> list[str]:
    """The models that have a name as a preset."""
    from .. import recipes
    from ..models import FAMILIES
    from ..models.finding import open_part

    lines = []
    for family in FAMILIES:
        if name in family.presets:
            part = open_part(family.kind, name)
            recipe = recipes.of_preset(family.kind, name)
            objective = f"{OBJECTIVE}{recipe.objective}, as the recipe {recipe.name} says" if recipe else ""
            lines += [
                f"{name}: a preset of model.{family.kind}",
                f"  model: {family.title} ({part.layout.model}), {part.layout.num_parameters:,} parameters",
                *(f"  {objective if line.startswith(OBJECTIVE) and objective else line}" for line in part.spec.facts()),
                f"  weights: {_weights_of(part)}",
            ]
    return lines


def _weights_of(part: Any) -> str:
    """Where those of a preset are."""
    if not part.layout:
        return "it needs none"
    return "none come with it, they are drawn freshly" if part.is_fresh else "come with it"


def _folders_in(path: Path) -> list[Path]:
    """The models in a folder of models; else the path itself."""
    from ..models.finding import CONFIG_FILE

    is_one = not path.is_dir() or (path / CONFIG_FILE).exists()
    return [path] if is_one else sorted(file.parent for file in path.glob(f"*/{CONFIG_FILE}")) or [path]


def _inspect_one(path: Path, list_tensors: bool) -> bool:
    """Print one model; whether its weights fit it."""
    from .. import converting
    from ..errors import LayoutError
    from ..io.weights import open_weights
    from ..layout import Constant
    from ..models.by_shapes import seen_by_shapes
    from ..models.finding import recognise
    from ..printable import one_line, say, short_name

    config = (path if path.is_dir() else path.parent) / "config.json"
    if config.exists() and (without := _without_weights(path)) is not None:
        say(f"{path}: no tensors, as the model needs none", *_description(without))
        return True
    if converting.get().is_foreign(path):
        say(*converting.get().describe(path, list_tensors))
        return True
    reader = open_weights(path)
    shapes = {name: reader.shape(name) for name in reader}
    say(f"{path}: {len(shapes)} tensors, {sum(map(prod, shapes.values())):,} numbers, {_size(reader.nbytes)}")
    say(f"  dtypes: {_counts(str(reader.dtype(name)) for name in reader)}")
    if list_tensors:
        for name in reader:
            say(f"  {short_name(name)}  {list(shapes[name])}  {reader.dtype(name)}")
    if not config.exists():
        title, layout = _guess(reader)
        say(f"  model: {title} (no {config.name} beside it)")
        try:
            seen = seen_by_shapes(shapes, str(path))
        except LayoutError as error:
            say(f"  DOES NOT FIT: {one_line(error)}")
            return False
        if seen is None:
            return _is_sound(layout, reader)
        say(f"  {seen.told}")
    part = recognise(path)
    recorded = _objective(path)
    say(*(recorded if recorded and line.startswith(f"  {OBJECTIVE}") else line for line in _description(part)))
    if not _is_sound(part.layout, reader):
        return False
    left_out = sum(isinstance(weight.init, Constant) and name not in reader for name, weight in part.layout.items())
    say("  complete" + (f" ({left_out} constant filters left out, which is fine)" if left_out else ""))
    return True


def _without_weights(path: Path) -> Any:
    """The model in a folder, where it has no weights; None for all others, also for what is no model."""
    from ..errors import DuosoraError
    from ..models.finding import recognise

    try:
        part = recognise(path)
    except DuosoraError:
        return None
    return None if part.layout else part


def _description(part: Any) -> list[str]:
    """What a model is, in lines."""
    title = f"  model: {part.family.title} ({part.layout.model}), {part.layout.num_parameters:,} parameters"
    return [title, *(f"  {line}" for line in part.spec.facts())]


def _is_sound(layout: Any, reader: Any) -> bool:
    """Print what is wrong with weights, if anything is."""
    from ..errors import CheckpointError, LayoutError
    from ..loading import check_headers, check_zeros
    from ..printable import one_line, say

    try:
        check_zeros(layout, reader, check_headers(layout, reader))
    except LayoutError as error:
        say(f"  DOES NOT FIT: {one_line(error)}")
    except CheckpointError as error:
        say(f"  DAMAGED: {one_line(error)}")
    else:
        return True
    return False


def _objective(path: Path) -> str | None:
    """What the run that made a denoiser says of what it predicts; None where no run is known."""
    from ..models.run_folders import record_of

    record = record_of(path)
    kind = None if record is None else record.text("objective.kind")
    if record is None or kind is None:
        return None
    shift = f", shift {record.setting('objective.shift')}" if kind == "flow" else ""
    return f"  {OBJECTIVE}{kind}{shift}, as its run says"


def _guess(reader: Any) -> tuple[str, Any]:
    """The model that most of the names belong to, and as a layout what is known of them."""
    from .. import converting
    from ..layout import Layout
    from ..models import FAMILIES

    others = ("",)  # all names begin so
    found, best = "", Layout("an unknown model", {}, ignores=others)
    for family in FAMILIES:
        layouts = [spec.layout() for spec in family.presets.values()]
        count = max(len(reader.keys() & layout.keys()) for layout in layouts)
        if count >= max(len(reader) / 2, len(best) + 1):
            found = f"its names are those of {family.title} ({count} of {len(reader)})"
            drawn = {name: weight for layout in layouts for name, weight in layout.items()}
            known = {name: replace(drawn[name], shape=reader.shape(name)) for name in reader if name in drawn}
            best = Layout(family.title, known, ignores=others)
    return found or "; ".join(converting.get().likely_models(reader)), best


def _counts(values: Any) -> str:
    from collections import Counter

    return ", ".join(f"{count} {name}" for name, count in Counter(values).most_common())


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.2f} MiB"
