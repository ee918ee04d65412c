"""Cleaning captions: without the libraries where they would change nothing, and refused early where they would."""

import string
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from duosora.core.config.data import DataSettings, StrideSettings
from duosora.core.data import captions, moving_shapes
from duosora.core.data.captions import Captioner, clean_caption
from duosora.core.data.loader import ClipLoader
from duosora.core.data.records import Record
from duosora.core.data.sources import open_source
from duosora.core.errors import PackageMissing
from duosora.core.models import opensora_t2v, wfvae

PLAIN = "".join(sorted(set(string.printable) - set("<&\t\r\x0b\x0c")))


@pytest.fixture
def without_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("ftfy", "bs4"):
        monkeypatch.setitem(sys.modules, module, None)
    captions._libraries.cache_clear()
    clean_caption.cache_clear()


def record(*texts: str, **others: object) -> Record:
    return Record(path=Path("a.mp4"), name="a.mp4", captions=texts, **others)


@settings(deadline=None)  # the first text loads the libraries
@given(st.text(PLAIN), st.booleans())
@example('A dog\'s "bone" -- 100% of it; see https://a.com/b?c=d', True)
@example("a > b\n\n  %41 + 'c' \\n ...", False)
def test_the_libraries_change_nothing_in_plain_text(text: str, as_list: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        clean_caption.cache_clear()
        skipped = clean_caption(text, True, as_list)
        clean_caption.cache_clear()
        patch.setattr(captions, "_is_plain", lambda text: False)
        assert clean_caption(text, True, as_list) == skipped


@pytest.mark.usefixtures("without_libraries")
def test_captions_of_moving_shapes_need_no_libraries() -> None:
    settings = DataSettings(kind="moving_shapes", drawn_clips=4, workers=0, clean_captions=True, caption_dropout=0)
    with ClipLoader(
        open_source(settings), settings, 0, wfvae.TINY.compression, opensora_t2v.TINY.patch, micro_batch=2
    ) as loader:
        batch = next(loader.batches())[0]
    sentences = {text.lower() for scene in moving_shapes.training_scenes() for text in moving_shapes.captions(scene)}
    assert set(batch.captions) <= sentences


@pytest.mark.usefixtures("without_libraries")
@pytest.mark.parametrize(
    ("settings", "given"),
    [
        ({}, record("A plain caption, with 3 words or more.")),
        ({"clean_captions": False}, record("<b>bold</b>")),
        ({"autoencoder": StrideSettings()}, record("<b>bold</b>")),
        ({}, record("<b>bold</b>", embeddings=Path("states"))),
    ],
)
def test_what_needs_no_cleaning_needs_no_libraries(settings: dict, given: Record) -> None:
    captioner = Captioner(DataSettings(**settings, caption_dropout=0), 0)
    captioner.check([given])
    assert captioner.caption(given, 0, 0, 0)


@pytest.mark.usefixtures("without_libraries")
@pytest.mark.parametrize("text", ["<b>bold</b>", "caf\u00e9", "a &amp; b", "%3Cb%3E", "a\tb", "a\x1b[31m"])
def test_what_needs_them_is_refused_before_anything_is_read(text: str) -> None:
    with pytest.raises(PackageMissing, match="cleaning captions needs ftfy, which is not installed: pip install -e"):
        Captioner(DataSettings(clean_captions=True), 0).check([record("plain"), record("plain", text)])
