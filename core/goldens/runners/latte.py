"""Family `latte`: forwards of Latte, a DiT of videos whose blocks are spatial and temporal by turns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...layout import Layout
from ...seam.backend import Backend
from ..case import Case, Comparison
from . import dit

INPUTS = dit.INPUTS


def run(case: Case, backend: Backend) -> Iterator[Comparison]:
    """Compute every output tensor of a case of this family."""
    return dit.run(case, backend, alternates=True)


def layout(manifest: Mapping[str, Any]) -> Layout:
    """The layout of a full-size model, of which a manifest says how it was built."""
    return dit.layout(manifest, alternates=True)
