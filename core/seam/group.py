"""What ranks say to each other, whatever framework carries it."""

from __future__ import annotations

from typing import Protocol

from .models import Array


class Group(Protocol):
    """Some ranks of a run, this process among them. All members make the same calls in the same order.

    Tensors have the same shape and dtype on all members. No gradient flows through any of these.
    """

    ranks: tuple[int, ...]
    index: int
    """Of this process among them."""
    bytes_sent: int
    """What the collectives on tensors have sent from this rank to others so far."""

    @property
    def size(self) -> int:
        """Number of ranks."""

    def all_to_all(self, x: Array, split: int, concat: int) -> Array:
        """Cut along one axis into a part for each rank; the parts that come, in the order of ranks, along another.

        The number of ranks divides the axis that is split. Sends (size - 1) / size of the tensor.
        """

    def gather(self, x: Array, axis: int) -> Array:
        """The tensors of all ranks along one axis. Sends the tensor to size - 1 ranks."""

    def reduce(self, x: Array) -> Array:
        """The sum over the ranks, float32 or half precision. Sends 2 (size - 1) / size of the tensor."""

    def reduce_scatter(self, x: Array) -> Array:
        """This rank's part, along the first axis, of the sum over the ranks. Sends (size - 1) / size of the tensor."""

    def shift(self, x: Array) -> Array:
        """The tensor of the rank before; the first rank gets the last one's. Sends the tensor once."""

    def share(self, data: bytes) -> list[bytes]:
        """What every rank hands over, of any lengths, through the host's memory."""

    def any(self, flag: bool) -> bool:
        """Whether it holds on any rank."""

    def barrier(self) -> None:
        """Until all ranks are here."""


class Alone:
    """The group of a process that is by itself: nothing is sent."""

    ranks: tuple[int, ...] = (0,)
    index = 0
    bytes_sent = 0

    @property
    def size(self) -> int:
        return 1

    def all_to_all(self, x: Array, split: int, concat: int) -> Array:
        return x

    def gather(self, x: Array, axis: int) -> Array:
        return x

    def reduce(self, x: Array) -> Array:
        return x

    def reduce_scatter(self, x: Array) -> Array:
        return x

    def shift(self, x: Array) -> Array:
        return x

    def share(self, data: bytes) -> list[bytes]:
        return [data]

    def any(self, flag: bool) -> bool:
        return flag

    def barrier(self) -> None:
        pass
