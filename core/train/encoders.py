"""The frozen models before the denoiser in training: captions to text states, clips to moments of their latents.

Models are loaded when they are first needed, so a run whose texts all come from a cache never loads mT5. On a CPU
texts and clips are encoded one by one: the numbers of a sample then do not depend, in any bit, on what it shares a
batch with.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ..io.any_tokenizer import AnyTokenizer
from ..models.finding import Part
from ..models.kinds import AutoencoderSpec
from ..parallel.agreement import exchange, exchange_arrays
from ..pipelines.autoencode import encode_chunks
from ..pipelines.text import encode_texts
from ..seam.backend import Backend
from ..seam.group import Alone, Group
from ..seam.models import Model

REMEMBERED_BYTES = 256 << 20
"""Text states kept in memory: about thirty captions of 512 mT5-xxl tokens, and the empty one among them."""


class StoredTexts(Protocol):
    """Text states that were computed before, such as `core.data.text_cache.TextCache`."""

    def find(self, caption: str) -> np.ndarray | None:
        """(L, D) float32, or None when the caption is not stored."""


class _Frozen:
    """A model that is loaded when it is first asked for."""

    def __init__(self, backend: Backend, part: Part, dtype: str) -> None:
        self.backend, self.part, self.dtype = backend, part, dtype
        self._model: Model | None = None

    def model(self) -> Model:
        """The loaded model."""
        if self._model is None:
            self._model = self.backend.build(self.part.spec, self.part.open(), self.dtype)
        return self._model

    def release(self) -> None:
        """Let go of the model, so that its memory can hold another; it is loaded again when it is needed."""
        self._model = None
        self.backend.free_memory()


class CaptionEncoder(_Frozen):
    """States of captions, from memory, from a store, or from the model.

    The leaders of a machine's teams have one model between them, on the first, if they `prepare` all that they need.
    """

    def __init__(
        self,
        backend: Backend,
        part: Part,
        tokenizer: AnyTokenizer,
        dtype: str = "fp32",
        max_tokens: int = 512,
        stored: StoredTexts | None = None,
        remembered_bytes: int = REMEMBERED_BYTES,
        leaders: Group | None = None,
    ) -> None:
        super().__init__(backend, part, dtype)
        self.tokenizer, self.max_tokens, self.stored = tokenizer, max_tokens, stored
        self.leaders = leaders or Alone()
        self._memory = _Memory(remembered_bytes)
        self._prepared: dict[str, np.ndarray] = {}

    def prepare(self, captions: Sequence[str]) -> None:
        """Have the states of captions at hand until the next call, which all leaders of a machine make together.

        The first encodes what anybody lacks. Alone, each batch is encoded when it comes.
        """
        if self.leaders.size == 1:
            return
        self._prepared = {}
        found = {caption: self._remembered(caption) for caption in dict.fromkeys(captions)}
        lacking = [caption for caption, states in found.items() if states is None]
        asked = dict.fromkeys(caption for one in exchange(self.leaders, lambda: lacking) for caption in one)
        if asked:
            (encoded, *_) = exchange_arrays(self.leaders, lambda: self._encoded_for_all(list(asked)))
            for number, caption in enumerate(asked):
                if caption in lacking:
                    found[caption] = encoded[str(number)]
                    self._memory.add(caption, encoded[str(number)])
        self._prepared = {caption: states for caption, states in found.items() if states is not None}

    def _encoded_for_all(self, captions: Sequence[str]) -> dict[str, np.ndarray]:
        """By their places."""
        if self.leaders.index:
            return {}
        return {str(number): states for number, states in enumerate(self.states(captions))}

    def states(self, captions: Sequence[str]) -> list[np.ndarray]:
        """(L, D) float32 for each caption, L its own number of tokens."""
        found = {caption: self._remembered(caption) for caption in dict.fromkeys(captions)}
        missing = [caption for caption, states in found.items() if states is None]
        if missing:
            encoded = encode_texts(self.backend, self.model(), self.tokenizer, missing, self.max_tokens, quiet=True)
            for caption in missing:
                found[caption] = encoded.states[caption]
                self._memory.add(caption, encoded.states[caption])
        return [states for caption in captions if (states := found[caption]) is not None]

    def _remembered(self, caption: str) -> np.ndarray | None:
        states = self._prepared.get(caption)
        if states is None:
            states = self._memory.get(caption)
        if states is None and self.stored is not None:
            states = self.stored.find(caption)
            if states is not None:
                self._memory.add(caption, states)
        return states


class ClipEncoder(_Frozen):
    """Moments of clips under a video autoencoder."""

    def __init__(self, backend: Backend, part: Part, dtype: str = "fp32", chunk: int | None = None) -> None:
        """chunk: latent frames at a time, None: all. Exact for any number; memory does not grow with the clip."""
        super().__init__(backend, part, dtype)
        self.chunk = chunk

    @property
    def spec(self) -> AutoencoderSpec:
        return self.part.spec

    def moments(self, clip: np.ndarray) -> np.ndarray:
        """(3, T, H, W) in [-1, 1] to (2C, t, h, w) float32; where nothing is drawn, to latents (C, t, h, w).

        Raises: ShapeError for a size that does not fit.
        """
        return encode_chunks(self.backend, self.model(), self.spec, clip[None], self.chunk)[0]


class _Memory:
    """The text states used last, up to a number of bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held: OrderedDict[str, np.ndarray] = OrderedDict()
        self._bytes = 0

    def get(self, caption: str) -> np.ndarray | None:
        if caption in self._held:
            self._held.move_to_end(caption)
        return self._held.get(caption)

    def add(self, caption: str, states: np.ndarray) -> None:
        if caption in self._held:
            return
        self._held[caption] = states
        self._bytes += states.nbytes
        while self._bytes > self.limit:
            self._bytes -= self._held.popitem(last=False)[1].nbytes
