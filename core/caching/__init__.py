"""Caches of a denoiser's work while it samples: calls that would hardly differ from an earlier one leave out blocks.

`make` gives a kind with its options. A new one is a file with a CacheKind, which says its options and by plain numbers
what is left out, and a CachedDenoiser, which stores; and a line in KINDS.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ..errors import ConfigError
from .base import CachedDenoiser, CacheKind, Run
from .first_block import FirstBlock
from .report import CacheReport
from .taylor import Taylor
from .teacache import TeaCache

__all__ = ["KINDS", "CacheKind", "CacheReport", "CachedDenoiser", "Run", "make", "options"]

KINDS: Mapping[str, type[CacheKind]] = {kind.name: kind for kind in (FirstBlock, TeaCache, Taylor)}


def options(kind: str) -> tuple[str, ...]:
    """What can be said of a kind, its own options first."""
    shared = [field.name for field in fields(CacheKind)]
    return (*(field.name for field in fields(KINDS[kind]) if field.name not in shared), *shared)


def make(kind: str, given: Mapping[str, Any]) -> CacheKind:
    """A kind with options; None leaves one to the kind. Raises: ConfigError for those that it has no use for."""
    wished = {option: value for option, value in given.items() if value is not None}
    for option in wished:
        if option not in options(kind):
            raise ConfigError(
                f"sampler.cache.{option}: {kind} has no use for it, leave it out; it has {', '.join(options(kind))}"
            )
    return KINDS[kind](**wished)
