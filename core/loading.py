"""Weights on their way into a model: checked against the layout, tensor by tensor, the same for every backend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .errors import CheckpointError, LayoutError
from .io.weights import WeightsReader, holds_only_zeros, is_all_zero, is_finite, is_float
from .layout import QUANTISED, Constant, Layout, Weight, Weights, some_names
from .progress import progress

# Filter taps may have been stored in half precision; bfloat16 keeps 8 bits.
CONSTANT_TOLERANCE = 2.0**-8


def check_headers(layout: Layout, weights: Weights) -> dict[str, str | None]:
    """Compare names, shapes and dtypes with the layout, without reading a tensor; returns what Layout.check does.

    Raises: LayoutError, also for integers, which quantised weights are.
    """
    held = layout.check({name: weights.shape(name) for name in weights}, weights.source)
    refuse_integers(weights.source, {name: weights.dtype(name) for name in held.values() if name is not None})
    return held


def refuse_integers(source: str, dtypes: Mapping[str, np.dtype[Any]]) -> None:
    """Raise LayoutError where weights have another dtype than a floating-point one."""
    others = [f"{name} is {dtype}" for name, dtype in dtypes.items() if not is_float(dtype)]
    if others:
        raise LayoutError(
            f"{source}: {len(others)} of {len(dtypes)} weights hold no floating-point numbers ({some_names(others)})"
            f"{QUANTISED}"
        )


def check_zeros(layout: Layout, weights: Weights, held: Mapping[str, str | None]) -> None:
    """See that the file was downloaded whole: of each tensor no more is read than up to its first other number.

    held: of each weight the name in the file, as check_headers gives it. Raises: CheckpointError.
    """
    suspects = [found for name, found in held.items() if found is not None and needs_numbers(layout[name])]
    refuse_zeros(weights.source, [name for name in suspects if _is_zero(weights, name)], len(suspects))


def needs_numbers(weight: Weight) -> bool:
    """Whether a weight that is all zeros cannot be right: a matrix or more that does not start as zeros."""
    return len(weight.shape) > 1 and not weight.starts_as_zeros


def refuse_zeros(source: str, zeros: list[str], count: int) -> None:
    """Raise CheckpointError where some of `count` matrices are all zeros."""
    if zeros:
        raise CheckpointError(
            f"{source}: {len(zeros)} of {count} matrices are all zeros ({some_names(zeros)}); the file was not "
            "downloaded whole, or was written without them; download it again"
        )


def checked_weights(layout: Layout, weights: Weights) -> Iterator[tuple[str, np.ndarray]]:
    """The trainable weights of a layout under its own names, read one at a time; those of 8 bits as float32.

    Constants are compared with the layout's values and not handed on: the layers compute with the exact ones.
    Raises: LayoutError when names, shapes or dtypes do not fit or a constant has another value; CheckpointError when a
    tensor holds NaN or infinity, or is all zeros and does not start so.
    """
    held = check_headers(layout, weights)
    for name, held_name in progress(held.items(), f"loading {layout.model}", "tensor", len(held)):
        if held_name is None:
            continue
        array = weights[held_name]
        init = layout[name].init
        if isinstance(init, Constant):
            expected = init.make(array.shape)
            if np.abs(array.astype(np.float64) - expected).max() > CONSTANT_TOLERANCE * np.abs(expected).max():
                raise LayoutError(
                    f"{weights.source}: {held_name} holds other constants than {layout.model} computes with"
                )
            continue
        if not is_finite(array):
            raise CheckpointError(f"{weights.source}: {held_name} holds NaN or infinity; the file is damaged")
        if needs_numbers(layout[name]) and is_all_zero(array):
            check_zeros(layout, weights, held)  # says how many there are
        yield name, _widened(array)


def check_structure(layout: Layout, structure: Mapping[str, tuple[int, ...]]) -> None:
    """That a backend's model has the layout's trainable weights, no more and no fewer, in the same shapes."""
    expected = {name: weight.shape for name, weight in layout.items() if not isinstance(weight.init, Constant)}
    if dict(structure) != expected:
        wrong = sorted(set(expected.items()) ^ set(structure.items()))
        raise LayoutError(f"the model built for {layout.model} differs from its layout in {wrong[:4]}")


def _is_zero(weights: Weights, name: str) -> bool:
    return holds_only_zeros(weights, name) if isinstance(weights, WeightsReader) else is_all_zero(weights[name])


def _widened(array: np.ndarray) -> np.ndarray:
    """Numbers of 8 bits as float32, which holds each exactly: not every framework has them."""
    return array.astype(np.float32) if array.dtype.itemsize == 1 else array
