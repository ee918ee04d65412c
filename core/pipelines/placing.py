"""Where the weights of a run's models are while nothing computes with them, decided before any is loaded."""

from __future__ import annotations

import os
from math import prod

from ..conditioning.base import Note
from ..config.schema import BackendSettings
from ..errors import ConfigError
from ..host_memory import free_host_bytes, gib
from ..loading import IN_NUMPY
from ..models.finding import Part
from ..seam.backend import Backend

ROOM = 0.9
"""Of the free memory, for weights; the rest is for what computing takes."""


def weight_bytes(part: Part, dtype: str) -> int:
    """Of all weights of a model in memory."""
    return IN_NUMPY[dtype].itemsize * sum(prod(weight.shape) for weight in part.layout.values())


def block_bytes(part: Part, dtype: str) -> int:
    """Of the matrices in the blocks of a denoiser, which offloading moves to the host."""
    inside = tuple(f"{block}." for block in part.spec.blocks())
    shapes = [weight.shape for name, weight in part.layout.items() if name.startswith(inside)]
    return IN_NUMPY[dtype].itemsize * sum(prod(shape) for shape in shapes if len(shape) == 2)


def check_offload(settings: BackendSettings, backend: Backend) -> None:
    """Raises: ConfigError where offloading saves nothing, or cannot be."""
    if settings.offload != "blocks":
        return
    if backend.on_host:
        raise ConfigError(
            "backend.offload = blocks: the device is the host's CPU, so nothing would leave it; use none, or parts"
        )
    if settings.compile and backend.name == "mindspore":
        raise ConfigError(
            "backend.offload = blocks: MindSpore's compiled graphs keep all weights on the device; drop it or "
            "backend.compile"
        )


def check_room(settings: BackendSettings, part: Part, dtype: str) -> None:
    """Raises: ConfigError where this host has no room for what offloading moves to it."""
    if settings.offload != "blocks":
        return
    told = os.environ.get("LOCAL_WORLD_SIZE", "")
    processes = int(told) if told.isdecimal() else 1
    needed, free = processes * block_bytes(part, dtype), free_host_bytes()
    if free is not None and needed > ROOM * free:
        raise ConfigError(
            f"backend.offload = blocks: needs {needed} bytes ({gib(needed)}) of the host's memory, and {free} "
            f"({gib(free)}) are free; use parts, or bf16 as backend.dtype.denoiser"
        )


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
