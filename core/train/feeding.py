"""The batches of a step, on every rank: a team's leader reads and makes them, the team gets them, all know of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..data.batch import ClipBatch
from ..parallel.agreement import agreed, exchange, exchange_arrays
from ..seam.models import Given
from ..seam.ranks import Ranks
from ..seam.training import DiffusionBatch

Read = Callable[[], Iterable[ClipBatch]]


class Makes(Protocol):
    """What makes batches of clips."""

    def prepare(self, clips: Sequence[ClipBatch]) -> None:
        """Have at hand what machines make once for all their ranks, for the clips of a step; the leaders of all teams
        call it together."""

    def make(self, clips: ClipBatch, step: int) -> Any:
        """The trainer's batch; everything random about it follows from the step and the clips' numbers."""

    def work(self, batch: Any) -> int:
        """Tokens or pixels of a batch, for the throughput."""


@dataclass(frozen=True)
class MicroBatchFacts:
    """What all ranks know of a micro-batch."""

    samples: int
    work: int
    sources: Sequence[str]
    failures: Sequence[str]
    """Why clips had to be replaced, a line each."""
    size: str = ""
    """Of the clips: the bucket that they are in, or height x width in pixels and frames."""


class Fed(NamedTuple):
    """What a step is trained on."""

    batches: list[Any]
    """This rank's, those of its team."""
    facts: list[MicroBatchFacts]
    """Of the micro-batches of all, in the order that one process takes them."""
    waited: float
    """Seconds until all had their clips."""


class Feeding:
    """Gives every rank its batches. All ranks make the same calls."""

    def __init__(self, ranks: Ranks, makes: Makes) -> None:
        self.ranks, self.makes = ranks, makes

    def feed(self, read: Read, step: int) -> Fed:
        """The batches that the leaders make of what they read; others need nothing to read from.

        Raises: on all ranks, the DuosoraError of one that cannot read or make its batches.
        """
        ranks = self.ranks
        # All have read before any prepares: those who prepare wait for each other.
        began = time.monotonic()
        clips = agreed(ranks.world, lambda: list(read()) if ranks.leads_team else [])
        waited = time.monotonic() - began
        batches = agreed(ranks.world, lambda: self._made(clips, step) if ranks.leads_team else [])
        facts = [self._facts(*each) for each in zip(clips, batches, strict=True)]
        if ranks.team.size > 1:
            batches = _unpacked(exchange_arrays(ranks.team, lambda: _packed(batches))[0])
        return Fed(batches, self._facts_of_all(facts), waited)

    def _made(self, clips: Sequence[ClipBatch], step: int) -> list[Any]:
        self.makes.prepare(clips)
        return [self.makes.make(each, step) for each in clips]

    def _facts_of_all(self, facts: list[MicroBatchFacts]) -> list[MicroBatchFacts]:
        """In the order that one process takes them: leaders have every so many-th."""
        if self.ranks.world.size == 1:
            return facts
        said = exchange(self.ranks.world, lambda: [asdict(each) for each in facts])
        shares = [said[team[0]] for team in self.ranks.plan.teams()]
        return [MicroBatchFacts(**each) for together in zip(*shares, strict=True) for each in together]

    def _facts(self, clips: ClipBatch, batch: Any) -> MicroBatchFacts:
        failures = tuple(f"{failure.path}: {failure.reason}" for failure in clips.failures)
        return MicroBatchFacts(len(clips.samples), self.makes.work(batch), clips.sources, failures, _size_of(clips))


def _size_of(clips: ClipBatch) -> str:
    if clips.bucket is not None or not clips.sizes:
        return clips.bucket or ""
    first = clips.sizes[0]
    return f"{first.height}x{first.width} {first.frames}"


def _packed(batches: Sequence[DiffusionBatch]) -> dict[str, np.ndarray]:
    """The arrays of batches as <number>.<field>, and those of what is given as <number>.given.<field>."""
    return {f"{number}.{name}": value for number, batch in enumerate(batches) for name, value in _arrays(batch)}


def _arrays(batch: DiffusionBatch) -> Iterator[tuple[str, np.ndarray]]:
    for name, value in vars(batch).items():
        inner = {f"{name}.{each}": held for each, held in vars(value).items()} if name == "given" else {name: value}
        yield from ((each, np.asarray(held)) for each, held in inner.items() if held is not None)


_SWITCHES = ("counts_alike", "padding_counts")


def _unpacked(arrays: Mapping[str, np.ndarray]) -> list[DiffusionBatch]:
    batches: dict[int, dict[str, Any]] = {}
    given: dict[int, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        number, _, field = name.partition(".")
        kind, _, inner = field.partition(".")
        (given if inner else batches).setdefault(int(number), {})[inner or kind] = array
    return [
        DiffusionBatch(
            **batch | {name: bool(batch[name]) for name in _SWITCHES} | {"given": Given(**given.get(number, {}))}
        )
        for number, batch in sorted(batches.items())
    ]
