"""Writing tensors that come in chunks: one pass, whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import CheckpointError
from ...core.io.files import atomic_write
from ...core.io.safetensors_format import refuse_tensor
from ...core.io.weights import STEMS, SUFFIX, StreamedTensors, save_weights
from ...core.printable import short_name
from ..readers.opening import open_checkpoint
from .mindspore_files import KINDS, write_ckpt
from .torch_files import DTYPES, write_zip

MINDSPORE_SUFFIX = ".ckpt"
TORCH_SUFFIXES = (".pth", ".pt", ".bin")


def is_file_name(target: Path) -> bool:
    """Whether a target of that name is one file; any other is a folder of safetensors."""
    return target.suffix in (SUFFIX, MINDSPORE_SUFFIX, *TORCH_SUFFIXES)


def write(
    target: Path, tensors: StreamedTensors, shard_size: int | None, overwrite: bool, stem: str = STEMS[0]
) -> None:
    """Write the format that the name of `target` asks for: `.safetensors`, `.ckpt` for MindSpore, `.pth`, `.pt` or
    `.bin` for torch, else a folder of safetensors called after `stem`.

    Raises: CheckpointError when the target exists and `overwrite` is off, the disk is full, or a tensor could not be
    read again: its name is none in safetensors, its shape is impossible, or the format does not know its dtype.
    """
    for name in tensors:
        refuse_tensor(str(target), name, tensors.shape(name), tensors.dtype(name))
    if target.suffix == MINDSPORE_SUFFIX:
        _refuse_others(target, tensors, KINDS, "MindSpore")
        with atomic_write(target, overwrite, CheckpointError) as temporary:
            write_ckpt(temporary, tensors)
            _open_again(temporary, target)
    elif target.suffix in TORCH_SUFFIXES:
        _refuse_others(target, tensors, DTYPES, "torch")
        with atomic_write(target, overwrite, CheckpointError) as temporary:
            write_zip(temporary, tensors)
            _open_again(temporary, target)
    else:
        save_weights(target, tensors, {"format": "pt"}, shard_size, overwrite, stem)


def _open_again(temporary: Path, target: Path) -> None:
    """Raise CheckpointError for what no reader here takes, before it has its name: readers have limits of their own."""
    try:
        open_checkpoint(temporary, ema=False)
    except CheckpointError as error:
        raise CheckpointError(str(error).replace(str(temporary), str(target))) from error


def _refuse_others(target: Path, tensors: StreamedTensors, known: Mapping[np.dtype[Any], str], whose: str) -> None:
    for name in tensors:
        if tensors.dtype(name) not in known:
            raise CheckpointError(
                f"{target}: tensor '{short_name(name)}' is {tensors.dtype(name)}, which {whose} cannot hold"
            )
