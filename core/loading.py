"""Weights on their way into a model: checked against the layout, tensor by tensor, the same for every backend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from .errors import CheckpointError, LayoutError
from .io.weights import is_all_zero, is_finite
from .layout import Constant, Layout, Weights
from .progress import progress

# Filter taps may have been stored in half precision; bfloat16 keeps 8 bits.
CONSTANT_TOLERANCE = 2.0**-8


def checked_weights(layout: Layout, weights: Weights) -> Iterator[tuple[str, np.ndarray]]:
    """The trainable weights of a layout under its own names, read one at a time.

    Constants are compared with the layout's values and not handed on: the layers compute with the exact ones.
    Raises: LayoutError when names or shapes do not fit or a constant has another value; CheckpointError when a tensor
    holds NaN or infinity, or an embedding is all zeros.
    """
    held = layout.check({name: weights.shape(name) for name in weights}, weights.source)
    for name, held_name in progress(held.items(), f"loading {layout.model}", "tensor", len(held)):
        if held_name is None:
            continue
        array = weights[held_name]
        init = layout[name].init
        if isinstance(init, Constant):
            expected = np.array(init.values).reshape(array.shape)
            if np.abs(array.astype(np.float64) - expected).max() > CONSTANT_TOLERANCE * np.abs(expected).max():
                raise LayoutError(
                    f"{weights.source}: {held_name} holds other filter taps than {layout.model} computes with"
                )
            continue
        if not is_finite(array):
            raise CheckpointError(f"{weights.source}: {held_name} holds NaN or infinity; the file is damaged")
        if name in layout.embeddings and is_all_zero(array):
            raise CheckpointError(
                f"{weights.source}: {held_name} is all zeros; the file was written without this embedding"
            )
        yield name, array


def check_structure(layout: Layout, structure: Mapping[str, tuple[int, ...]]) -> None:
    """That a backend's model has the layout's trainable weights, no more and no fewer, in the same shapes."""
    expected = {name: weight.shape for name, weight in layout.items() if not isinstance(weight.init, Constant)}
    if dict(structure) != expected:
        wrong = sorted(set(expected.items()) ^ set(structure.items()))
        raise LayoutError(f"the model built for {layout.model} differs from its layout in {wrong[:4]}")
