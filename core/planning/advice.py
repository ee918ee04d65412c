"""What to change when a run does not fit: each choice is counted, and those that fit are named, the cheapest first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..errors import DuosoraError
from ..maths.eight_bits import EIGHT_BITS
from ..seam.ranks import make_plan
from .devices import Device
from .forecast import Forecast
from .sampling import SamplingCase
from .training import TrainingCase

MOST = 4
"""Choices that are named."""
MOST_DEVICES = 8
"""That are tried."""
TIMES = 0.05
"""Differences in time that are not told."""

Case = SamplingCase | TrainingCase
Change = tuple[str, Mapping[str, Any]]
"""By its setting: fields of a case, and their other values."""


def advice(case: Case, device: Device) -> list[str]:
    """What fits instead, in order of its cost: one change, or where none is enough two."""
    now = case.forecast(device)
    if now.fits is not False:
        return []
    single = list(_sampling(case, device) if isinstance(case, SamplingCase) else _training(case, device))
    found = _fitting(case, device, single) or _fitting(case, device, list(_pairs(single)))
    return [f"{name} fits{_times(forecast.seconds / now.seconds)}" for name, forecast in found[:MOST]]


def _fitting(case: Case, device: Device, changes: Sequence[Change]) -> list[tuple[str, Forecast]]:
    """Of changes those with which it fits, by their cost: seconds of all devices. Of those that change the same, the
    cheapest; where they cost as much, the one that was named first."""
    found: dict[frozenset[str], tuple[float, str, Forecast]] = {}
    for name, change in changes:
        try:
            forecast = replace(case, **change).forecast(device)
        except DuosoraError:
            continue  # a size or a dtype that cannot be
        cost, fields = forecast.seconds * forecast.devices, frozenset(change)
        if forecast.fits and (fields not in found or cost < (1 - TIMES) * found[fields][0]):
            found[fields] = cost, name, forecast
    return [(name, forecast) for _, name, forecast in sorted(found.values(), key=lambda each: each[0])]


def _pairs(changes: Sequence[Change]) -> Iterator[Change]:
    """Two changes together that do not touch the same."""
    for i, (name, change) in enumerate(changes):
        for other, further in changes[i + 1 :]:
            if not change.keys() & further.keys():
                yield f"{name} with {other}", {**change, **further}


def _sampling(case: SamplingCase, device: Device) -> Iterator[Change]:
    frames = [case.vae.compression.latent(video).frames for video in case.videos]
    if case.vae.streams_exactly and max(frames, default=1) > 1:
        for chunk in (2, 1):
            if case.chunk is None or chunk < case.chunk:
                yield f"decode.chunk={chunk}", {"chunk": chunk}
    if case.text_encoder is not None and not case.streams_text_encoder:
        yield "backend.text_encoder=stream", {"streams_text_encoder": True}
    if case.text_encoder is not None and case.dtypes["text_encoder"] != EIGHT_BITS:
        yield f"backend.dtype.text_encoder={EIGHT_BITS}", {"dtypes": {**case.dtypes, "text_encoder": EIGHT_BITS}}
    if case.offload == "none":
        for offload in ("parts",) if device.on_host else ("parts", "blocks"):
            yield f"backend.offload={offload}", {"offload": offload}
    if case.tile is None:
        yield "decode.tile.size=256", {"tile": 256 // case.vae.compression.space}
    if case.batch > 1 and not device.on_host:
        yield "batch_size=1", {"batch": 1}
    halves = {kind: "bf16" for kind, dtype in case.dtypes.items() if dtype == "fp32"}
    if halves and "bf16" in device.rates:
        names = " ".join(f"backend.dtype.{kind}=bf16" for kind in halves)
        yield names, {"dtypes": {**case.dtypes, **halves}}
    for devices in _more(case.split.world, device):
        sequence = case.split.sequence * devices // case.split.world
        plan = make_plan(devices, sequence, case.split.cfg > 1)
        yield f"parallel.sequence={sequence} on {devices} devices", {"split": plan}


def _training(case: TrainingCase, device: Device) -> Iterator[Change]:
    for every in (2, 1):
        if case.recompute_every == 0 or every < case.recompute_every:
            yield f"compute.recompute_every={every}", {"recompute_every": every}
    if case.batch > 1:
        times = case.micro_batches * case.batch
        yield f"batch_size=1 with accumulate={times}", {"batch": 1, "micro_batches": times}
    if case.dtype == "fp32" and "bf16" in device.rates:
        yield "compute.dtype=bf16", {"dtype": "bf16", "frozen_dtype": "bf16"}
    if case.encodes_texts and case.text_encoder is not None:
        yield "caches.text", {"encodes_texts": False}
    if case.encodes_clips and case.denoiser is not None and case.encode_chunk is None and case.vae.streams_exactly:
        yield "compute.encode_chunk=1", {"encode_chunk": 1}
    if case.denoiser is None:
        return
    for devices in _more(case.split.world, device):
        sequence = case.split.sequence * devices // case.split.world
        plan = make_plan(devices, sequence)
        if case.micro_batches % plan.data == 0:
            changes = {"split": plan, "zero": max(2, case.zero)}
            yield f"parallel.sequence={sequence} with parallel.zero={changes['zero']} on {devices} devices", changes


def _more(world: int, device: Device) -> Iterator[int]:
    """Numbers of devices to try; one host is what it is."""
    devices = 2 * world
    while not device.on_host and devices <= MOST_DEVICES:
        yield devices
        devices *= 2


def _times(ratio: float) -> str:
    return "" if abs(ratio - 1) <= TIMES else f" at {ratio:.2g} times the time"
