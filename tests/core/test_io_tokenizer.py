"""Token ids equal those of transformers' mT5 tokeniser, on models trained here."""

import io
import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import transformers

from duosora.core.errors import ConfigError, MediaError
from duosora.core.io.tokenizer import Tokenizer, train_tokenizer

WORDS = [
    "a", "the", "red", "blue", "green", "dog", "cat", "runs", "jumps", "on", "under", "grass", "beach", "sunset",
    "slowly", "camera", "video", "of", "bright", "small", "狗", "猫", "在", "草地", "上", "跑", "éclair", "naïve",
]  # fmt: skip
TEXTS = [" ".join(random.Random(seed).choices(WORDS, k=12)) for seed in range(600)]
CASES = [
    "a red dog", "  a  red   dog  ", "a\nred\tdog\n", "\n    high quality, a dog\n    ", "", "   ", "\n",
    "狗在草地上跑", "ü☃🙂🙂 dog 🙂", "A DOG!", "a．ｆｕｌｌ", "x" * 50, "dog\u200bcat", "a dog\u3000cat", "\xa0dog\xa0",
    "e\u0301clair", "▁dog ▁ cat", "a▁red", "\x00dog", "dog\r\ncat", "\u2028x\u2029", " 🙂 🙂 ", "🙂a🙂", "狗🙂猫", "ﬁ①",
    "</s>", "a </s> dog", "a</s>dog", "</s></s>", "<pad> a <unk> b", "a  <pad>dog", " </s> a", "<unk>🙂", "🙂<unk>🙂",
    "<extra_id_0> dog", "</S> <PAD> < pad>",
]  # fmt: skip
PIECES = [*"ad.<>🙂狗ü▁é", "red", "dog", " ", "  ", "\n", "\u3000", "</s>", "<pad>", "<unk>"]
MODELS = {
    "unigram": {"model_type": "unigram", "vocab_size": 60},
    "unigram with bytes": {"model_type": "unigram", "vocab_size": 310, "byte_fallback": True},
    "bpe": {"model_type": "bpe", "vocab_size": 90},
    "bpe with bytes": {"model_type": "bpe", "vocab_size": 340, "byte_fallback": True},
}


