"""Family `t5`: the text side of Open-Sora 1.2: prompts cleaned, to ids, and to the states of a T5 v1.1 encoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...io.tokenizer import Tokenizer
from ...layout import Layout
from ...models.t5 import T5Spec
from ...recipes.opensora_v1_2_prompts import clean
from ...seam.backend import Backend
from ..case import Case, Comparison
from ..tables import same

INPUTS = "null/.+"
"""The learned null caption, which is the denoiser's."""


def run(case: Case, backend: Backend) -> Iterator[Comparison]:
    """Compute every result of a case of this family."""
    yield from _cleaning(case) if case.table else _encoder(case, backend)


def layout(manifest: Mapping[str, Any]) -> Layout:
    """Of a full-size model."""
    return T5Spec.from_config(manifest["config"]).layout()


def _cleaning(case: Case) -> Iterator[Comparison]:
    for number, row in enumerate(case.raw["rows"]):
        yield same(f"rows.{number}.text_preprocessing", clean(row["inp"]), row["text_preprocessing"])
        yield same(f"rows.{number}.no_preprocessing", row["inp"].lower().strip(), row["no_preprocessing"])


def _encoder(case: Case, backend: Backend) -> Iterator[Comparison]:
    encoder = backend.build(T5Spec.from_config({"model_type": "t5"} | case.raw["t5_config"]), case.weights())
    tokenizer = Tokenizer.open(case.folder)
    for tag, texts in case.raw["texts"].items():
        ids, mask, _ = tokenizer.encode(texts, case.raw["model_max_length"][tag])
        yield Comparison(f"{tag}/input_ids", ids)
        yield Comparison(f"{tag}/mask", mask)
        states = backend.to_numpy(encoder(backend.asarray(ids), backend.asarray(mask)))
        yield Comparison(f"{tag}/y", states[:, None])
