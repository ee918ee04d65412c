"""The tiny model's captions and the tokeniser that was trained on them."""

from duosora.core.data.moving_shapes import captions, scenes
from duosora.core.io.tokenizer import UNK, Tokenizer, train_tokenizer
from duosora.core.models.finding import TINY_FOLDER
from duosora.core.models.t5 import TINY

CAPTIONS = [caption for scene in scenes() for caption in captions(scene)]
LONGEST = 16
"""Tokens, with the closing one, that configs/sample/tiny.yaml leaves room for."""


def test_every_word_of_the_captions_is_one_token() -> None:
    tokenizer = Tokenizer.open(TINY_FOLDER)
    words = {word for caption in CAPTIONS for word in caption.replace(",", "").replace(";", "").split()}
    assert {word for word in words if len(tokenizer.pieces_of(word)) != 1 or UNK in tokenizer.pieces_of(word)} == set()
    assert tokenizer.vocab_size == TINY.vocab_size


def test_no_caption_is_cut() -> None:
    assert sum(Tokenizer.open(TINY_FOLDER).encode(CAPTIONS, LONGEST).cut) == 0


def test_the_shipped_tokeniser_is_the_one_that_these_captions_train() -> None:
    assert train_tokenizer(CAPTIONS, TINY.vocab_size) == (TINY_FOLDER / "spiece.model").read_bytes()
