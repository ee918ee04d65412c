"""Finding a model by the name of a folder or a preset: its family, its spec and where its weights are."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ConfigError
from ..io.files import read_text
from ..io.first_bytes import why_no_json
from ..io.safetensors_format import unique_keys
from ..io.weights import open_weights
from ..layout import FreshWeights, GivenWeights, Layout, Weights, some_names
from ..loading import check_headers, check_zeros
from ..printable import short_name
from . import FAMILIES
from .by_shapes import seen_by_shapes
from .kinds import Family
from .lora.adapter import Adapters, adapted_layout
from .lora.applying import BesideWeights, applied
from .lora.files import PEFT_CONFIG, is_lora, open_lora
from .lora.merging import MergedWeights, Used
from .run_folders import RunRecord, model_folder, record_of

CONFIG_FILE = "config.json"
MAX_CONFIG_BYTES = 1_000_000
LONGEST_NAME = 100
"""What is longer is compared with the names of presets up to here."""
TRAINED = {name: Path(__file__).parent / name for name in ("tiny", "tiny_v1_2")}
"""Presets that come trained: a tokeniser, and models in folders called after their kinds."""
TINY_FOLDER = TRAINED["tiny"]


@dataclass(frozen=True)
class Part:
    """A model that is known but not loaded: its spec and where its weights are."""

    family: Family
    spec: Any
    source: str
    """The folder, or the preset's name."""
    is_fresh: bool
    """Whether there are weights that are drawn anew instead of read: the model is untrained."""
    open: Callable[[], Weights]
    notes: tuple[str, ...] = ()
    """What to tell of how it was found, a line each."""
    base: Part | None = None
    """The model without `loras`, where it has some."""
    loras: tuple[Used, ...] = ()
    """What is added to its weights."""
    adapters: Adapters = field(default_factory=dict)
    """Of `loras` that are not added to the weights, but stay beside them in what `open` gives."""

    @property
    def layout(self) -> Layout:
        """Of the model alone."""
        return self.spec.layout()

    def check(self) -> None:
        """See that the weights are those of the model, without loading them: names, shapes, dtypes, no lost matrices.

        Every run calls it for each of its models while it settles, so that no file is refused after long work.
        Raises: CheckpointError and LayoutError as opening and loading them would.
        """
        if self.is_fresh:
            return
        weights, layout = self.open(), adapted_layout(self.layout, self.adapters)
        check_zeros(layout, weights, check_headers(layout, weights))


def open_part(kind: str, name: str, seed: int = 0) -> Part:
    """The model that a path means (core.models.run_folders), or a preset: those of TRAINED with their weights, others
    with fresh ones.

    Raises: CheckpointError when the folder has no readable config.json or weights; ConfigError when the model is of
    another kind, its config holds what is not implemented, or no preset has the name.
    """
    families = [family for family in FAMILIES if family.kind == kind]
    for family in families:
        if name in family.presets:
            return _preset(family, name, seed)
    if not os.path.exists(name):  # unlike Path.exists, no error for a name too long
        every = [preset for family in families for preset in family.presets]
        presets = some_names(get_close_matches(name[:LONGEST_NAME], every, n=len(every), cutoff=0.0))
        raise CheckpointError(
            f"model.{kind} = {short_name(name)}: no such folder, and no preset of that name ({presets})"
        )
    part = recognise(Path(name))
    if part.family not in families:
        needed = " or ".join(family.title for family in families)
        raise ConfigError(f"model.{kind} = {short_name(name)}: its model is {part.family.title}, {needed} is needed")
    return part


def recognise(folder: Path) -> Part:
    """The model that a path means: a folder of the hub's form (config.json beside safetensors), a checkpoint or a run.

    Weights without a config.json are known where their shapes tell.
    Raises: as open_part does.
    """
    folder, notes = model_folder(folder)
    if os.path.isdir(folder) and (folder / PEFT_CONFIG).exists():
        return _adapted(folder, notes)
    file = folder / CONFIG_FILE if os.path.isdir(folder) else folder.parent / CONFIG_FILE
    if not file.exists() and (part := _seen(folder, notes)) is not None:
        return part
    config = read_config(file)
    family = family_of(config, str(file))
    spec = family.spec.from_config(config, str(file))
    return Part(family, spec, str(folder), False, lambda: _weights_in(folder, spec), notes)


