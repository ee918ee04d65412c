"""Prompts to token ids: the mT5 tokeniser from its SentencePiece model alone.

The ids are those of the published pipelines, which load the tokeniser with transformers' AutoTokenizer and so get
T5TokenizerFast: `</s>`, `<pad>` and `<unk>` written out in a prompt are special tokens, and a run of characters
outside the vocabulary is one <unk>, also where the model could spell them in bytes (transformers' slow tokeniser does
that; the published weights have not seen it).
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import sentencepiece

from ..errors import ConfigError, MediaError
from .files import open_regular

MODEL_NAME = "spiece.model"
MAX_MODEL_BYTES = 64_000_000
"""mT5's has 4.3 MB; SentencePiece counts bytes in 32 bits, and crashes on a file of 2 GiB."""
PAD, EOS, UNK = 0, 1, 2

_SPECIAL = {"<pad>": PAD, "</s>": EOS, "<unk>": UNK}
_SPECIAL_PATTERN = re.compile("|".join(map(re.escape, _SPECIAL)))


class Tokens(NamedTuple):
    """Token ids of a batch of prompts."""

    ids: np.ndarray
    """(B, L) int64, filled up with PAD."""
    mask: np.ndarray
    """(B, L) int64: 1 for tokens, 0 for padding."""
    cut: list[int]
    """For each prompt, how many of its tokens did not fit."""


class Tokenizer:
    """A SentencePiece model with the special tokens of T5."""

    def __init__(self, model: bytes, source: str) -> None:
        """Raises: MediaError when `model` is damaged or numbers its special tokens in another way than T5."""
        self.source = source
        self._pieces: Any = sentencepiece.SentencePieceProcessor()
        try:
            self._pieces.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise MediaError(f"{source}: is no SentencePiece model or damaged; download it again") from error
        special = self._pieces.pad_id(), self._pieces.eos_id(), self._pieces.unk_id()
        if special != (PAD, EOS, UNK):
            raise MediaError(f"{source}: numbers <pad>, </s>, <unk> as {special}; T5 tokenisers have {(PAD, EOS, UNK)}")

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """Read a SentencePiece model, or the `spiece.model` in a folder.

        Raises: MediaError when it is missing or damaged.
        """
        place = Path(path)
        file = place / MODEL_NAME if os.path.isdir(place) else place
        if not os.path.exists(file):
            if os.path.isfile(place / "tokenizer.json"):
                raise MediaError(
                    f"{place}: has tokenizer.json only; needed is {MODEL_NAME}, from the model's page on the hub"
                )
            raise MediaError(
                f"{file}: there is no such file; needed is the {MODEL_NAME} of the text encoder, and model.tokenizer "
                "says where it is"
            )
        try:
            with open_regular(file) as opened:
                model = opened.read(MAX_MODEL_BYTES + 1)
        except OSError as error:
            raise MediaError(f"{file}: cannot be read ({error.strerror or error})") from error
        if len(model) > MAX_MODEL_BYTES:
            raise MediaError(f"{file}: has more than {MAX_MODEL_BYTES} bytes, so it is no SentencePiece model")
        return cls(model, str(file))

    @property
    def vocab_size(self) -> int:
        """Number of ids; the text encoder's embedding may have more rows."""
        return int(self._pieces.get_piece_size())

    def encode(self, texts: Sequence[str], max_length: int) -> Tokens:
        """Ids and mask (B, max_length); a longer text is cut, and `</s>` ends every one."""
        if max_length < 1:
            raise ConfigError(f"max_tokens = {max_length}: needs at least 1, the end of the prompt")
        ids = np.full((len(texts), max_length), PAD, np.int64)
        mask = np.zeros((len(texts), max_length), np.int64)
        cut = []
        for row, text in enumerate(texts):
            pieces = self.pieces_of(text)
            kept = [*pieces[: max_length - 1], EOS]
            ids[row, : len(kept)] = kept
            mask[row, : len(kept)] = 1
            cut.append(len(pieces) + 1 - len(kept))
        return Tokens(ids, mask, cut)

    def pieces_of(self, text: str) -> list[int]:
        """Ids of a text, without the closing `</s>`."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise MediaError(f"prompt {text!r}: is not valid text at character {error.start}") from error
        ids: list[int] = []
        start = 0
        for match in _SPECIAL_PATTERN.finditer(text):
            ids += [*self._plain(text[start : match.start()]), _SPECIAL[match.group()]]
            start = match.end()
        return [*ids, *self._plain(text[start:])]

    def _plain(self, text: str) -> Iterator[int]:
        """Ids of a text without special tokens, with a run of byte pieces as one UNK."""
        in_bytes = False
        for piece in self._pieces.encode(text):
            is_byte = self._pieces.is_byte(piece)
            if not is_byte:
                yield piece
            elif not in_bytes:
                yield UNK
            in_bytes = is_byte


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> bytes:
    """A SentencePiece BPE model with the special ids of T5, as the bytes of a `spiece.model`.

    Raises: ConfigError when the texts have too few or too many different characters for that size.
    """
    written = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=written,
            model_type="bpe",
            vocab_size=vocab_size,
            character_coverage=1.0,
            pad_id=PAD,
            eos_id=EOS,
            unk_id=UNK,
            bos_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = str(error).rpartition("] ")[2] or str(error)
        raise ConfigError(f"vocab_size = {vocab_size}: does not suit these texts ({reason})") from error
    return written.getvalue()
