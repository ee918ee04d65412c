"""Text states of captions, computed once: the cache that `duosora cache text` writes and training reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..io.any_tokenizer import AnyTokenizer
from ..models.finding import Part
from ..seam.group import Alone, Group
from .cache import CacheReader, CacheWriter, check_identity, fill
from .fingerprints import json_fingerprint, model_fingerprint, text_fingerprint

KIND = "text states"
GROUP = 64
"""Captions handed to the encoder at a time: it batches neighbours in length."""
PROBE_TEXTS = ("a red circle", "Ein Stern über dem Meer", "星が動く", "</s> x")
"""What a tokeniser makes of these, and how many ids it has, tells it from another."""


def text_identity(part: Part, tokenizer: AnyTokenizer, max_tokens: int) -> dict[str, Any]:
    """From what the states of a caption follow, beside the caption."""
    pieces = [tokenizer.pieces_of(text) for text in PROBE_TEXTS]
    return {
        "kind": KIND,
        "model": model_fingerprint(part),
        "tokenizer": json_fingerprint([tokenizer.vocab_size, pieces]),
        "max_tokens": max_tokens,
    }


class TextCache:
    """Finds the states of captions in a cache; picklable, and safe to read from many threads and processes."""

    def __init__(self, folder: Path, identity: dict[str, Any] | None = None) -> None:
        """identity: what the training run needs, of `text_identity`.

        Raises: CheckpointError when the cache is missing or unfinished, or was made with another model or tokeniser.
        """
        self.reader = CacheReader(folder)
        check_identity(folder, self.reader.index.identity, identity or {"kind": KIND})

    def find(self, caption: str) -> np.ndarray | None:
        """(L, D) float32, or None when the caption is not in the cache."""
        return self.reader.find(text_fingerprint(caption))


def uncached_captions(writer: CacheWriter, captions: Iterable[str]) -> list[str]:
    """The captions that are not in the cache yet, each once, in their order."""
    return [caption for caption in dict.fromkeys(captions) if text_fingerprint(caption) not in writer]


def write_text_cache(
    writer: CacheWriter,
    captions: Sequence[str],
    encode: Callable[[Sequence[str]], Sequence[np.ndarray]],
    on_progress: Callable[[int], None] = lambda count: None,
    world: Group | None = None,
) -> None:
    """Encode captions, of `uncached_captions`, and close the cache.

    encode: captions to (L, D) each. on_progress: told how many further captions are done. world: as
    core.data.latent_cache.write_latent_cache.
    """
    group = world or Alone()
    own = captions[group.index :: group.size]

    def add_all() -> None:
        for start in range(0, len(own), GROUP):
            some = own[start : start + GROUP]
            for caption, states in zip(some, encode(some), strict=True):
                writer.add(text_fingerprint(caption), states, f"caption {caption[:40]!r}")
            on_progress(len(some))

    fill(writer, add_all, world)
