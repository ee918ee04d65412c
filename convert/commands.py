"""What core.converting offers to the command line: convert, verify, describe."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ..core.converting import Conversion
from ..core.errors import CheckpointError, ConfigError, LayoutError
from ..core.io.files import refuse_existing, unfinished
from ..core.io.weights import STEMS
from ..core.layout import some_names
from ..core.models.by_shapes import seen_by_shapes
from ..core.models.epoch_folders import AVERAGES
from ..core.models.run_folders import AVERAGE, model_folder
from ..core.printable import one_line, short_name
from ..core.progress import byte_progress
from . import lora
from .begun import Begun
from .configs import FoundConfig, families_of, find_config
from .matching import Origin, Renaming
from .names import NAMES, Names
from .naming import MODELS, UNNAMED, Named, plan, plan_of
from .prefixes import best_of_each, find_fits
from .readers.opening import Checkpoint, is_foreign, open_checkpoint
from .readers.stored import StoredTensor, TensorSource
from .soundness import refuse_unsound
from .sums import SUMS_SUFFIX, Summed, check_sums, read_sums, save_sums, sums_file
from .writers import MINDSPORE_SUFFIX, is_file_name, write

__all__ = ["convert", "describe", "is_foreign", "likely_models", "verify"]

DTYPES: Mapping[str, np.dtype[Any] | None] = {
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "fp16": np.dtype(np.float16),
    "fp32": np.dtype(np.float32),
    "keep": None,
}
MINDSPORE_LIMIT = 2 << 30
"""MindSpore parses a .ckpt as one protobuf message, which may not be larger."""
_HEADER_ROOM = 16 << 20
_TREE_DEPTH = 3
_TREE_KEYS = 12
_ASIDE_LETTERS = 500


def convert(request: Conversion) -> list[str]:
    """Convert and read the result again. Raises: as core.converting.Converter says."""
    if lora.is_merging(request):
        part, told = lora.merged(request)
        content = json.dumps(part.spec.to_config(), indent=1).encode()
        found = FoundConfig(part.spec, content)
        merged = lora.Merged(part, DTYPES[request.dtype])
        told.append(f"  writes: {request.target}, {len(merged)} tensors, {_size(merged.nbytes)}")
        return _written(request, merged, STEMS[0], found, told)
    if request.minus is not None or request.rank is not None:
        return lora.extract(request)
    if request.spelling is not None:
        return lora.respell(request)
    if request.model is not None and request.model not in MODELS:
        raise ConfigError(f"--model {request.model}: there are {', '.join(MODELS)}")
    source, ema, notes = _meant(request)
    opened = open_checkpoint(source, ema, request.key)
    made = plan(opened.weights, request.model, request.strip, families_of(request.config))
    names = NAMES.get(made.model)
    named = Named(opened.weights, made, DTYPES[request.dtype], () if names is None else names.kernels)
    shapes = {name: named.shape(name) for name in named}
    config = find_config(opened.path, names, shapes, request.config, opened.tree)
    tensors = _whole(named, names, config)
    refuse_unsound(opened.weights, made)
    lines = [*notes, *_told(opened), *_planned(made, tensors, request, config)]
    stem = STEMS[0] if names is None else names.stem
    return _written(request, tensors, stem, config, lines)


def _written(
    request: Conversion, tensors: Named | Begun | lora.Merged, stem: str, config: FoundConfig, lines: list[str]
) -> list[str]:
    """Write tensors with sums and a config.json, and read them again; what there is to say.

    lines: what was to be said before.
    """
    if is_file_name(request.target):
        refuse_existing(request.target, request.overwrite, CheckpointError)
    else:
        config.refuse_other(request.target, request.overwrite)
    _check_room(request.target, tensors.nbytes)
    if request.dry_run:
        return [*lines, "dry run: nothing was written"]
    sums = sums_file(request.target, stem)
    with byte_progress(tensors.nbytes, "writing") as tell:
        summed = Summed(tensors, tell)
        write(request.target, summed, request.shard_size, request.overwrite, stem)
    sums.unlink(missing_ok=True)  # sums of what was there before would call the new weights damaged
    save_sums(sums, tensors, summed.sums)
    if not is_file_name(request.target):
        config.write(request.target)
    return [*lines, *_checked(request.target, sums), *_left(sums.parent)]


def _meant(request: Conversion) -> tuple[Path, bool | None, list[str]]:
    """What is converted: of one's own run or checkpoint the model that it stands for, whose average is chosen thereby.

    Also whether an average is left to choose, and what there is to say. Raises: CheckpointError as model_folder, and
    when an average is asked for and none is kept.
    """
    found, notes = model_folder(request.source, average=request.ema is not False, foreign=True)
    if found == request.source:
        return found, request.ema, []
    if request.ema and found.name not in (AVERAGE, *AVERAGES):
        raise CheckpointError(f"{request.source}: keeps no moving average; leave out --ema")
    return found, None, [*(f"NOTE: {note}" for note in notes), f"{one_line(request.source)}: means {one_line(found)}"]


def _whole(tensors: Named, names: Names | None, config: FoundConfig) -> Named | Begun:
    """All tensors of a model, of which the checkpoint may have the beginning. Raises: LayoutError."""
    if names is None or config.spec is None:
        return tensors
    layout = config.spec.layout()
    if names.beginning is not None and names.beginning.is_of(tensors):
        return Begun(names.beginning, layout, tensors)
    layout.check({name: tensors.shape(name) for name in tensors}, tensors.source)
    return tensors


def verify(path: Path) -> list[str]:
    """Compare converted weights with their sums. Raises CheckpointError when they differ or there are no sums."""
    if os.path.isdir(path):
        found = [path / f"{stem}{SUMS_SUFFIX}" for stem in STEMS if (path / f"{stem}{SUMS_SUFFIX}").exists()]
        return _checked(path, found[0] if found else path / f"{STEMS[0]}{SUMS_SUFFIX}")
    return _checked(path, Path(f"{path}{SUMS_SUFFIX}"))


def describe(path: Path, list_tensors: bool) -> list[str]:
    """What a file of another format holds, in lines. Raises CheckpointError, also where it cannot be a model's."""
    opened = open_checkpoint(path)
    weights = opened.weights
    lines = _told(opened)
    if opened.tree is not None and opened.wrapper:
        lines += ["  tree:", *_branches(opened.tree, "    ")]
    lines.append(f"  dtypes: {_dtypes(weights)}")
    if list_tensors:
        lines += [f"  {short_name(name)}  {list(weights.shape(name))}  {weights.dtype(name)}" for name in weights]
    fits = best_of_each(find_fits(weights))
    models = [f"  model: {model}" for model in likely_models(weights)]
    for fit in fits:
        made, unknown = plan_of({name: name for name in weights}, fit, fits)
        refuse_unsound(weights, made)
        models += _shapes_told(weights, made)
        if unknown:
            models.append(f"  NOT KNOWN to {fit.model}: {len(unknown)} tensors ({some_names(unknown)})")
    choice = f" --model {UNNAMED}" if not fits else " --model MODEL" if len(fits) > 1 else ""
    return [*lines, *models, f"  to use it: duosora convert {one_line(path)} --to FOLDER{choice}"]


