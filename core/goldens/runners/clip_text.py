"""Family `clip_text`: CLIP's text encoder, layer by layer, pooled, without a mask and cut short; its tokeniser."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ...io.clip_tokenizer import ClipTokenizer
from ...layout import Layout
from ...models.clip_text import ClipTextSpec, from_shapes
from ...seam.backend import Backend
from ..case import Case, Comparison
from ..forms import manifest_shapes
from ..tables import same

HIDDEN = re.compile(r"hidden_states\.(\d+)")
SHORT = "short_last_hidden_state"


def run(case: Case, backend: Backend) -> Iterator[Comparison]:
    """Compute every result of a case of this family."""
    yield from _encoder(case, backend) if "hidden_size" in case.config else _tokenizer(case)


def layout(manifest: Mapping[str, Any]) -> Layout:
    """Of a full-size model."""
    spec = from_shapes(manifest_shapes(manifest), "the manifest")
    if spec is None:
        raise ValueError("it has none of CLIP's names")
    return spec.layout()


def _encoder(case: Case, backend: Backend) -> Iterator[Comparison]:
    spec = ClipTextSpec.from_config(case.config)
    encoders = {
        "last_hidden_state": backend.build(replace(spec, pooled=False, projection_dim=0), case.weights()),
        "pooled": backend.build(replace(spec, pooled=True), case.weights()),
    }
    ids, mask = case.tensors["ids"], case.tensors["mask"]
    inner = {"text_model.embeddings": 0} | {name: i + 1 for i, name in enumerate(spec.blocks())}
    with backend.record(encoders["last_hidden_state"], inner) as recorded:
        encoders["last_hidden_state"](backend.asarray(ids), backend.asarray(mask))
    hidden = {inner[name]: backend.to_numpy(output) for name, output in recorded.items()}
    for name in case.outputs():
        if match := HIDDEN.fullmatch(name):
            yield Comparison(name, hidden[int(match[1])])
    for name, encoder in encoders.items():
        for suffix, counted in (("", mask), ("_no_mask", np.ones_like(mask))):
            yield Comparison(
                f"{name}{suffix}", backend.to_numpy(encoder(backend.asarray(ids), backend.asarray(counted)))
            )
    if SHORT in case.tensors:
        rows, length = case.tensors[SHORT].shape[:2]
        short = backend.asarray(ids[:rows, :length])
        everything = backend.asarray(np.ones((rows, length), np.int64))
        yield Comparison(SHORT, backend.to_numpy(encoders["last_hidden_state"](short, everything)))


def _tokenizer(case: Case) -> Iterator[Comparison]:
    tokenizer = ClipTokenizer.open(case.folder)
    config = case.config
    for key in ("start", "end", "pad"):
        yield same(key, getattr(tokenizer, key), config[key])
    yield same("vocab_size", tokenizer.vocab_size, config["vocab_size"])
    for number, row in enumerate(case.raw["results"]):
        ids = [tokenizer.start, *tokenizer.pieces_of(row["text"]), tokenizer.end]
        yield same(f"results.{number}.ids", ids, row["ids"])
        yield same(f"results.{number}.count", len(ids), row["count"])
        found = tokenizer.encode([row["text"]], config["model_max_length"])
        expected = row["truncated_and_padded"]
        said = _said_of(found.ids[0], found.mask[0])
        yield same(f"results.{number}.truncated_and_padded", {key: said[key] for key in expected}, expected)
    if batch := case.raw.get("padded_batch"):
        found = tokenizer.encode(batch["texts"], config["model_max_length"])
        longest = int(found.mask.sum(axis=1).max())
        yield same("padded_batch.input_ids", found.ids[:, :longest].tolist(), batch["input_ids"])
        yield same("padded_batch.attention_mask", found.mask[:, :longest].tolist(), batch["attention_mask"])


def _said_of(ids: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
    """What cases say of padded ids (L,), each some of it."""
    valid = int(mask.sum())
    return {"ids": ids.tolist(), "count": len(ids), "mask_sum": valid, "last_valid": int(ids[valid - 1])}