def _trained(**options: object) -> bytes:
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=written, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        hard_vocab_limit=False, minloglevel=2, **options,
    )  # fmt: skip
    return written.getvalue()


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tokeniser folder like mT5's on the hub."""
    folder = tmp_path_factory.mktemp("mt5")
    (folder / "spiece.model").write_bytes(_trained(**MODELS[request.param]))
    (folder / "config.json").write_text(json.dumps({"model_type": "mt5", "tokenizer_class": "T5Tokenizer"}))
    special = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    settings = {**special, "extra_ids": 0, "additional_special_tokens": None, "tokenizer_class": "T5Tokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    transformers.logging.set_verbosity_error()
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("max_length", [1, 2, 7, 40])
def test_ids_and_masks_are_those_of_the_published_pipelines_tokeniser(folder: Path, max_length: int) -> None:
    draw = random.Random(0)
    texts = CASES + ["".join(draw.choices(PIECES, k=draw.randrange(1, 20))) for _ in range(200)]
    reference = transformers.AutoTokenizer.from_pretrained(folder)
    assert type(reference).__name__ == "T5TokenizerFast"
    expected = reference(texts, padding="max_length", max_length=max_length, truncation=True, return_tensors="np")
    whole = reference(texts).input_ids
    got = Tokenizer.open(folder).encode(texts, max_length)
    assert got.ids.dtype == got.mask.dtype == np.int64
    for row, text in enumerate(texts):
        np.testing.assert_array_equal(got.ids[row], expected.input_ids[row], err_msg=repr(text))
        np.testing.assert_array_equal(got.mask[row], expected.attention_mask[row], err_msg=repr(text))
        assert got.cut[row] == max(len(whole[row]) - max_length, 0), text


@pytest.mark.filterwarnings("ignore")
def test_without_unknown_characters_and_a_final_eos_the_slow_tokeniser_agrees(folder: Path) -> None:
    slow = transformers.AutoTokenizer.from_pretrained(folder, use_fast=False)
    tokenizer = Tokenizer.open(folder)
    for text in [*TEXTS[:50], "a\nred\tdog\n", "  狗   猫 ", "a </s> dog", "", "<pad> a <unk>"]:
        assert [*tokenizer.pieces_of(text), 1] == slow(text).input_ids, text


def test_a_model_file_opens_as_well_as_its_folder(folder: Path) -> None:
    by_file, by_folder = Tokenizer.open(folder / "spiece.model"), Tokenizer.open(folder)
    assert by_file.pieces_of("a red dog") == by_folder.pieces_of("a red dog")
    assert by_file.vocab_size == by_folder.vocab_size > 50
    assert by_file.encode([], 5).ids.shape == (0, 5)


def test_text_that_is_no_text_is_one_line(folder: Path) -> None:
    with pytest.raises(MediaError, match="is not valid text at character 2"):
        Tokenizer.open(folder).encode(["a \udcff"], 8)


@pytest.mark.parametrize("max_length", [0, -1])
def test_a_length_without_room_is_one_line(folder: Path, max_length: int) -> None:
    with pytest.raises(ConfigError, match=rf"max_tokens = {max_length}: needs at least 1"):
        Tokenizer.open(folder).encode(["a"], max_length)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"spiece\.model: there is no such file; needed is the spiece\.model"):
        Tokenizer.open(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(MediaError, match=r"has tokenizer\.json only; needed is spiece\.model"):
        Tokenizer.open(tmp_path)
    with pytest.raises(MediaError, match="there is no such file"):
        Tokenizer.open(tmp_path / "absent")


@pytest.mark.parametrize("content", [b"", b"text" * 100, _trained(**MODELS["bpe"])[:-9]])
def test_a_damaged_model_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "spiece.model").write_bytes(content)
    with pytest.raises(MediaError, match="is no SentencePiece model or damaged; download it again") as raised:
        Tokenizer.open(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_file_too_large_to_be_a_tokeniser_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "spiece.model").open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(
        MediaError, match=r"spiece\.model: has more than 64000000 bytes, so it is no SentencePiece model"
    ):
        Tokenizer.open(tmp_path)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_a_tokeniser_that_is_no_file_is_one_line(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "spiece.model")
    with pytest.raises(MediaError, match=r"spiece\.model: cannot be read \(.*(regular file|Is a directory)"):
        Tokenizer.open(tmp_path)


def test_a_model_with_other_special_ids_is_refused() -> None:
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=written, vocab_size=60, hard_vocab_limit=False, minloglevel=2
    )
    with pytest.raises(MediaError, match=r"numbers <pad>, </s>, <unk> as \(-1, 2, 0\); T5 tokenisers have \(0, 1, 2\)"):
        Tokenizer(written.getvalue(), "llama")


def test_a_trained_tokeniser_covers_its_texts_and_is_the_same_again() -> None:
    model = train_tokenizer(TEXTS, 90)
    assert model == train_tokenizer(TEXTS, 90)
    tokenizer = Tokenizer(model, "trained")
    assert tokenizer.vocab_size == 90
    ids, mask, cut = tokenizer.encode(TEXTS, 64)
    assert not (ids == 2).any()
    assert (ids[mask == 0] == 0).all()
    assert (ids[np.arange(len(ids)), mask.sum(axis=1) - 1] == 1).all()
    assert not any(cut)


@pytest.mark.parametrize(("texts", "size"), [(TEXTS, 3000), (TEXTS, 10), ([], 50)])
def test_a_size_that_the_texts_cannot_fill_is_one_line(texts: list[str], size: int) -> None:
    with pytest.raises(ConfigError, match=rf"vocab_size = {size}: does not suit these texts") as raised:
        train_tokenizer(texts, size)
    assert "\n" not in str(raised.value)
