"""A run's phases with what they hold, how long they take and what they send."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from .constants import MOST_SLACK, SLACK
from .devices import Device

RUN, ACTIVATIONS, STREAM, ALLOCATOR = "run", "activations", "stream", "allocator"


class Holding(NamedTuple):
    """Something that stands in memory."""

    part: str
    """text encoder, denoiser, autoencoder, or run."""
    what: str
    """weights, gradients, moments, average, activations, ..."""


@dataclass(frozen=True)
class Phase:
    """A part of a run, of one device."""

    name: str
    held: Mapping[Holding, int]
    """Bytes at its widest moment."""
    seconds: float
    moved: int = 0
    """Bytes sent to other devices."""
    hosted: int = 0
    """Bytes to and from the host."""
    on_host: int = 0
    """Bytes that stand in the host's memory for the device."""

    @property
    def peak(self) -> int:
        return sum(self.held.values())


def with_slack(phases: Sequence[Phase], device: Device) -> list[Phase]:
    """With the memory that an allocator keeps free between what is used."""
    (least, share), most = SLACK[device.kind], MOST_SLACK[device.kind]
    found = []
    for phase in phases:
        used = sum(size for holding, size in phase.held.items() if holding.what in (ACTIVATIONS, STREAM))
        kept = least + int(share * used if most is None else min(most, share * used))
        found.append(replace(phase, held={**phase.held, Holding(RUN, ALLOCATOR): kept}) if kept else phase)
    return found


@dataclass(frozen=True)
class Forecast:
    """All phases of a run, or for training of a step."""

    device: Device
    devices: int
    phases: Sequence[Phase]
    unit: str
    """What the seconds are of."""

    @property
    def widest(self) -> Phase:
        """The phase that needs the most memory."""
        return max(self.phases, key=lambda phase: phase.peak)

    @property
    def peak(self) -> int:
        return self.widest.peak

    @property
    def on_host(self) -> int:
        """Bytes that the host has to have for each device."""
        return max(phase.on_host for phase in self.phases)

    @property
    def seconds(self) -> float:
        return sum(phase.seconds for phase in self.phases)

    @property
    def fits(self) -> bool | None:
        """None: nobody knows how much there is."""
        return None if self.device.memory is None else self.peak <= self.device.memory