def _shapes_told(weights: TensorSource, made: Renaming) -> list[str]:
    """What the shapes of a model's tensors tell beside its name, or what is wrong with them."""
    if any(origin != Origin(origin.names[:1]) for origin in made.origins.values()):
        return []  # shapes change
    shapes = {new: weights.shape(origin.names[0]) for new, origin in made.origins.items()}
    try:
        seen = seen_by_shapes(shapes, weights.source, [NAMES[made.model].family])
    except (LayoutError, ConfigError) as error:
        return [f"  DOES NOT FIT: {one_line(error)}"]
    return [] if seen is None else [f"  its shapes: {seen.spec.layout().model}"]


def likely_models(names: Iterable[str]) -> list[str]:
    """The models whose names these are, in words for each."""
    lines = []
    for fit in best_of_each(find_fits(names)):
        below = f" below {fit.prefix}" if fit.prefix else ""
        lines.append(f"its names{below} are those of {NAMES[fit.model].title} ({fit.count} of {fit.total})")
    return lines or ["unknown"]


def _told(opened: Checkpoint) -> list[str]:
    """Format, size and wrapper."""
    weights = opened.weights
    numbers = sum(prod(weights.shape(name)) for name in weights)
    held = f"{len(weights)} tensors, {numbers:,} numbers, {_size(weights.nbytes)}"
    lines = [f"{one_line(opened.path)}: {opened.format}, {held}"]
    if opened.wrapper:
        beside = " (the moving average)" if opened.has_average and "ema" in opened.wrapper[0] else ""
        lines.append(f"  wrapper: {' > '.join(map(short_name, opened.wrapper))}{beside}")
    if opened.aside:
        lines.append(f"  left aside: {one_line('; '.join(opened.aside), _ASIDE_LETTERS)}")
    return lines


