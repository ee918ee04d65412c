"""Family `mt5`: the text encoder's states, layer by layer, and the buckets of its relative positions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ...layout import Layout
from ...maths.relative_position import relative_buckets
from ...models.t5 import T5Spec
from ...seam.backend import Backend
from ..case import Case, Comparison

IDS = re.compile(r"(?:(?P<tag>.+)\.)?input_ids")
BUCKETS = re.compile(r"(?:.+\.)?relative_bucket(?:_row(?P<row>0|last))?")
HIDDEN = re.compile(r"hidden(?P<index>\d+)")


def run(case: Case, backend: Backend) -> Iterator[Comparison]:
    """Compute every output tensor of a case of this family."""
    spec = T5Spec.from_config(case.config)
    encoder = backend.build(spec, case.weights())
    inner = {"shared": 0} | {f"encoder.block.{i}": i + 1 for i in range(spec.num_layers - 1)}
    for match in filter(None, map(IDS.fullmatch, case.tensors)):
        tag = match["tag"] or ""
        prefix = f"{tag}." if tag else ""
        ids, mask = (backend.asarray(case.get(tag, name)) for name in ("input_ids", "attention_mask"))
        with backend.record(encoder, inner) as recorded:
            last = backend.to_numpy(encoder(ids, mask))
        states = {inner[name]: backend.to_numpy(output) for name, output in recorded.items()} | {spec.num_layers: last}
        yield Comparison(f"{prefix}last_hidden_state", last)
        for name in case.outputs():
            hidden = HIDDEN.fullmatch(name.removeprefix(prefix))
            if hidden:
                yield Comparison(name, states[int(hidden["index"])])
    for name in case.outputs():
        buckets = BUCKETS.fullmatch(name)
        if buckets:
            yield Comparison(name, _buckets(spec, case.tensors[name].shape[-1], buckets["row"]))


def layout(manifest: Mapping[str, Any]) -> Layout:
    """Of a full-size model."""
    return T5Spec.from_config(manifest["config"]).layout()


def _buckets(spec: T5Spec, length: int, row: str | None) -> np.ndarray:
    table = relative_buckets(length, spec.relative_attention_num_buckets, spec.relative_attention_max_distance)
    return table if row is None else table[-1 if row == "last" else 0]
