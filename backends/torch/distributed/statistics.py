"""Running statistics of norms that data ranks share, as one process would gather them.

SURFACE ONLY, the bodies follow.
"""

from __future__ import annotations

from torch import nn

from duosora.core.parallel.group import Group


class SharedStatistics:
    """Notes the statistics of each call of a model's norms, and adds those of all ranks in one process's order."""

    def __init__(self, model: nn.Module, group: Group) -> None:
        """group: data ranks; nothing is noted where it has one."""

    def begin(self) -> None:
        """Before a micro-batch: what follows belongs to it."""

    def exchange(self) -> None:
        """After the last micro-batch: update the running statistics with all ranks' notes, micro-batch m of rank
        m % ranks after the other. All ranks call together."""
