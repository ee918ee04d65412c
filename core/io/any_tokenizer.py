"""The tokeniser of a text encoder by the files that it comes in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from .clip_tokenizer import ClipTokenizer, is_clip_tokenizer
from .tokenizer import MODEL_NAME, Tokenizer, Tokens


class AnyTokenizer(Protocol):
    """Prompts to token ids."""

    @property
    def vocab_size(self) -> int:
        """Number of ids."""

    def encode(self, texts: Sequence[str], max_length: int) -> Tokens:
        """Ids and mask, each text with its special tokens and cut to a number of tokens that the model takes."""

    def pieces_of(self, text: str) -> list[int]:
        """Ids of a text, without the special tokens of every text."""


def open_tokenizer(path: str | os.PathLike[str]) -> AnyTokenizer:
    """Read the tokeniser of a folder, or a SentencePiece model.

    Raises: MediaError when it is missing or damaged; PackageMissing.
    """
    place = Path(path)
    if os.path.isdir(place) and not os.path.exists(place / MODEL_NAME) and is_clip_tokenizer(place):
        return ClipTokenizer.open(place)
    return Tokenizer.open(place)