def _planned(made: Renaming, tensors: Named | Begun, request: Conversion, config: FoundConfig) -> list[str]:
    """What will be written, and what will not."""
    lines = [f"  model: {made.model}"]
    changed = [(origin.names, name) for name, origin in made.origins.items() if origin.names != (name,)]
    if changed:
        names, new = changed[0]
        old = " + ".join(map(short_name, names))
        lines.append(f"  renamed: {len(changed)} ({old} -> {short_name(new)}{', ...' if len(changed) > 1 else ''})")
    for reason in dict.fromkeys(made.dropped.values()):
        dropped = [name for name, why in made.dropped.items() if why == reason]
        lines.append(f"  left out: {len(dropped)} ({short_name(reason)}): {some_names(dropped)}")
    if isinstance(tensors, Begun):
        lines += [f"  {line}" for line in tensors.told]
    if config.line and not is_file_name(request.target):
        lines.append(config.line)
    lines.append(f"  writes: {request.target}, {len(tensors)} tensors, {_size(tensors.nbytes)}")
    if request.target.suffix == MINDSPORE_SUFFIX and tensors.nbytes >= MINDSPORE_LIMIT:
        lines.append("  note: MindSpore itself reads no .ckpt of 2 GiB or more; safetensors have no limit")
    return lines


def _check_room(target: Path, nbytes: int) -> None:
    """Raises CheckpointError when the disk has no room for the result."""
    place = next(parent for parent in (target, *target.absolute().parents) if os.path.isdir(parent))
    free = shutil.disk_usage(place).free
    if nbytes + _HEADER_ROOM > free:
        raise CheckpointError(f"{target}: needs {_size(nbytes)}, the disk has {_size(free)} left; free some space")


def _checked(path: Path, sums: Path) -> list[str]:
    source = open_checkpoint(path, ema=False).weights
    table = read_sums(sums, source)
    with byte_progress(source.nbytes, "reading again") as tell:
        check_sums(source, table, tell)
    return [f"  verified: {len(table)} tensors equal their sums in {os.path.relpath(sums, path.parent)}"]


def _left(folder: Path) -> list[str]:
    """What killed runs left; it stays, since another run may be writing it."""
    found = unfinished(folder)
    if not found:
        return []
    size = _size(sum(file.stat().st_size for file in found))
    return [
        f"  note: {len(found)} unfinished files ({found[0]}{', ...' if len(found) > 1 else ''}, {size}) were left by "
        "runs that were killed; delete them unless one still writes"
    ]


def _branches(tree: Any, indent: str, depth: int = 1) -> Iterator[str]:
    """The keys of a saved tree, so deep as there is something to see."""
    items = list(tree.items())
    for key, value in items[:_TREE_KEYS]:
        yield f"{indent}{one_line(key, 80)}: {_shown(value)}"
        if isinstance(value, dict) and depth < _TREE_DEPTH and any(isinstance(part, dict) for part in value.values()):
            yield from _branches(value, f"{indent}  ", depth + 1)
    if len(items) > _TREE_KEYS:
        yield f"{indent}and {len(items) - _TREE_KEYS} more"


def _shown(value: Any) -> str:
    if isinstance(value, StoredTensor):
        return f"{value.dtype} {list(value.shape)}"
    if isinstance(value, dict):
        held = [part for part in value.values() if isinstance(part, StoredTensor)]
        size = f", {len(held)} tensors of {_size(sum(part.nbytes for part in held))}" if held else ""
        return f"{len(value)} entries{size}"
    if isinstance(value, list):
        return f"list of {len(value)}"
    if isinstance(value, str | int | float | bool | type(None)):
        return one_line(repr(value[:80] if isinstance(value, str) else value), 80)
    return one_line(getattr(value, "name", type(value).__name__), 80)


def _dtypes(weights: Any) -> str:
    counts = Counter(str(weights.dtype(name)) for name in weights)
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.2f} MiB"