def with_loras(part: Part, used: Sequence[tuple[Path, float]]) -> Part:
    """A model with LoRA added, each file times its scale.

    Raises: CheckpointError as open_lora; LayoutError for a LoRA of another model; ConfigError as Used.check.
    """
    if not used:
        return part
    layout = part.layout
    added = [Used(open_lora(path).fitted(layout), scale) for path, scale in used]
    for each in added:
        each.check()
    loras = (*part.loras, *added)
    base = part.base or part
    return replace(part, base=base, loras=loras, open=lambda: MergedWeights(base.open(), layout, loras))


def beside(part: Part) -> Part:
    """A model whose LoRA is not added to its weights: they stay as they are on the disk."""
    base = part.base
    if base is None:
        return part
    adapters, weights = applied(part.layout, part.loras)
    return replace(part, adapters=adapters, open=lambda: BesideWeights(base.open(), weights))


def weights_in(folder: Path) -> Weights:
    """The weights that a path means; of a run that trained LoRA, those of its model with that added.

    Raises: as recognise and open_weights.
    """
    folder = model_folder(folder).path
    return recognise(folder).open() if is_lora(folder) else open_weights(folder)


def _adapted(folder: Path, notes: tuple[str, ...]) -> Part:
    """The model that a run's LoRA is for, with that added. Raises: CheckpointError when nobody knows it."""
    record = record_of(folder)
    if record is None:
        raise CheckpointError(
            f"{folder}: is LoRA, not a whole model, and no run says for which one; name that as model.denoiser and "
            "this one with --lora"
        )
    return replace(with_loras(_base_of(record), [(folder, 1.0)]), source=str(folder), notes=notes)


def _base_of(record: RunRecord) -> Part:
    """The model that a run adapts, LoRA that it began with added. Raises: CheckpointError when it is no more there."""
    name, seed, begun = record.text("model.denoiser") or "tiny", record.setting("seed"), record.text("start.weights")
    is_preset = any(name in family.presets for family in FAMILIES)
    base = open_part("denoiser", name if is_preset else str(_still_there(record, name)), seed or 0)
    if begun is not None:
        start = _still_there(record, begun)
        base = replace(base, open=lambda: weights_in(start), is_fresh=False, base=None, loras=())
    others = record.setting("model.lora") or ()
    return with_loras(base, [(_still_there(record, each["file"]), float(each["scale"])) for each in others])


def _still_there(record: RunRecord, written: str) -> Path:
    found = record.find(written)
    if found is None:
        places = ", ".join(map(str, record.places(written)))
        raise CheckpointError(
            f"{record.checkpoint}: is LoRA for {written}, which is not there ({places}); put it back, or name the "
            "model as model.denoiser and this run with --lora"
        )
    return found


def _weights_in(folder: Path, spec: Any) -> Weights:
    """The weights in a folder; a model that has none needs no file."""
    return open_weights(folder) if spec.layout() else GivenWeights({}, str(folder))


def _seen(folder: Path, notes: tuple[str, ...]) -> Part | None:
    weights = open_weights(folder)
    seen = seen_by_shapes({name: weights.shape(name) for name in weights}, str(folder))
    if seen is None:
        return None
    told = f"{folder}: has no {CONFIG_FILE}; {seen.told}"
    return Part(seen.family, seen.spec, str(folder), False, lambda: open_weights(folder), (*notes, told))


def read_config(file: Path) -> dict[str, Any]:
    """A config.json. Raises CheckpointError when it is missing, too large, not a JSON object, or has a key twice."""
    try:
        config = json.loads(read_text(file, MAX_CONFIG_BYTES), object_pairs_hook=unique_keys)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{file}: no such file; a model folder holds config.json beside its safetensors"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: {why_no_json(file, error)}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file}: holds {type(config).__name__} instead of a JSON object")
    return config


def family_of(config: Mapping[str, Any], source: str) -> Family:
    """The family of a config.json. Raises ConfigError naming the families that are known."""
    architectures = config.get("architectures")
    listed = architectures if isinstance(architectures, list) else []
    given = [config.get("_class_name"), config.get("model_type"), *listed]
    names = {name for name in given if isinstance(name, str)}
    for family in FAMILIES:
        if names & set(family.class_names):
            return family
    for family in FAMILIES:
        if any(key in config for key in family.telling_keys):
            return family
    known = ", ".join(family.title for family in FAMILIES)
    raise ConfigError(f"{source}: not the config of a model that duosora knows ({known})")


def _preset(family: Family, name: str, seed: int) -> Part:
    if name in TRAINED and (trained := TRAINED[name] / family.kind).is_dir():
        return replace(recognise(trained), source=name)
    spec = family.presets[name]
    return Part(family, spec, name, bool(spec.layout()), lambda: FreshWeights(spec.layout(), seed))
