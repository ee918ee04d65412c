"""A forecast in words: a few lines for the start of a run, and rows of a table."""

from __future__ import annotations

from collections.abc import Sequence

from .forecast import Forecast, Holding, Phase

MINUTE, HOUR = 60.0, 3600.0
_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
PARTS = 3
"""Of the widest phase, those that the short form names."""


def size_text(size: float) -> str:
    """Bytes as people say them."""
    unit, name = next((each for each in _UNITS if size >= each[0]), _UNITS[-1])
    return f"{size / unit:.3g} {name}" if size < 1000 * unit else f"{size / unit:.0f} {name}"


def seconds_text(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < MINUTE:
        return f"{seconds:.1f} s"
    if seconds < HOUR:
        return f"{seconds // MINUTE:.0f} min {seconds % MINUTE:.0f} s"
    return f"{seconds // HOUR:.0f} h {seconds % HOUR // MINUTE:.0f} min"


def room_text(forecast: Forecast) -> str:
    """How much memory there is."""
    device = forecast.device
    if device.memory is None:
        return "of unknown memory"
    return f"{size_text(device.memory)} {'free' if device.on_host else 'in all'}"


def short_lines(forecast: Forecast, advised: Sequence[str]) -> list[str]:
    """For the start of a run."""
    widest = forecast.widest
    largest = sorted(widest.held.items(), key=lambda each: -each[1])[:PARTS]
    parts = ", ".join(f"{_name(holding)} {size_text(size)}" for holding, size in largest)
    each = f" on each of {forecast.devices} devices" if forecast.devices > 1 else ""
    phases = ", ".join(f"{phase.name} {seconds_text(phase.seconds)}" for phase in forecast.phases if phase.seconds)
    host = f"; {size_text(forecast.on_host)} of the host's for each" if forecast.on_host else ""
    lines = [
        f"memory     {size_text(forecast.peak)} of {room_text(forecast)}{each}, in {widest.name}: {parts}{host}",
        f"time       about {seconds_text(forecast.seconds)} for {forecast.unit}: {phases} ({forecast.device.source})",
    ]
    return [*lines, *warning(forecast, advised)]


def warning(forecast: Forecast, advised: Sequence[str]) -> list[str]:
    """Where it does not fit, what would."""
    if forecast.fits is not False:
        return []
    needed = f"{size_text(forecast.peak)} are needed, {room_text(forecast)}"
    instead = "; ".join(advised) or "nothing that was tried fits; it takes a smaller video, or another device"
    return [f"warning: it does not fit: {needed}; {instead}"]


def rows(forecast: Forecast) -> list[list[str]]:
    """Of a table with a column for each phase: what is held, the peak, time, what is sent, and what the host
    has of it."""
    phases = forecast.phases
    holdings = dict.fromkeys(holding for phase in phases for holding in phase.held)
    ordered = sorted(holdings, key=lambda holding: (holding.part == "run", list(holdings).index(holding)))
    table = [[_name(each), *(_size(phase, each) for phase in phases)] for each in ordered]
    table.append(["peak", *(size_text(phase.peak) for phase in phases)])
    table.append(["time", *(seconds_text(phase.seconds) if phase.seconds else "" for phase in phases)])
    for name, sizes in (
        ("on the host", [p.on_host for p in phases]),
        ("to other devices", [p.moved for p in phases]),
        ("to and from the host", [p.hosted for p in phases]),
    ):
        if any(sizes):
            table.append([name, *(size_text(size) if size else "" for size in sizes)])
    return table


def _size(phase: Phase, holding: Holding) -> str:
    return size_text(phase.held[holding]) if holding in phase.held else ""


def _name(holding: Holding) -> str:
    return holding.what if holding.part == "run" else f"{holding.part} {holding.what}"
