"""Family `t5`: the text side of Open-Sora 1.2, from a prompt to the states of its T5 v1.1 encoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..io.tokenizer import Tokenizer
from ..models.t5 import T5Spec
from ..recipes.opensora_v1_2_prompts import clean
from ..seam.backend import Backend
from .case import Case, Comparison
from .tables import same


def run(case: Case, backend: Backend) -> Iterator[Comparison]:
    """Compute every result of a case of this family."""
    if "texts" in case.raw:
        yield from _encoder(case, backend)
        return
    for number, row in enumerate(case.raw["rows"]):
        text = row["inp"]
        yield same(f"rows.{number}.text_preprocessing", clean(text), row["text_preprocessing"])
        yield same(f"rows.{number}.no_preprocessing", text.lower().strip(), row["no_preprocessing"])


def inputs(case: Case) -> tuple[str, ...]:
    """Last parts of the names of the tensors that are given."""
    return ("y_embedding",)


def manifest_spec(manifest: Mapping[str, Any], source: str) -> T5Spec:
    """The spec of a manifest's model."""
    return T5Spec.from_config({"model_type": "t5", **manifest["config"]}, source)


def _encoder(case: Case, backend: Backend) -> Iterator[Comparison]:
    tokenizer = Tokenizer.open(case.folder / "spiece.model")
    spec = T5Spec.from_config({"model_type": "t5", **case.raw["t5_config"]}, case.name)
    encoder = backend.build(spec, case.weights())
    for tag, texts in case.raw["texts"].items():
        tokens = tokenizer.encode(texts, case.raw["model_max_length"][tag])
        states = backend.to_numpy(encoder(backend.asarray(tokens.ids), backend.asarray(tokens.mask)))
        yield Comparison(f"{tag}.input_ids", tokens.ids)
        yield Comparison(f"{tag}.mask", tokens.mask)
        yield Comparison(f"{tag}.y", states[:, None])
    null = case.tensors["null.y_embedding"]
    yield Comparison("null.null_2", np.stack([null, null])[:, None])
