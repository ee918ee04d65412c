"""Family `sit`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...layout import Layout
from ...models.dit_meta import DiTMetaSpec
from ...seam.backend import Backend
from ..case import Case, Comparison
from . import dit_meta

GRADIENTS = True
NOT_YET = ("train_step", "paths", "intervals", "samplers", "sampling", "likelihood")


def run(case: Case, backend: Backend) -> Iterator[Comparison]:
    """Compute every result of a case of this family."""
    yield from dit_meta.forwards(case, backend, spec_of(case.config, case.name))


def layout(manifest: Mapping[str, Any]) -> Layout:
    """The layout of a full-size model: DiT's."""
    return dit_meta.layout(manifest)


def spec_of(config: Mapping[str, Any], source: str) -> DiTMetaSpec:
    """A SiT of upstream's arguments."""
    return DiTMetaSpec.from_config({**config, "trained_as": "interpolant"}, source)
