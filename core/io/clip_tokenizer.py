"""Prompts to token ids: the byte-pair tokeniser of CLIP, from vocab.json and merges.txt or from tokenizer.json.

The ids are those of transformers' CLIPTokenizerFast: normal form C, white space to single spaces, lower case, words
and signs apart, their bytes merged by rank. A start token begins every text and an end token ends it. The library
`tokenizers` does the work.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, MediaError
from ..extras import needs_extra
from .files import read_json, read_written
from .tokenizer import Tokens

VOCABULARY, MERGES, WHOLE, SETTINGS = "vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json"
START, END = "<|startoftext|>", "<|endoftext|>"
MOST_TOKENS = 77
"""Positions of every published CLIP text encoder; longer texts are cut."""
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
"""Contractions, runs of letters, single digits, runs of other signs."""
_AT_ENDS = "</w>"


class ClipTokenizer:
    """CLIP's vocabulary and its merges."""

    def __init__(self, model: Any, source: str, pad: str = END) -> None:
        """model: a `tokenizers.Tokenizer`. pad: the token that fills up; the models do not see it.

        Raises: MediaError when the vocabulary has no start or end.
        """
        self._model, self.source = model, source
        ids = [model.token_to_id(token) for token in (START, END)]
        if None in ids:
            raise MediaError(f"{source}: has no {START} or {END}; needed is the vocabulary of a CLIP text encoder")
        self.start, self.end = ids
        known = model.token_to_id(pad)
        self.pad = self.end if known is None else known

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> ClipTokenizer:
        """Read the files of a folder. Raises: MediaError when they are missing or damaged; PackageMissing."""
        place = Path(folder)
        pad = _pad_token(place / SETTINGS)
        if (place / VOCABULARY).is_file():
            return cls(_from_merges(place), str(place / VOCABULARY), pad)
        return cls(_from_whole(place / WHOLE), str(place / WHOLE), pad)

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return int(self._model.get_vocab_size())

    def encode(self, texts: Sequence[str], max_length: int) -> Tokens:
        """Ids and mask (B, min(max_length, MOST_TOKENS)); a longer text is cut before its end token."""
        length = min(max_length, MOST_TOKENS)
        if length < 2:
            raise ConfigError(f"max_tokens = {max_length}: needs at least 2, the start and the end of the prompt")
        ids = np.full((len(texts), length), self.pad, np.int64)
        mask = np.zeros((len(texts), length), np.int64)
        cut = []
        for row, text in enumerate(texts):
            pieces = self.pieces_of(text)
            kept = [self.start, *pieces[: length - 2], self.end]
            ids[row, : len(kept)] = kept
            mask[row, : len(kept)] = 1
            cut.append(len(pieces) + 2 - len(kept))
        return Tokens(ids, mask, cut)

    def pieces_of(self, text: str) -> list[int]:
        """Ids of a text, without those that begin and end every text. Raises: MediaError for half characters."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise MediaError(f"prompt {text!r}: is not valid text at character {error.start}") from error
        return list(self._model.encode(text, add_special_tokens=False).ids)


def is_clip_tokenizer(folder: Path) -> bool:
    """Whether a folder has the files of this tokeniser: a vocabulary with merges, or a tokenizer.json with both."""
    if (folder / VOCABULARY).is_file() and (folder / MERGES).is_file():
        return True
    try:
        model = read_json(folder / WHOLE)["model"]
        return model.get("end_of_word_suffix") == _AT_ENDS and "merges" in model
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def _from_merges(folder: Path) -> Any:
    vocabulary = _json_of(folder / VOCABULARY)
    if not all(isinstance(token, str) and type(number) is int for token, number in vocabulary.items()):
        raise MediaError(f"{folder / VOCABULARY}: needs a JSON object of tokens and their numbers")
    merges = _merges_of(folder / MERGES)
    with needs_extra("clip", f"{folder}: CLIP's tokeniser"):
        from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers
    try:
        model = models.BPE(vocabulary, merges, unk_token=END, end_of_word_suffix=_AT_ENDS)
    except Exception as error:  # all that the library raises
        raise MediaError(f"{folder / MERGES}: does not fit {VOCABULARY} ({error}); download both again") from error
    tokenizer = Tokenizer(model)
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    marks = [AddedToken(mark, special=True, normalized=True) for mark in (START, END) if mark in vocabulary]
    tokenizer.add_special_tokens(marks)  # normalised: they are seen in capitals too
    return tokenizer


def _from_whole(file: Path) -> Any:
    written = json.dumps(_json_of(file))
    with needs_extra("clip", f"{file}: CLIP's tokeniser"):
        from tokenizers import Tokenizer
    try:
        tokenizer = Tokenizer.from_str(written)
    except Exception as error:  # all that the library raises
        raise MediaError(f"{file}: is no tokeniser or damaged ({error}); download it again") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _json_of(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_written(file, MediaError))
    except (ValueError, RecursionError) as error:
        raise MediaError(f"{file}: is no JSON or damaged; download it again") from error
    if not isinstance(found, dict):
        raise MediaError(f"{file}: needs a JSON object")
    return found


def _merges_of(file: Path) -> list[tuple[str, str]]:
    """The pairs of a merges.txt by their rank."""
    merges = []
    for number, line in enumerate(read_written(file, MediaError).split("\n"), 1):
        if line.startswith("#version") or not line.strip():
            continue
        first, _, second = line.rstrip("\r").partition(" ")
        if not second or " " in second:
            raise MediaError(f"{file}:{number}: needs two symbols with a space between them")
        merges.append((first, second))
    return merges


def _pad_token(file: Path) -> str:
    """The token that texts are filled up with, where a tokenizer_config.json says one."""
    try:
        said = read_json(file)["pad_token"]
    except (OSError, ValueError, LookupError, TypeError):
        return END
    token = said.get("content") if isinstance(said, dict) else said
    return token if isinstance(token, str) else END
