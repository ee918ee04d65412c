"""LoRA files: reading those of every spelling, and writing them.

A file is small beside its model, so its matrices are in memory together.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...errors import CheckpointError, ConfigError, LayoutError
from ...io.files import atomic_write, read_json, refuse_existing
from ...io.weights import FOREIGN_SUFFIXES, SUFFIX, WeightsReader, is_finite, is_float, open_weights, save_weights
from ...layout import Layout, some_names
from ...printable import short_name
from ..run_folders import model_folder
from .adapter import Adapter, layers, product
from .names import (
    DIFFUSERS_PREFIX,
    TEXT_ENCODERS,
    Meant,
    Spelling,
    bare,
    looks_like_lora,
    other_kind,
    places,
    resolve,
    respelled,
    spelled,
    spelling_of,
)

PEFT_STEM, PEFT_CONFIG = "adapter_model", "adapter_config.json"
DIFFUSERS_STEM, KOHYA_STEM = "pytorch_lora_weights", "lora"
DIFFUSERS_METADATA = "lora_adapter_metadata"
"""In the header of newer files of diffusers: ranks and alphas, as peft's config has them."""
BASE = "duosora_base"
"""In the header of ours: what the model was that it adapts, as JSON."""
LARGEST_ALPHA = 1e30
_FIXED = {"use_dora": "DoRA", "modules_to_save": "whole layers beside LoRA", "layer_replication": "repeated layers"}
"""Settings of peft that make more of a file than LoRA, and what."""


class Matrices(NamedTuple):
    """The two matrices of a layer, in float32."""

    down: np.ndarray
    up: np.ndarray
    scale: float

    @property
    def rank(self) -> int:
        return int(self.down.shape[0])

    def delta(self) -> np.ndarray:
        """What it adds to the weight, float32."""
        return np.float32(self.scale) * product(self.down, self.up)


@dataclass(frozen=True)
class Lora:
    """What a file adds to a model."""

    source: str
    spelling: Spelling
    pairs: Mapping[str, Matrices]
    """By layers: as the file spells them, or, behind `fitted`, as the model does."""
    base: Mapping[str, Any] = field(default_factory=dict)
    """What the file says of the model that it was made for: `source`, and `fingerprint`."""

    def fitted(self, layout: Layout) -> Lora:
        """The same by the model's layers. Maps that the model has in one are joined, others cut.

        Raises: LayoutError naming the layers that the model lacks, and shapes that differ.
        """
        shapes = layers(layout)
        known = places(shapes)
        meant = {layer: resolve(layer, known) for layer in self.pairs}
        if unknown := [layer for layer, name in meant.items() if name is None]:
            raise LayoutError(_unknown(self.source, unknown, len(meant), layout, shapes))
        fitted: dict[str, Matrices] = {}
        parts: dict[str, dict[int, Matrices]] = {}
        problems = []
        for layer, name in meant.items():
            place, pair = known[str(name)], self.pairs[layer]
            if place.part is not None:
                parts.setdefault(place.layers[0], {})[place.part] = pair
            elif problem := _misfit(place, pair, shapes):
                problems.append(f"{short_name(layer)}: {problem}")
            else:
                fitted |= _cut(place, pair, shapes)
        for name, some in parts.items():
            joined = _joined(some, shapes[name])
            if joined is None:
                told = ", ".join(f"{pair.up.shape[0]}x{pair.down.shape[-1]}" for pair in some.values())
                problems.append(f"{name}: its parts are {told}, together it is {_x(shapes[name])}")
            else:
                fitted[name] = joined
        if problems:
            more = f" and {len(problems) - 2} more" if len(problems) > 2 else ""
            raise LayoutError(f"{self.source} does not fit {layout.model}: {'; '.join(problems[:2])}{more}")
        return Lora(self.source, self.spelling, fitted, self.base)

    def bare(self) -> Lora:
        """The same by the names that its layers have behind the spelling's prefix; kohya's need a model's names."""
        return Lora(self.source, self.spelling, {bare(layer): pair for layer, pair in self.pairs.items()}, self.base)

    def renamed(self, known: Iterable[str]) -> Lora:
        """The same by known layers, which are all of its own; shapes are not compared."""
        named = {layer: resolve(layer, {name: Meant((name,)) for name in known}) for layer in self.pairs}
        return Lora(
            self.source, self.spelling, {str(named[layer]): pair for layer, pair in self.pairs.items()}, self.base
        )

    @property
    def adapters(self) -> dict[str, Adapter]:
        """Ranks and alphas by layer."""
        return {layer: Adapter(pair.rank, pair.scale * pair.rank) for layer, pair in self.pairs.items()}


