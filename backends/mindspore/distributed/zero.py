"""How the weights of a model in training, their gradients, averages and optimiser state lie on the ranks.

Replicas: every rank has all of them (one process, zero = 0). Shards: every rank has the weights, and a slice of all
else (zero = 2).
Source: Rajbhandari et al. 2020, arXiv:1910.02054 (ZeRO).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from mindspore import Parameter, Tensor, mint, nn, ops
from mindspore.mint import cat

from duosora.core.errors import ConfigError
from duosora.core.maths.parts import Blocks
from duosora.core.parallel.zero import owners
from duosora.core.seam.group import Group
from duosora.core.seam.training import TrainOptions

from ..denoiser import TokenDenoiser
from ..layers import parameter_dtype, parameter_shapes, set_parameter
from ..operators import length, pad_end, sum_of_squares
from ..precision import to_array, to_weight

BUCKET_SIZE = 1 << 25
"""Elements that ranks exchange at a time."""
_NUMBER = struct.Struct("<d")

_Result = TypeVar("_Result")


class Replicas:
    """Every rank holds all of every tensor; gradients are added up."""

    def __init__(self, group: Group) -> None:
        """group: all ranks that train together."""
        self.group = group

    def own(self, parameters: Mapping[str, Parameter]) -> dict[str, Tensor]:
        """What the optimiser of this rank works on: the parameters themselves."""
        return dict(parameters)

    def cut(self, name: str, whole: np.ndarray) -> np.ndarray:
        """This rank's part of an array in the shape of a weight: all of it."""
        return whole

    def collect(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The sums over the ranks of what each has found. All ranks call together."""
        if self.group.size == 1:
            return dict(gradients)
        return {name: total for bucket in _buckets(gradients) for name, total in self._added(bucket).items()}

    def norm(self, gradients: Sequence[Tensor]) -> float:
        """The length of all gradients as one vector, the same on all ranks, which call together."""
        return length(gradients)

    def written(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors that this rank is to write; core.parallel.zero.owners says which. All ranks call together."""
        owner = owners({name: part.nbytes for name, part in parts.items()}, self.group.size)
        return {name: part for name, part in parts.items() if owner[name] == self.group.index}

    def spread(self, parts: Mapping[str, Tensor], weights: Mapping[str, Parameter]) -> None:
        """Bring own parts that have changed into the weights."""
        _assign(weights, parts)

    def _added(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        total = self.group.reduce(cat([gradient.reshape(-1) for gradient in gradients.values()], 0))
        shapes = {name: tuple(gradient.shape) for name, gradient in gradients.items()}
        return {name: part.reshape(shapes[name]) for name, part in _divided(total, shapes).items()}


class Shards:
    """Each rank holds a slice of every tensor, laid out flat and padded to what the ranks divide."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], group: Group) -> None:
        """shapes: of the whole weights, by name. group: all ranks that train together."""
        self.shapes, self.group = dict(shapes), group

    def own(self, parameters: Mapping[str, Parameter]) -> dict[str, Tensor]:
        """This rank's parts of the parameters; for the optimiser, which copies them."""
        return {name: self._rows(name, parameter)[self.group.index] for name, parameter in parameters.items()}

    def cut(self, name: str, whole: np.ndarray) -> np.ndarray:
        """A copy of this rank's part of an array in the shape of a weight."""
        blocks = self._blocks(name)
        own = blocks.own(self.group.index)
        part = np.zeros(blocks.length, whole.dtype)
        part[: len(own)] = whole.reshape(-1)[own.start : own.stop]
        return part

    def collect(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The sums over the ranks of what each has found; own parts. All ranks call together."""
        found: dict[str, Tensor] = {}
        for bucket in _buckets(gradients):
            rows = cat([self._rows(name, gradient) for name, gradient in bucket.items()], 1)
            found |= _divided(self.group.reduce_scatter(rows)[0], self._lengths(bucket))
        return found

    def norm(self, gradients: Sequence[Tensor]) -> float:
        """The length of all gradients as one vector, from own parts; the same on all ranks, which call together."""
        shares = self.group.share(_NUMBER.pack(sum_of_squares(gradients)))
        return math.sqrt(sum(_NUMBER.unpack(share)[0] for share in shares))

    def written(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """From own parts, the whole tensors that this rank is to write, on the host. All ranks call together.

        They come together one at a time.
        """
        sizes = {name: math.prod(self.shapes[name]) * part.itemsize for name, part in parts.items()}
        owner = owners(sizes, self.group.size)
        mine = {}
        for name, part in parts.items():
            whole = self._whole(name, self.group.gather(part, 0))
            if owner[name] == self.group.index:
                mine[name] = Tensor.from_numpy(to_array(whole))
        return mine

    def spread(self, parts: Mapping[str, Tensor], weights: Mapping[str, Parameter]) -> None:
        """Bring own parts that have changed into the weights of all ranks, which call together."""
        _assign(weights, self._together(parts))

    def _together(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The whole tensors of own parts. All ranks call together."""
        found: dict[str, Tensor] = {}
        for bucket in _buckets(parts, self.group.size):
            rows = self.group.gather(cat(list(bucket.values()), 0)[None], 0)
            divided = _divided(rows, self._lengths(bucket))
            found |= {name: self._whole(name, part) for name, part in divided.items()}
        return found

    def _rows(self, name: str, whole: Tensor) -> Tensor:
        """The parts of all ranks, (size, length)."""
        flat = pad_end(whole.reshape(-1), 0, self._blocks(name).padding)
        return flat.reshape(self.group.size, -1)

    def _whole(self, name: str, rows: Tensor) -> Tensor:
        """The inverse of _rows."""
        return mint.narrow(rows.reshape(-1), 0, 0, self._blocks(name).size).reshape(self.shapes[name])

    def _blocks(self, name: str) -> Blocks:
        return Blocks(math.prod(self.shapes[name]), self.group.size)

    def _lengths(self, names: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
        return {name: (self._blocks(name).length,) for name in names}


class Entrance:
    """A denoiser in training, and the way in to it: every rank has its weights."""

    shards: Replicas | Shards

    def __init__(self, model: TokenDenoiser, network: Any, group: Group, device: str) -> None:
        """model: without memory for its weights; `fill` brings them. network: called like a denoiser, the model itself
        or what shares its tokens among ranks. group: all ranks that train together.
        """
        self.model, self.network, self.group, self.device = model, network, group, device

    def fill(self, name: str, array: np.ndarray) -> None:
        """Set a weight."""
        weight = to_weight(array, self.device, "fp32").astype(parameter_dtype(self.model, name))
        set_parameter(self.model, name, weight)

    def settle(self) -> None:
        """Once before the first call, when it is known which weights learn: fix how all lies on the ranks, `shards`."""
        self.shards = Replicas(self.group)

    def __call__(self, call: Callable[[], _Result]) -> _Result:
        """What is done with the network, its forward and more. All ranks call together."""
        return call()

    @contextmanager
    def inference(self) -> Iterator[nn.Cell]:
        """What is called like the network itself, by all ranks together, without gradients."""
        yield self.network


def share(model: TokenDenoiser, network: Any, options: TrainOptions, group: Group, device: str) -> Entrance:
    """The way in to a denoiser whose training the ranks share as the options say; for the arguments see Entrance.

    Raises: ConfigError for a way that MindSpore does not have.
    """
    if options.zero == 0 or group.size == 1:
        return Entrance(model, network, group, device)
    if options.engine == "deepspeed":
        raise ConfigError("parallel.engine = deepspeed is for torch; leave it out: MindSpore splits the state itself")
    if options.zero != 2:
        raise ConfigError(
            f"parallel.zero = {options.zero}: MindSpore has 0 and 2 here; it holds the weights on every rank"
        )
    return _Sliced(model, network, group, device)


class _Sliced(Entrance):
    """A model that every rank has, while gradients, averages and the optimiser's state lie in slices."""

    def settle(self) -> None:
        self.shards = Shards(parameter_shapes(self.model), self.group)


def _assign(weights: Mapping[str, Parameter], values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        ops.assign(weights[name], value)


def _divided(x: Tensor, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Along its last axis, a tensor cut into parts for as many elements as tensors of these shapes have."""
    parts, start = {}, 0
    for name, shape in shapes.items():
        size = math.prod(shape)
        parts[name] = mint.narrow(x, x.ndim - 1, start, size)
        start += size
    return parts


def _buckets(tensors: Mapping[str, Tensor], copies: int = 1) -> Iterator[dict[str, Tensor]]:
    """Tensors in groups that are not too large, so many copies of each."""
    bucket: dict[str, Tensor] = {}
    room = BUCKET_SIZE
    for name, tensor in tensors.items():
        size = copies * tensor.size
        if bucket and size > room:
            yield bucket
            bucket, room = {}, BUCKET_SIZE
        bucket[name] = tensor
        room -= size
    if bucket:
        yield bucket
