"""How the weights of a model in training, their gradients, averages and optimiser state lie on the ranks.

Replicas: every rank has all of them (one process, zero = 0). Shards: each has its parts of them (zero = 2 and 3).
Rajbhandari et al. 2020, arXiv:1910.02054.

SURFACE ONLY, the bodies follow. Names with an underscore are torch's own and need no twin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from duosora.core.parallel.group import Group


class Replicas:
    """Every rank holds all of every tensor; gradients are added up."""

    def __init__(self, group: Group) -> None:
        """group: all ranks that train together."""

    def own(self, parameters: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
        """What the optimiser of this rank works on: the parameters themselves."""

    def cut(self, name: str, whole: Tensor) -> Tensor:
        """This rank's part of a tensor in the shape of a weight: all of it."""

    def collect(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The sums over the ranks of what each has found; own parts. All ranks call together."""

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """The length of all gradients as one vector, from own parts, the same on all ranks, which call together."""

    def written(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """From own parts of tensors, the whole tensors that this rank is to write: core.parallel.zero.owners says
        which. All ranks call together."""


class Shards:
    """Each rank holds a part of every tensor (torch: a slice along one axis; MindSpore: of the flat array)."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], group: Group) -> None:
        """shapes: of the whole weights. group: all ranks that train together."""

    def own(self, parameters: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]: ...

    def cut(self, name: str, whole: Tensor) -> Tensor: ...

    def collect(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]: ...

    def norm(self, gradients: Sequence[Tensor]) -> Tensor: ...

    def written(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]: ...