def is_lora(path: Path) -> bool:
    """Whether a file, a folder, a checkpoint or a run holds LoRA. Raises: CheckpointError for what cannot be read."""
    place = model_folder(path).path
    if os.path.isdir(place):
        return any((place / name).exists() for name in (PEFT_CONFIG, f"{DIFFUSERS_STEM}{SUFFIX}"))
    return place.suffix == SUFFIX and place.exists() and looks_like_lora(open_weights(place))


def open_lora(path: Path) -> Lora:
    """Read a LoRA in safetensors: a file, a folder of peft or diffusers, or a run or checkpoint of `duosora train`.

    Raises: CheckpointError when it cannot be read, or holds something else or something beside.
    """
    place = lora_file(path)
    reader = open_weights(place)
    beside = place.parent / PEFT_CONFIG
    config = _config(beside) if place.stem == PEFT_STEM and beside.exists() else None
    return _read(reader, config or _in_header(reader), str(path))


def lora_file(path: Path) -> Path:
    """The file that a path means, also of a run or a checkpoint. Raises: CheckpointError when there is none."""
    place = model_folder(path).path
    if not os.path.isdir(place):
        return place
    usual = [file for stem in (PEFT_STEM, DIFFUSERS_STEM) if (file := place / f"{stem}{SUFFIX}").exists()]
    files = usual or sorted(place.glob(f"*{SUFFIX}"))
    if not usual and (len(files) != 1 or not is_lora(files[0])):
        raise CheckpointError(
            f"{path}: holds no LoRA, expected {PEFT_STEM}{SUFFIX} with {PEFT_CONFIG}, {DIFFUSERS_STEM}{SUFFIX}, or one "
            "file of safetensors"
        )
    return files[0]


def _read(reader: WeightsReader, config: Mapping[str, Any] | None, source: str) -> Lora:
    tensors: dict[str, dict[str, str]] = {}
    strange = []
    if (found := other_kind(reader)) is not None:
        raise CheckpointError(f"{source}: holds {found[0]} ({short_name(found[1])}), which is not read")
    for name in reader:
        read = spelled(name)
        if read is None:
            strange.append(name)
        else:
            tensors.setdefault(read.layer, {})[read.role] = name
    halves = [layer for layer, held in tensors.items() if not {"down", "up"} <= held.keys()]
    if strange or halves or not tensors:
        wrong = {"tensors of another kind": strange, "layers without one of their two matrices": halves}
        told = [f"{len(names)} {what} ({some_names(names)})" for what, names in wrong.items() if names]
        raise CheckpointError(f"{source}: is no LoRA: {'; '.join(told) or 'it has no tensors'}")
    pairs = {layer: _pair(reader, layer, held, config, source) for layer, held in tensors.items()}
    return Lora(source, spelling_of(reader), pairs, _base(reader))


def _pair(
    reader: WeightsReader, layer: str, held: Mapping[str, str], config: Mapping[str, Any] | None, source: str
) -> Matrices:
    down, up = (_matrix(reader, held[role], source) for role in ("down", "up"))
    rank = down.shape[0] if down.ndim > 1 else 0
    if up.ndim != down.ndim or not rank or up.shape[1] != rank or up[0, 0].size != 1:
        raise CheckpointError(
            f"{source}: {short_name(layer)}: matrices of {_x(down.shape)} and {_x(up.shape)} are no pair of a rank"
        )
    if "alpha" in held:
        alpha = reader[held["alpha"]].astype(np.float64)
        if alpha.size != 1:
            raise CheckpointError(f"{source}: {short_name(held['alpha'])} is {_x(alpha.shape) or 'empty'}, no number")
        return Matrices(down, up, _finite(alpha.item(), layer, source) / rank)
    return Matrices(down, up, 1.0 if config is None else _scale(config, layer, rank, source))


def _matrix(reader: WeightsReader, name: str, source: str) -> np.ndarray:
    if not is_float(reader.dtype(name)):
        raise CheckpointError(f"{source}: {short_name(name)} is {reader.dtype(name)}, no floating-point numbers")
    array = reader[name]
    if not is_finite(array):
        raise CheckpointError(f"{source}: {short_name(name)} holds NaN or infinity; the file is damaged")
    with np.errstate(over="ignore"):
        single = array.astype(np.float32)
    if not is_finite(single):
        raise CheckpointError(f"{source}: {short_name(name)} holds numbers beyond float32; the file is damaged")
    return single


