"""Family `t5`: prompts to ids, and ids to the states of a T5 v1.1 encoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...io.tokenizer import Tokenizer
from ...layout import Layout
from ...models.t5 import T5Spec
from ...seam.backend import Backend
from ..case import Case, Comparison

INPUTS = "null/.+"
"""The learned null caption, which is the denoiser's."""
NOT_YET = ("text_preprocessing",)


def run(case: Case, backend: Backend) -> Iterator[Comparison]:
    """Compute every result of a case of this family."""
    encoder = backend.build(T5Spec.from_config({"model_type": "t5"} | case.raw["t5_config"]), case.weights())
    tokenizer = Tokenizer.open(case.folder)
    for tag, texts in case.raw["texts"].items():
        ids, mask, _ = tokenizer.encode(texts, case.raw["model_max_length"][tag])
        yield Comparison(f"{tag}/input_ids", ids)
        yield Comparison(f"{tag}/mask", mask)
        states = backend.to_numpy(encoder(backend.asarray(ids), backend.asarray(mask)))
        yield Comparison(f"{tag}/y", states[:, None])


def layout(manifest: Mapping[str, Any]) -> Layout:
    """Of a full-size model."""
    return T5Spec.from_config(manifest["config"]).layout()
