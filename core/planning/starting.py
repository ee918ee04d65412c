"""What a run says of itself when it starts: the short form of its plan."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import DuosoraError
from ..printable import say
from ..seam.backend import Backend
from .advice import Case, advice
from .devices import this_device
from .telling import short_lines


def tell_forecast(case: Callable[[], Case], backend: Backend) -> None:
    """Say what a run will need; nothing where that cannot be counted, which keeps no run from starting."""
    try:
        device = this_device(backend.name, backend.device, backend.device_memory_bytes())
        planned = case()
        say(*short_lines(planned.forecast(device), advice(planned, device)))
    except DuosoraError:
        return
