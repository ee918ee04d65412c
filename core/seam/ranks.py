"""Who does what on many processes: world = data x cfg x sequence ranks, in that order, sequence innermost.

Ranks that exchange the most are neighbours, so a launcher that fills nodes with consecutive ranks keeps them on one
node. A rank's place says which samples it works on (data), which half of guidance (cfg), and which tokens (sequence).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..errors import ConfigError
from .group import Alone, Group

HALVES = 2
"""Of classifier-free guidance: without and with the text."""
MEET_SECONDS = 300.0
"""In which all processes of a run must have come."""


class Place(NamedTuple):
    """Where a rank stands."""

    data: int
    cfg: int
    sequence: int


@dataclass(frozen=True)
class ParallelPlan:
    """How many ways the samples, the halves of guidance and the tokens are split."""

    data: int = 1
    cfg: int = 1
    """1, or 2: each half of guidance has ranks of its own."""
    sequence: int = 1

    @property
    def world(self) -> int:
        return self.data * self.cfg * self.sequence

    def place(self, rank: int) -> Place:
        """Where a rank stands."""
        rest, sequence = divmod(rank, self.sequence)
        return Place(rest // self.cfg, rest % self.cfg, sequence)

    def rank(self, place: Place) -> int:
        """The rank that stands there."""
        return (place.data * self.cfg + place.cfg) * self.sequence + place.sequence

    def sequence_groups(self) -> tuple[tuple[int, ...], ...]:
        """Ranks that share the tokens of one network call, for every such group."""
        return tuple(
            tuple(self.rank(Place(data, cfg, i)) for i in range(self.sequence))
            for data in range(self.data)
            for cfg in range(self.cfg)
        )

    def cfg_groups(self) -> tuple[tuple[int, ...], ...]:
        """Ranks that hold the same tokens of the two halves."""
        return tuple(
            tuple(self.rank(Place(data, i, sequence)) for i in range(self.cfg))
            for data in range(self.data)
            for sequence in range(self.sequence)
        )

    def data_groups(self) -> tuple[tuple[int, ...], ...]:
        """Ranks that do the same for different samples."""
        return tuple(
            tuple(self.rank(Place(i, cfg, sequence)) for i in range(self.data))
            for cfg in range(self.cfg)
            for sequence in range(self.sequence)
        )

    def teams(self) -> tuple[tuple[int, ...], ...]:
        """Ranks that work on the same samples; the first of a team is its leader."""
        size = self.cfg * self.sequence
        return tuple(tuple(range(first, first + size)) for first in range(0, self.world, size))

    def leaders(self, hosts: Sequence[str]) -> tuple[tuple[int, ...], ...]:
        """The leaders of teams that are on one machine, for every machine. hosts: the name of each rank's."""
        first = [team[0] for team in self.teams()]
        named = dict.fromkeys(hosts[rank] for rank in first)
        return tuple(tuple(rank for rank in first if hosts[rank] == host) for host in named)


def make_plan(world: int, sequence: int = 1, has_cfg: bool = False) -> ParallelPlan:
    """The plan of a world of ranks; what sequence and cfg leave over goes to data.

    Raises: ConfigError, naming the sizes that work, when they do not divide the world.
    """
    cfg = HALVES if has_cfg else 1
    if world % (cfg * sequence):
        fitting = [size for size in range(1, world + 1) if world % (cfg * size) == 0]
        sizes = f"parallel.sequence works with {', '.join(map(str, fitting))}" if fitting else "start an even number"
        with_cfg = " with parallel.cfg" if has_cfg else ""
        raise ConfigError(f"parallel.sequence = {sequence}{with_cfg}: does not divide {world} processes; {sizes}")
    return ParallelPlan(world // (cfg * sequence), cfg, sequence)


@dataclass(frozen=True)
class Ranks:
    """This process's place in a run, and the groups that it belongs to."""

    plan: ParallelPlan = field(default_factory=ParallelPlan)
    rank: int = 0
    world: Group = field(default_factory=Alone)
    data: Group = field(default_factory=Alone)
    """Same work, other samples."""
    cfg: Group = field(default_factory=Alone)
    """Same tokens, the other half of guidance."""
    sequence: Group = field(default_factory=Alone)
    """Same network call, other tokens."""
    team: Group = field(default_factory=Alone)
    """Same samples: cfg and sequence together."""
    leaders: Group = field(default_factory=Alone)
    """On this machine, the first rank of each team; for one that is none, itself."""

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that speaks and writes for all."""
        return self.rank == 0

    @property
    def leads_team(self) -> bool:
        """Whether this is the rank that reads and writes for those that work on the same samples."""
        return self.team.index == 0
