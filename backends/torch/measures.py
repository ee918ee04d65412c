"""What an autoencoder measures in training instead of learning it: running statistics of norms, and its code book."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from duosora.core.maths import codebook
from duosora.core.parallel.micro_batches import joined
from duosora.core.seam.ranks import Ranks
from duosora.core.seam.training import AutoencoderBatch

from .distributed.statistics import SharedStatistics
from .precision import to_array, to_tensor


class Measures:
    """What the micro-batches of a step, of all ranks, make of it: as if one process had come to them in turn.

    All of them look codes up in the book of the step before. Codes that start again do so as latents of the first.
    """

    def __init__(self, model: Any, ranks: Ranks, restart_below: float) -> None:
        """model: of a spec with `num_codes`."""
        self.model, self.ranks, self.restart_below = model, ranks, restart_below
        self.statistics = SharedStatistics(model, ranks)
        self.rows: list[np.ndarray] = []
        self.usages: list[np.ndarray] = []

    def begin(self, batch: AutoencoderBatch) -> None:
        """Before a step's first micro-batch, which a book that has not begun yet is made of."""
        self.rows, self.usages = [], []
        self.kept = self._book(), self.statistics.read()
        if not self.kept[0].counts.any():
            z = self._latents(batch)
            self.statistics.write(self.kept[1])
            self._write(codebook.begun(self._first(codebook.candidates(z, batch.restarts[0], self._num_codes))))
        self.statistics.begin()

    def note(self, latents: Any, batch: AutoencoderBatch) -> None:
        """After each call of the model; latents (B, C, t, h, w) before the look-up."""
        codes = to_array(self.model.codebook.codes(latents)).reshape(-1)
        vectors = _vectors(latents)
        counts, sums = codebook.usage(vectors, codes, self._num_codes)
        self.usages.append(np.concatenate([counts[:, None], sums], axis=1))
        if not self.rows:
            self.rows.append(codebook.candidates(vectors, batch.restarts[1], self._num_codes))
        self.statistics.note()

    def exchange(self) -> dict[str, float]:
        """After the last of a step's micro-batches. All ranks call together; what there is to report."""
        self.statistics.exchange(len(self.usages))
        total = joined(self.ranks, np.array(self.usages)).sum(0)
        counts, sums = total[:, 0], total[:, 1:]
        self._write(codebook.updated(self._book(), counts, sums, self._first(self.rows[0]), self.restart_below))
        return {"perplexity": codebook.perplexity(counts)}

    def undo(self) -> None:
        """Take back what the step has measured."""
        book, statistics = self.kept
        self._write(book)
        self.statistics.write(statistics)

    @property
    def _num_codes(self) -> int:
        return int(self.model.codebook.N.shape[0])

    def _first(self, rows: np.ndarray) -> np.ndarray:
        """Those of the first rank."""
        return joined(self.ranks, rows[None])[0]

    def _latents(self, batch: AutoencoderBatch) -> np.ndarray:
        with torch.no_grad():
            device = self.model.codebook.N.device
            return _vectors(self.model.latents(to_tensor(batch.video).to(device), True))

    def _book(self) -> codebook.Codebook:
        book = self.model.codebook
        return codebook.Codebook(*(to_array(each) for each in (book.embeddings, book.N, book.z_avg)))

    def _write(self, values: codebook.Codebook) -> None:
        book = self.model.codebook
        for parameter, value in zip((book.embeddings, book.N, book.z_avg), values, strict=True):
            parameter.data.copy_(to_tensor(np.ascontiguousarray(value)))


def _vectors(latents: Any) -> np.ndarray:
    """(B, C, t, h, w) -> (B * t * h * w, C)."""
    rows = np.moveaxis(to_array(latents), 1, -1)
    return np.ascontiguousarray(rows.reshape(-1, rows.shape[-1]))
