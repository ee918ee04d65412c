"""LoRA: from one spelling to another, merged into a model, and taken out of the difference of two models."""

from __future__ import annotations

import os
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ..core.converting import Conversion
from ..core.errors import CheckpointError, ConfigError
from ..core.io.files import refuse_existing
from ..core.layout import Layout
from ..core.models.finding import Part, open_part, with_loras
from ..core.models.lora.files import Lora, is_lora, open_lora, save_lora, written_file
from ..core.models.lora.merging import extracted
from ..core.models.lora.names import SPELLINGS, Spelling
from ..core.models.run_folders import model_folder, record_of
from ..core.printable import one_line, short_name
from ..core.progress import progress
from .naming import rounded

DTYPES = {"bf16": np.dtype(ml_dtypes.bfloat16), "fp16": np.dtype(np.float16)}
"""Of LoRA; else it is float32."""
RANK = 16
"""Where none is asked for."""
TOLERANCE = {np.dtype(np.float32): 0.0, np.dtype(np.float16): 2e-3, np.dtype(ml_dtypes.bfloat16): 2e-2}
"""Of what is read again, relative to the largest number."""


class Merged:
    """The tensors of a model with LoRA added, to be written in the dtype that they had, or in another."""

    def __init__(self, part: Part, dtype: np.dtype[Any] | None) -> None:
        self._weights, self._dtype = part.open(), dtype
        self._kept = None if part.base is None else part.base.open()
        self.source = part.source

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return sum(1 for _ in self._weights)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._weights.shape(name)

    def dtype(self, name: str) -> np.dtype[Any]:
        return self._dtype or (self._kept or self._weights).dtype(name)

    def nbytes_of(self, name: str) -> int:
        return prod(self.shape(name)) * self.dtype(name).itemsize

    @property
    def nbytes(self) -> int:
        return sum(map(self.nbytes_of, self))

    def chunks(self, name: str) -> Iterator[np.ndarray]:
        """The bytes of a tensor in C order, uint8."""
        array = rounded(self._weights[name], self.dtype(name), f"{self.source} with LoRA: {name}")
        yield np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def is_merging(request: Conversion) -> bool:
    """Whether a whole model is to be written with LoRA added: one that is named, or that of a run.

    Raises: ConfigError for options that exclude each other; CheckpointError for LoRA of an unknown model.
    """
    if request.minus is not None or request.spelling is not None or request.rank is not None:
        if request.loras:
            raise ConfigError("--lora merges into a model; leave out --spelling, --minus and --rank")
        return False
    if request.loras:
        return True
    if not (os.path.exists(request.source) and _holds_lora(request.source)):
        return False
    if record_of(model_folder(request.source).path) is None:
        raise CheckpointError(
            f"{request.source}: is LoRA; --spelling {', '.join(SPELLINGS)} says how to write it, and to merge it name "
            "the model, and this with --lora"
        )
    return True


def merged(request: Conversion) -> tuple[Part, list[str]]:
    """The model with LoRA added, and what there is to say. Raises: as open_part and with_loras."""
    part = with_loras(open_part("denoiser", str(request.source)), request.loras)
    told = [f"  adds {used.scale:g} x {one_line(used.lora.source)} ({_sizes(used.lora)})" for used in part.loras]
    return part, [f"{one_line(request.source)}: {part.layout.model}", *told]


def respell(request: Conversion) -> list[str]:
    """Write LoRA in another spelling. Raises: CheckpointError, LayoutError; ConfigError for an unknown spelling."""
    spelling = _spelling(request.spelling)
    lora, layout = open_lora(request.source), _layout_for(request)
    if layout is None:
        if lora.spelling == "kohya":
            raise ConfigError(
                f"{request.source}: kohya's names do not say where their dots were; name the model with --config"
            )
        lora = lora.bare()
    else:
        lora = lora.fitted(layout)
    lines = [f"{one_line(request.source)}: LoRA in the spelling of {lora.spelling}, {_sizes(lora)}"]
    return lines + _save(request, lora, spelling)


def extract(request: Conversion) -> list[str]:
    """Write the LoRA of a rank that comes nearest to the difference of two models.

    Raises: ConfigError for models of two kinds, or a rank without a model to compare with; LayoutError.
    """
    if request.minus is None:
        raise ConfigError("--rank is for --minus MODEL: of what a model became, the LoRA of that rank")
    spelling = _spelling(request.spelling or "peft")
    after, before = (open_part("denoiser", name) for name in (str(request.source), request.minus))
    if after.spec != before.spec:
        raise ConfigError(
            f"--minus {request.minus}: is {before.layout.model}, and {request.source} is {after.layout.model}; LoRA is "
            "the difference of two models of one kind"
        )
    names = iter(progress(range(len(after.layout)), "comparing", "tensor", len(after.layout)))

    def tell(_: str) -> None:
        next(names, None)

    result = extracted(after.layout, before.open(), after.open(), request.rank or RANK, tell)
    lora = Lora(result.lora.source, spelling, result.lora.pairs, {"source": before.source})
    lines = [
        f"{one_line(request.source)} minus {one_line(request.minus)}: {_sizes(lora)}, with {result.kept:.1%} of the "
        "squares of what changed in these layers"
    ]
    if result.elsewhere:
        lines.append(
            f"  NOTE: {len(result.elsewhere)} weights changed that LoRA does not hold, such as {result.elsewhere[0]}"
        )
    return lines + _save(request, lora, spelling)


def _save(request: Conversion, lora: Lora, spelling: Spelling) -> list[str]:
    dtype = DTYPES.get(request.dtype, np.dtype(np.float32))
    file = written_file(request.target, spelling)
    lines = [f"  writes: {file}, in the spelling of {spelling}, {dtype}"]
    if request.dry_run:
        refuse_existing(file, request.overwrite, CheckpointError)
        return [*lines, "dry run: nothing was written"]
    save_lora(request.target, lora, spelling, dtype, request.overwrite)
    return [*lines, _read_again(file, lora, TOLERANCE[dtype])]


def _read_again(file: Path, lora: Lora, tolerance: float) -> str:
    """Raises: CheckpointError when what the file adds is not what it was made of."""
    again = open_lora(file).renamed(lora.pairs)
    for layer, pair in lora.pairs.items():
        expected, found = pair.delta(), again.pairs[layer].delta()
        limit = (tolerance or 1e-5) * max(float(np.abs(expected).max()), 1e-30)
        if float(np.abs(expected - found).max()) > limit:
            raise CheckpointError(f"{file}: {short_name(layer)} was not written as it was; the disk may be damaged")
    return f"  verified: what {len(lora.pairs)} layers add is the same when the file is read again"


def _layout_for(request: Conversion) -> Layout | None:
    """Of the model that is named, or that a run says; None where nobody does."""
    if request.config is not None:
        return open_part("denoiser", request.config).layout
    folder = model_folder(request.source).path
    return None if record_of(folder) is None else open_part("denoiser", str(request.source)).layout


def _spelling(name: str | None) -> Spelling:
    if name not in SPELLINGS:
        raise ConfigError(f"--spelling {name}: there are {', '.join(SPELLINGS)}")
    return name


def _holds_lora(path: Path) -> bool:
    try:
        return is_lora(path)
    except CheckpointError:
        return False  # it is read, and told what is wrong with it, as what it is


def _sizes(lora: Lora) -> str:
    ranks = sorted({pair.rank for pair in lora.pairs.values()})
    told = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"
    return f"{len(lora.pairs)} layers, {told}"
