"""The tiny models' captions and the tokenisers that were trained on them."""

import pytest

from duosora.core import random
from duosora.core.data.moving_shapes import any_look, captions, scenes
from duosora.core.io.tokenizer import UNK, Tokenizer, train_tokenizer
from duosora.core.models.finding import TRAINED
from duosora.core.models.t5 import PRESETS

PLAIN = [caption for scene in scenes() for caption in captions(scene)]
SCORED = [any_look(random.stream(0, "tokeniser", number)).behind(caption) for number, caption in enumerate(PLAIN)]
TEXTS = {"tiny": PLAIN, "tiny_v1_2": SCORED}
LONGEST = {"tiny": 16, "tiny_v1_2": 32}
"""Tokens, with the closing one: what configs/sample/tiny.yaml and the recipe tiny_v1_2 leave room for."""
EACH = pytest.mark.parametrize("name", TEXTS)


@EACH
def test_every_word_of_the_captions_is_one_token(name: str) -> None:
    tokenizer = Tokenizer.open(TRAINED[name])
    words = {word for caption in PLAIN for word in caption.replace(",", "").replace(";", "").split()}
    assert {word for word in words if len(tokenizer.pieces_of(word)) != 1 or UNK in tokenizer.pieces_of(word)} == set()
    assert tokenizer.vocab_size == PRESETS[name].vocab_size


def test_every_score_can_be_told_from_the_others() -> None:
    tokenizer = Tokenizer.open(TRAINED["tiny_v1_2"])
    scores = [tuple(tokenizer.pieces_of(f"score: {tenths / 10:.1f}.")) for tenths in range(10, 66)]
    assert len(set(scores)) == len(scores)
    assert UNK not in {piece for score in scores for piece in score}


@EACH
def test_no_caption_is_cut(name: str) -> None:
    assert sum(Tokenizer.open(TRAINED[name]).encode(TEXTS[name], LONGEST[name]).cut) == 0


@EACH
def test_the_shipped_tokeniser_is_the_one_that_these_captions_train(name: str) -> None:
    assert train_tokenizer(TEXTS[name], PRESETS[name].vocab_size) == (TRAINED[name] / "spiece.model").read_bytes()
