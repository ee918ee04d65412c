"""Family `oseval`: PSNR and SSIM of pairs of clips, and what VBench's dimensions come to; no backend is involved."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ...errors import ConfigError
from ...maths import vbench
from ...maths.metrics import finite_psnr, psnr, ssim
from ..case import Case, Comparison
from ..tables import same

INPUTS = "videos[12]"


def run(case: Case, backend: object | None = None) -> Iterator[Comparison]:
    """Compute every result of a case of this family. Raises: ConfigError for a table of another kind."""
    if not case.table:
        yield from _pairs(case)
    elif {"raw", "scaled"} <= set(case.raw):
        yield from _sums(case)
    else:
        raise ConfigError(f"{case.name}: expected a table with the keys raw and scaled")


def _pairs(case: Case) -> Iterator[Comparison]:
    """Means and deviations over videos (V, T, C, H, W) in [0, 1], by the number of the frame."""
    first, second = (case.tensors[name].transpose(0, 1, 3, 4, 2) for name in ("videos1", "videos2"))
    found = {
        "psnr": np.array([finite_psnr(psnr(*pair, 1.0)) for pair in zip(first, second, strict=True)]),
        "ssim": np.array([ssim(*pair, 1.0) for pair in zip(first, second, strict=True)]),
    }
    for metric, values in found.items():
        for name, by_frame in ((metric, values.mean(0)), (f"{metric}_std", values.std(0))):
            for frame, expected in case.raw.get(name, {}).items():
                got = by_frame[int(frame)]
                yield Comparison(f"{name}.{frame}", np.array(got), expected=np.array(expected), limit_as="videos1")


def _sums(case: Case) -> Iterator[Comparison]:
    raw = case.raw
    suite = vbench.PICTURE_TO_VIDEO if "i2v_subject" in raw["raw"] else vbench.TEXT_TO_VIDEO
    bounds = {name: vbench.LOW_TO_HIGH.get(name, (0.0, 1.0)) for name in suite.dimensions}
    tables: dict[str, dict[str, Any]] = {
        "normalize": {name: {"Min": low, "Max": high} for name, (low, high) in bounds.items()},
        "weights": {name: vbench.weight(name) for name in suite.dimensions},
        "scaled": {name: f"{value:.2%}" for name, value in suite.scores(raw["raw"]).items()},
    }
    for table, found in tables.items():
        for name, expected in raw.get(table, {}).items():
            yield same(f"{table}.{name}", found.get(name, found.get(name.replace(" ", "_"))), expected)
