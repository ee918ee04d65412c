"""From prompts to text states: tokenise, run the text encoder on each different text once, cut the padding off."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..io.any_tokenizer import AnyTokenizer
from ..progress import progress
from ..seam.backend import Backend
from ..seam.models import Array, TextEncoder

ACCELERATOR_BATCH = 8
"""Texts encoded at a time; one by one on a CPU, where sums are rounded differently in another batch."""


@dataclass(frozen=True)
class EncodedTexts:
    """The states of a set of texts, without padding."""

    states: dict[str, np.ndarray]
    """(L, D) float32 for each text, L its own number of tokens; (D,) of an encoder that gives one vector for a text."""
    cut: dict[str, int]
    """How many tokens were dropped from the texts that were over the limit."""

    def given(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """What a denoiser is given of some texts, by the names in Given."""
        return given_of([self.states[text] for text in texts])


class ClassNumbers(EncodedTexts):
    """Texts that are numbers of classes, for denoisers that read these."""

    def __init__(self) -> None:
        super().__init__({}, {})

    def given(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """As EncodedTexts."""
        return {"label": np.array([int(text) for text in texts])}


def given_of(rows: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """What a denoiser is given of texts, by the names in Given: of states (L_i, D), or of one vector (D,) each."""
    if rows[0].ndim == 1:
        return {"pooled": np.stack(rows).astype(np.float32)}
    states, mask = pad_states(rows)
    return {"text": states, "text_mask": mask}


def pad_states(rows: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """States (B, L, D) float32 and mask (B, L) of texts (L_i, D), padded with zeros to the longest."""
    longest = max(len(row) for row in rows)
    states = np.zeros((len(rows), longest, rows[0].shape[1]), np.float32)
    mask = np.zeros((len(rows), longest), np.int64)
    for i, row in enumerate(rows):
        states[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return states, mask


def encode_texts(
    backend: Backend,
    encoder: TextEncoder,
    tokenizer: AnyTokenizer,
    texts: Iterable[str],
    max_tokens: int,
    quiet: bool = False,
) -> EncodedTexts:
    """Encode each different text once; quiet: without a bar of its own.

    Texts of a batch are padded to its longest only: padded keys are masked and positions do not depend on the length,
    so the states of real tokens are those of a run padded to max_tokens.
    """
    batch_size = 1 if backend.on_host else ACCELERATOR_BATCH
    unique = list(dict.fromkeys(texts))
    ids, mask, dropped = tokenizer.encode(unique, max_tokens)
    lengths = mask.sum(axis=1)
    states: dict[str, np.ndarray] = {}
    # Neighbours in length share a batch, so little of it is padding.
    by_length = np.argsort(lengths, kind="stable")
    batches = [by_length[start : start + batch_size] for start in range(0, len(unique), batch_size)]

    def cut() -> Iterator[tuple[Array, Array]]:
        for rows in batches:
            longest = int(lengths[rows].max())
            yield backend.asarray(ids[rows, :longest]), backend.asarray(mask[rows, :longest])

    with backend.inference():
        outputs = encoder.encode(cut())
        if not quiet:
            outputs = progress(outputs, "encoding prompts", "batch", len(batches))
        for rows, output in zip(batches, outputs, strict=True):
            for row, values in zip(rows, backend.to_numpy(output), strict=True):
                states[unique[row]] = (values if values.ndim == 1 else values[: lengths[row]]).copy()
    return EncodedTexts(states, {text: cut for text, cut in zip(unique, dropped, strict=True) if cut})