def _scale(config: Mapping[str, Any], layer: str, rank: int, source: str) -> float:
    """By peft's rule: the alpha of the first pattern that a layer's name ends as, else of all."""
    alphas = config.get("alpha_pattern") or {}
    if not isinstance(alphas, dict):
        raise CheckpointError(f"{source}: alpha_pattern is {short_name(repr(alphas))}, no names with numbers")
    alpha = next((value for key, value in alphas.items() if _ends_by(key, layer)), config.get("lora_alpha", rank))
    if not isinstance(alpha, int | float) or isinstance(alpha, bool):
        raise CheckpointError(f"{source}: lora_alpha of {short_name(layer)} is {short_name(repr(alpha))}, no number")
    return _finite(alpha, layer, source) / (sqrt(rank) if config.get("use_rslora") else rank)


def _finite(alpha: float, layer: str, source: str) -> float:
    if not abs(alpha) <= LARGEST_ALPHA:
        told = f"{float(alpha):g}" if isinstance(alpha, float) else f"a number of {alpha.bit_length()} bits"
        raise CheckpointError(f"{source}: alpha of {short_name(layer)} is {told}; expected one such as the rank")
    return float(alpha)


def _ends_by(pattern: str, layer: str) -> bool:
    """peft's keys are regular expressions; those of strangers are compared as texts, which ours and plain names are."""
    name = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")
    return layer == name or layer.endswith(f".{name}")


def _config(file: Path) -> Mapping[str, Any]:
    try:
        config = read_json(file)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read as peft's settings ({error})") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise CheckpointError(f"{file}: peft_type is {short_name(str(kind))}; LORA is what is read")
    for setting, kind in _FIXED.items():
        if config.get(setting):
            raise CheckpointError(f"{file}: {setting} is set: it is {kind}, which is not read")
    return config


def _in_header(reader: WeightsReader) -> Mapping[str, Any] | None:
    """Ranks and alphas that newer files of diffusers have in their header, without the prefix of the component."""
    text = reader.metadata.get(DIFFUSERS_METADATA)
    if text is None:
        return None
    try:
        told = json.loads(text)
        return {key.removeprefix(DIFFUSERS_PREFIX): value for key, value in told.items()}
    except (ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{reader.source}: {DIFFUSERS_METADATA} in its header cannot be read ({error})"
        ) from error


def _base(reader: WeightsReader) -> Mapping[str, Any]:
    try:
        base = json.loads(reader.metadata.get(BASE, "{}"))
    except (ValueError, RecursionError):
        return {}
    return base if isinstance(base, dict) else {}


def _unknown(source: str, unknown: list[str], count: int, layout: Layout, shapes: Mapping[str, Any]) -> str:
    texts = [layer for layer in unknown if layer.startswith(TEXT_ENCODERS)]
    what = f"{layout.model} has no layers for {len(unknown)} of {count} ({some_names(unknown)}); it has "
    if texts:
        what = f"{len(texts)} of {count} layers are of a text encoder ({some_names(texts)}); {layout.model} has "
    return f"{source} does not fit {layout.model}: {what}{some_names(list(shapes))}"


def _misfit(place: Meant, pair: Matrices, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """How a pair does not fit the layers that it is for; nothing where it does."""
    wanted = [shapes[name] for name in place.layers]
    outputs = sum(shape[0] for shape in wanted)
    is_kernel = _squeezed(pair.down.shape[1:]) == _squeezed(wanted[0][1:])
    if pair.up.shape[0] == outputs and is_kernel and len({shape[1:] for shape in wanted}) == 1:
        return ""
    return (
        f"rank {pair.rank}, {_x(pair.up.shape[:1] + pair.down.shape[1:])}, and the model's is "
        f"{_x((outputs, *wanted[0][1:]))}"
    )


def _cut(place: Meant, pair: Matrices, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, Matrices]]:
    """The pair of each layer: rows of B, and the same A for all."""
    start = 0
    for name in place.layers:
        shape = shapes[name]
        down = pair.down.reshape(pair.rank, *shape[1:])
        up = pair.up[start : start + shape[0]].reshape(shape[0], pair.rank, *(1 for _ in shape[2:]))
        start += shape[0]
        yield name, Matrices(down, up, pair.scale)


def _joined(parts: Mapping[int, Matrices], shape: tuple[int, ...]) -> Matrices | None:
    """One pair of several that are for parts of a map: their A under each other, their B along a diagonal.

    None where they do not fit. A part that the file lacks adds nothing.
    """
    count = next(iter({pair.up.shape[0] for pair in parts.values()}))
    if shape[0] % count or any(
        pair.up.shape[0] != count or pair.down.shape[1:] != shape[1:] for pair in parts.values()
    ):
        return None
    rank = sum(pair.rank for pair in parts.values())
    up, column = np.zeros((shape[0], rank), np.float32), 0
    for number, pair in sorted(parts.items()):
        up[number * count : (number + 1) * count, column : column + pair.rank] = pair.up * np.float32(pair.scale)
        column += pair.rank
    return Matrices(np.concatenate([pair.down for _, pair in sorted(parts.items())]), up, 1.0)


