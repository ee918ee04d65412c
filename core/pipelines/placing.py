"""Where the weights of a run's models are while nothing computes with them, decided before any is loaded."""

from __future__ import annotations

from math import prod

from ..conditioning.base import Note
from ..config.schema import BackendSettings
from ..host_memory import gib
from ..loading import IN_NUMPY
from ..models.finding import Part
from ..seam.backend import Backend

ROOM = 0.9
"""Of the free memory, for weights; the rest is for what computing takes."""


def weight_bytes(part: Part, dtype: str) -> int:
    """Of all weights of a model in memory."""
    return IN_NUMPY[dtype].itemsize * sum(prod(weight.shape) for weight in part.layout.values())


def streams_text_encoder(
    settings: BackendSettings, backend: Backend, part: Part | None, dtype: str, note: Note
) -> bool:
    """Whether a text encoder is read layer by layer while it encodes; `note` is told where that is decided here."""
    if part is None or settings.text_encoder != "auto":
        return settings.text_encoder == "stream"
    needed, free = weight_bytes(part, dtype), backend.free_memory_bytes()
    if free is None or needed <= ROOM * free:
        return False
    note(
        f"the text encoder takes {gib(needed)} in {dtype}, and {gib(free)} are free: it is read layer by layer while "
        "it encodes (backend.text_encoder)"
    )
    return True
