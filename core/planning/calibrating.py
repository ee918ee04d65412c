"""Calibrating every installed backend, each in a process of its own, whose memory grows by nothing else."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from ..errors import BackendMissing
from ..extras import WHERE, install_command
from ..seam.backend import NAMES, available
from .calibration import Calibration, keep, measure


def calibrate_all(device: str) -> Iterator[str]:
    """Measure each installed backend on a device, keep the figures, and say so, a line each.

    Raises: BackendMissing where none is installed, or none can use the device; ConfigError when the file cannot be
    written.
    """
    if not available():
        raise BackendMissing(f"no backend is installed: {' or '.join(map(install_command, NAMES))} {WHERE}")
    failed: list[str] = []
    for name in available():
        yield f"measuring  {name}"
        try:
            measured = _alone(name, device)
        except BackendMissing as error:
            failed.append(str(error))
            continue
        path = keep(measured)
        yield f"kept       {measured.backend} on {measured.device}: {', '.join(measured.dtypes)}, in {path}"
    if len(failed) == len(available()):
        raise BackendMissing("; ".join(failed))
    yield from (f"NOTE       {line}" for line in failed)


def _alone(name: str, device: str) -> Calibration:
    """What a fresh process measures. Raises: BackendMissing."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(measure, name, device).result()
        except BrokenProcessPool as error:
            raise BackendMissing(f"{name}: the process that measured it ended; is there memory enough?") from error