def _squeezed(shape: tuple[int, ...]) -> list[int]:
    return [size for size in shape if size != 1]


def _x(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def peft_config(adapters: Mapping[str, Adapter], base: str | None = None) -> dict[str, Any]:
    """An adapter_config.json: the most frequent rank and alpha, and by name what differs."""
    rank = _usual(each.rank for each in adapters.values())
    alpha = _usual(each.alpha for each in adapters.values())
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": any(each.stabilised for each in adapters.values()),
        "use_dora": False,
        "init_lora_weights": True,
        "target_modules": list(adapters),
        "modules_to_save": None,
        "rank_pattern": {name: each.rank for name, each in adapters.items() if each.rank != rank},
        "alpha_pattern": {name: each.alpha for name, each in adapters.items() if each.alpha != alpha},
    }


def _usual(values: Iterator[Any]) -> Any:
    return Counter(values).most_common(1)[0][0]


def base_header(base: Mapping[str, Any]) -> dict[str, str]:
    """The header of a file that says what it adapts."""
    return {"format": "pt", **({BASE: json.dumps(dict(base))} if base else {})}


def save_lora(target: Path, lora: Lora, spelling: Spelling, dtype: np.dtype[Any], overwrite: bool = False) -> None:
    """Write a fitted LoRA: peft's as a folder, the others as a file or in a folder under their usual name.

    diffusers has no place for alphas that all its versions read, so B is multiplied with the scales there.
    Raises: CheckpointError as save_weights, and for numbers that the dtype has not; ConfigError as written_file.
    """
    header, tensors = base_header(lora.base), {}
    for layer, pair in lora.pairs.items():
        up = pair.up * np.float32(pair.scale) if spelling == "diffusers" else pair.up
        tensors[respelled(layer, "down", spelling)] = _rounded(pair.down, dtype, layer)
        tensors[respelled(layer, "up", spelling)] = _rounded(np.asarray(up, np.float32), dtype, layer)
        if spelling == "kohya":
            tensors[respelled(layer, "alpha", spelling)] = np.array(pair.scale * pair.rank, np.float32)
    if spelling == "kohya":
        adapters = lora.adapters.values()
        header |= {
            "ss_network_module": "networks.lora",
            "ss_network_dim": str(_usual(each.rank for each in adapters)),
            "ss_network_alpha": str(_usual(each.alpha for each in adapters)),
        }
    file = written_file(target, spelling)
    config = file.parent / PEFT_CONFIG
    for path in (file, config) if spelling == "peft" else (file,):
        refuse_existing(path, overwrite, CheckpointError)
    save_weights(file, tensors, header, overwrite=overwrite)
    if spelling == "peft":
        write_peft_config(config, peft_config(lora.adapters, lora.base.get("source")))


def _rounded(matrix: np.ndarray, dtype: np.dtype[Any], layer: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        rounded = matrix.astype(dtype)
    if not is_finite(rounded):
        raise CheckpointError(f"{short_name(layer)}: has numbers too large for {dtype}; choose another --dtype")
    return rounded


def written_file(target: Path, spelling: Spelling) -> Path:
    """The file that save_lora writes: the target, or in a folder that of the spelling's usual name.

    Raises: ConfigError for a target of another format, and for one that is no folder where peft needs one.
    """
    if target.suffix != SUFFIX:
        if target.suffix in FOREIGN_SUFFIXES:
            raise ConfigError(f"--to {target}: LoRA is written as safetensors; name a folder, or a file {SUFFIX}")
        stem = {"peft": PEFT_STEM, "diffusers": DIFFUSERS_STEM, "kohya": KOHYA_STEM}[spelling]
        return target / f"{stem}{SUFFIX}"
    if spelling == "peft" and target.stem != PEFT_STEM:
        raise ConfigError(f"--to {target}: peft reads a folder of {PEFT_STEM}{SUFFIX} and {PEFT_CONFIG}; name a folder")
    return target


def write_peft_config(file: Path, config: Mapping[str, Any]) -> None:
    """Write an adapter_config.json over an older one."""
    with atomic_write(file, overwrite=True, error=CheckpointError) as temporary:
        temporary.write_text(json.dumps(dict(config), indent=1), encoding="utf-8")
