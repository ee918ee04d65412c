"""The cache of a `sample` run: whether the models and the sampler can do with one, and with which options."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import caching
from ..caching import CacheKind, CacheReport
from ..conditioning.base import Note
from ..config.schema import CacheSettings
from ..errors import ConfigError
from ..maths.metrics import finite_psnr, psnr
from ..models.finding import Part
from ..samplers import Sampler


def cache_of(
    settings: CacheSettings | None, sampler: Sampler, steps: int, denoiser: Part, note: Note
) -> CacheKind | None:
    """What the settings ask for; None: that every call is computed. note: is told where it comes to the same.

    Raises: ConfigError for options that the kind has no use for, for a denoiser or a sampler that it cannot work with.
    """
    if settings is None:
        return None
    kind = caching.make(settings.kind, settings.model_dump(exclude={"kind"}))
    if lack := kind.lacks(denoiser.spec):
        raise ConfigError(f"sampler.cache.kind = {kind.name}: {denoiser.source} {lack}; take another kind")
    num_calls = len(sampler.timesteps)
    if sampler.adapts or num_calls > steps:
        how = "chooses its network calls on the way" if sampler.adapts else "calls the network more than once a step"
        raise ConfigError(
            f"sampler.cache.kind = {kind.name}: the sampler {sampler.name} {how}, and a cache compares one step with "
            "the next; take another sampler, or leave the cache out"
        )
    if kind.computes_all(num_calls):
        note(f"sampler.cache: with these options all {num_calls} network calls are computed, so it has no effect")
    return kind


def with_options(settings: CacheSettings, kind: CacheKind) -> CacheSettings:
    """With the values that the kind has where nobody has set any."""
    return settings.model_copy(update={name: getattr(kind, name) for name in caching.options(kind.name)})


@dataclass
class Spared:
    """What a cache left out of one video."""

    report: CacheReport = field(default_factory=CacheReport)
    whole: np.ndarray | None = None
    """The latents (C, t, h, w) without a cache, until they are compared."""
    psnr: float | None = None
    """In dB, the mean over the frames of both; None: they were not compared."""

    def compared(self, frames: Iterable[np.ndarray], others: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The frames (H, W, 3) uint8, of which `psnr` tells when all have come how near they are to the others."""
        ratios = []
        for frame, other in zip(frames, others, strict=True):
            ratios.append(finite_psnr(psnr(frame[None], other[None])).item())
            yield frame
        self.psnr, self.whole = sum(ratios) / len(ratios), None

    def facts(self) -> dict[str, Any]:
        """For the sidecar."""
        return self.report.facts() | ({} if self.psnr is None else {"psnr": round(self.psnr, 3)})


def told(videos: Sequence[dict[str, Any]]) -> str:
    """What Spared says of all videos of a run, in a line."""
    blocks, without = (sum(each[name] for each in videos) for name in ("blocks", "blocks_without"))
    line = f"cache      {blocks} of {without} block evaluations, {without / max(blocks, 1):.2f} times fewer"
    if changes := [each["changes"] for each in videos if each["changes"]]:
        least, most = min(each["min"] for each in changes), max(each["max"] for each in changes)
        line += f"; signals changed by {least:.3g} to {most:.3g}"
    if ratios := [each["psnr"] for each in videos if "psnr" in each]:
        line += f"; PSNR {sum(ratios) / len(ratios):.1f} dB to the videos without it, the least {min(ratios):.1f}"
    return line
