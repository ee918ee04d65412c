"""Weights on their way into a model: checked against the layout, tensor by tensor, the same for every backend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from .errors import CheckpointError, LayoutError
from .host_memory import new_array
from .io.weights import WeightsReader, holds_only_zeros, is_all_zero, is_finite, is_float
from .layout import QUANTISED, Constant, Layout, Weight, Weights, some_names
from .maths.eight_bits import EIGHT_BITS, to_eight_bits
from .progress import progress

# Filter taps may have been stored in half precision; bfloat16 keeps 8 bits.
CONSTANT_TOLERANCE = 2.0**-8
IN_NUMPY = {
    "fp32": np.dtype(np.float32),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "fp16": np.dtype(np.float16),
    EIGHT_BITS: np.dtype(np.int8),
}
PIECE_NUMBERS = 1 << 18
"""Read at a time of a matrix that is not to be in memory whole."""


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
    checked = CheckedWeights(layout, weights)
    for name in checked.names():
        yield name, checked.whole(name)


class Matrix(NamedTuple):
    """A weight as a model keeps it."""

    numbers: np.ndarray
    """(R, C) of a compute dtype, or int8."""
    scales: np.ndarray | None = None
    """(R,) float32 of a matrix in 8 bits."""


class CheckedWeights:
    """The trainable weights of a layout under its own names, checked while they are read: whole, or some rows.

    Raises: as checked_weights, each when it is seen.
    """

    def __init__(self, layout: Layout, weights: Weights) -> None:
        self.layout, self.weights = layout, weights
        self._held = check_headers(layout, weights)

    def names(self) -> Iterator[str]:
        """In the layout's order, with a bar; constants are compared in between."""
        model = self.layout.model
        for name, held in progress(self._held.items(), f"loading {model}", "tensor", len(self._held)):
            if held is not None and not self._is_constant(name, held):
                yield name

    def whole(self, name: str) -> np.ndarray:
        """One weight, of 8 bits as float32."""
        array = self.weights[self._name(name)]
        self._check_finite(name, array)
        if self._needs_numbers(name) and is_all_zero(array):
            self._refuse_zeros()
        return _widened(array)

    def pieces(self, name: str) -> Iterator[np.ndarray]:
        """One matrix in pieces of some whole rows, in turn, each a megabyte; of 8 bits as float32."""
        is_zero = self._needs_numbers(name)
        for piece in self._pieces(self._name(name)):
            self._check_finite(name, piece)
            is_zero = is_zero and is_all_zero(piece)
            yield _widened(piece)
        if is_zero:
            self._refuse_zeros()

    def matrix(self, name: str, dtype: str) -> Matrix:
        """One matrix in a dtype of seam.backend.DTYPES, or EIGHT_BITS; besides it no more than a piece is in memory."""
        shape = self.layout[name].shape
        numbers = new_array(shape, IN_NUMPY[dtype])
        scales = np.empty(shape[0], np.float32) if dtype == EIGHT_BITS else None
        start = 0
        for piece in self.pieces(name):
            rows = slice(start, start + len(piece))
            if scales is not None:
                piece, scales[rows] = to_eight_bits(piece)
            numbers[rows] = piece
            start += len(piece)
        return Matrix(numbers, scales)

    def few_rows(self, name: str, numbers: Sequence[int], dtype: str) -> Matrix:
        """The same of some rows of a matrix. Of a file no others are read."""
        rows = self.rows(name, numbers)
        return Matrix(*to_eight_bits(rows)) if dtype == EIGHT_BITS else Matrix(rows.astype(IN_NUMPY[dtype]))

    def rows(self, name: str, numbers: Sequence[int]) -> np.ndarray:
        """Some rows of one matrix (N, C), of 8 bits as float32."""
        held = self._name(name)
        if isinstance(self.weights, WeightsReader):
            found = np.stack([self.weights.read_rows(held, number, number + 1)[0] for number in numbers])
        else:
            found = self.weights[held][list(numbers)]
        self._check_finite(name, found)
        return _widened(found)

    def _pieces(self, held: str) -> Iterator[np.ndarray]:
        count, width = self.weights.shape(held)
        step = max(1, PIECE_NUMBERS // width)
        spans = [(start, min(start + step, count)) for start in range(0, count, step)]
        if isinstance(self.weights, WeightsReader):
            yield from (self.weights.read_rows(held, *span) for span in spans)
        else:
            array = self.weights[held]
            yield from (array[start:stop] for start, stop in spans)

    def _name(self, name: str) -> str:
        held = self._held[name]
        assert held is not None, f"{name} is a constant that is not in the file"
        return held

    def _needs_numbers(self, name: str) -> bool:
        return needs_numbers(self.layout[name])

    def _is_constant(self, name: str, held: str) -> bool:
        init = self.layout[name].init
        if not isinstance(init, Constant):
            return False
        array = self.weights[held]
        expected = init.make(array.shape)
        if np.abs(array.astype(np.float64) - expected).max() > CONSTANT_TOLERANCE * np.abs(expected).max():
            raise LayoutError(
                f"{self.weights.source}: {held} holds other constants than {self.layout.model} computes with"
            )
        return True

    def _check_finite(self, name: str, array: np.ndarray) -> None:
        if not is_finite(array):
            held = self._name(name)
            raise CheckpointError(f"{self.weights.source}: {held} holds NaN or infinity; the file is damaged")

    def _refuse_zeros(self) -> None:
        check_zeros(self.layout, self.weights, self._held)  # says how many there are


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
