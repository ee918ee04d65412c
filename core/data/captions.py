"""Captions: cleaning, the choice among several, sentences on looks, and dropping for guidance.

The cleaning rules are those that the published models' captions went through; they come from DeepFloyd IF by way of
PixArt and Open-Sora Plan (opensora/utils/utils.py).
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from urllib.parse import unquote_plus

from .. import random
from ..config.data import DataSettings
from ..errors import PackageMissing
from ..extras import needs_extra
from .records import Record

GOOD_LOOKS, BAD_LOOKS = 5.75, 4.25
"""Ratings from which on, and down to which, a sentence says how a clip looks."""
GOOD_SENTENCES = (
    "A beautiful shot with fine composition.",
    "High aesthetic quality.",
    "It looks gorgeous, with rich detail and light.",
    "The picture is of great visual appeal.",
)
BAD_SENTENCES = (
    "A poor shot without composition.",
    "Low aesthetic quality.",
    "It looks dull, with flat detail and light.",
    "The picture is of little visual appeal.",
)
DEFAULT_VIDEO_TEXT = "The video moves naturally and smoothly from its given frames on, with sharp and lively detail."
DEFAULT_IMAGE_TEXT = "The picture is sharp and rich in natural detail."
"""In place of a dropped caption of an inpaint model."""

_USE = ("cleaning captions", "set data.clean_captions=false")
"""For messages: what is done, and what helps where its packages are not wanted."""


class Captioner:
    """Makes the captions of one training run."""

    def __init__(self, settings: DataSettings, seed: int, keeps_dropped: bool = False) -> None:
        """keeps_dropped: a caption that is dropped stays as it is, as the denoiser has a null caption of its own."""
        self.settings, self.seed, self.keeps_dropped = settings, seed, keeps_dropped

    def check(self, records: Iterable[Record]) -> None:
        """Raises: PackageMissing when a caption needs the libraries for cleaning and they are not installed."""
        try:
            _libraries(*_USE)
        except PackageMissing:
            captions = (caption for record in records if self._cleans(record) for caption in record.captions)
            if not all(_is_plain(unquote_plus(caption)) for caption in captions):
                raise

    def caption(self, record: Record, number: int, epoch: int, sample: int) -> str:
        """What a sample is trained with. number: of the record; sample: of the sample in the whole run."""
        drop = random.stream(self.seed, "caption dropout", sample)
        if drop.random() < self.settings.caption_dropout and not self.keeps_dropped:
            return self._without_caption(record, drop.random())
        if not record.captions:
            return ""
        pick = self.pick(record, number, epoch)
        return self._finished(record, record.captions[pick], self._sentence(record, sample))

    def pick(self, record: Record, number: int, epoch: int) -> int:
        """Which of a record's captions an epoch uses."""
        return int(random.stream(self.seed, "caption", number, epoch).integers(max(len(record.captions), 1)))

    def is_dropped(self, sample: int) -> bool:
        """Whether a sample is trained without its caption."""
        return random.stream(self.seed, "caption dropout", sample).random() < self.settings.caption_dropout

    def possible(self, record: Record) -> Iterator[str]:
        """Every caption whose states training may need: of a record that brings its own, those for dropped ones."""
        yield ""
        if self.settings.masks is not None:
            yield _default_text(record)
        if record.embeddings is not None:
            return
        for caption in record.captions:
            for sentence in self._sentences(record) or (None,):
                yield from {self._finished(record, caption, place) for place in _both_ends(sentence)}

    def _without_caption(self, record: Record, draw: float) -> str:
        masks = self.settings.masks
        return _default_text(record) if masks is not None and draw < masks.default_text else ""

    def _finished(self, record: Record, caption: str, sentence: tuple[str, bool] | None) -> str:
        if sentence is not None:
            text, is_before = sentence
            caption = f"{text} {caption}" if is_before else f"{caption} {text}"
        if not self._cleans(record):
            return caption.strip()
        return clean_caption(caption, self.settings.keep_chinese, self.settings.upstream.captions_as_lists)

    def _cleans(self, record: Record) -> bool:
        """Whether the text of captions matters: an autoencoder reads none, and ready-made states stand for theirs."""
        return self.settings.clean_captions and self.settings.autoencoder is None and record.embeddings is None

    def _sentences(self, record: Record) -> tuple[str, ...]:
        rating = record.aesthetic
        if not self.settings.aesthetic_sentences or rating is None or BAD_LOOKS < rating < GOOD_LOOKS:
            return ()
        return GOOD_SENTENCES if rating >= GOOD_LOOKS else BAD_SENTENCES

    def _sentence(self, record: Record, sample: int) -> tuple[str, bool] | None:
        """A sentence on the looks of a clip, and whether it goes before the caption."""
        sentences = self._sentences(record)
        if not sentences:
            return None
        draw = random.stream(self.seed, "aesthetic sentence", sample)
        return sentences[int(draw.integers(len(sentences)))], bool(draw.integers(2))


def _both_ends(sentence: str | None) -> tuple[tuple[str, bool] | None, ...]:
    return (None,) if sentence is None else ((sentence, True), (sentence, False))


def _default_text(record: Record) -> str:
    return DEFAULT_VIDEO_TEXT if record.is_video else DEFAULT_IMAGE_TEXT


@lru_cache(maxsize=4096)
def clean_caption(
    caption: str,
    keep_chinese: bool = True,
    as_list: bool = False,
    use: tuple[str, str] = _USE,
) -> str:
    """A caption as the published models were trained with it.

    as_list: clean the text of a list that holds the caption, brackets and quotes included, as upstream does (Q15).
    use: for messages, what is done, and what helps where the packages for texts that are not plain are not wanted.
    Raises: PackageMissing when it needs ftfy or BeautifulSoup, which is not installed.
    """
    text = str([caption]) if as_list else caption
    text = _apply(_ADDRESSES, unquote_plus(text).strip().lower())
    text = _apply(_NAMES_AND_SCRIPTS, text if _is_plain(text) else _libraries(*use)[1](text))
    if not keep_chinese:
        text = _apply(_CHINESE, text)
    text = _apply(_SIGNS, text)
    if len(_JOINTS.findall(text)) > _MOST_JOINTS:
        text = _JOINTS.sub(" ", text)
    text = html.unescape(html.unescape(text if _is_plain(text) else _libraries(*use)[0](text))).strip()
    return _apply(_ENDS, _apply(_SHOP_TALK, text)).strip()


def _is_plain(text: str) -> bool:
    """Whether neither library would change a text: ASCII without tags, entities and control characters."""
    return text.isascii() and text.replace("\n", " ").isprintable() and not {"<", "&"} & set(text)


@lru_cache(maxsize=2)
def _libraries(purpose: str, otherwise: str) -> tuple[Callable[[str], str], Callable[[str], str]]:
    """Repair broken encodings; take the text out of HTML."""
    with needs_extra("train", purpose, otherwise):
        import ftfy
        from bs4 import BeautifulSoup
    return ftfy.fix_text, lambda text: BeautifulSoup(text, features="html.parser").text


_SITES = r"[a-zA-Z0-9.\-]+[.](?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b\/?(?!@)"
_FILE_ENDINGS = "png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4"
_DASHES = (
    r"\u002D\u058A\u05BE\u1400\u1806\u2010-\u2015\u2E17\u2E1A\u2E3A\u2E3B\u2E40\u301C\u3030\u30A0"
    r"\uFE31\uFE32\uFE58\uFE63\uFF0D"
)
_ODD_SIGNS = r"#®•©™&@·º½¾¿¡§~)(\]\[}{|\\/*"

Rule = tuple[re.Pattern[str], str]


def _rules(*pairs: tuple[str, str]) -> tuple[Rule, ...]:
    return tuple((re.compile(pattern), replacement) for pattern, replacement in pairs)


_ADDRESSES = _rules(
    ("<person>", "person"),
    (rf"\b(?:https?:(?:/{{1,3}}|[a-zA-Z0-9%])|{_SITES})", ""),
    (rf"\b(?:www:(?:/{{1,3}}|[a-zA-Z0-9%])|{_SITES})", ""),
)
_NAMES_AND_SCRIPTS = _rules(
    (r"@\w+\b", ""),
    ("[\u31c0-\u4dff]+", ""),  # strokes, phonetic extensions, enclosed letters, compatibility, extension A, hexagrams
)
_CHINESE = _rules(("[\u4e00-\u9fff]+", ""))
_SIGNS = _rules(
    (f"[{_DASHES}]+", "-"),
    ("[`´«»“”¨]", '"'),
    ("[‘’]", "'"),
    ("&quot;?", ""),
    ("&amp", ""),
    (r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", " "),  # IP addresses
    (r"\d:\d\d\s+$", ""),
    (r"\\n", " "),
    (r"#\d{1,3}\b", ""),
    (r"#\d{5,}\b", ""),
    (r"\b\d{6,}\b", ""),
    (rf"\S+\.(?:{_FILE_ENDINGS})", ""),
    ("[\"']{2,}", '"'),
    (r"\.{2,}", " "),
    (f"[{_ODD_SIGNS}]+", " "),
    (r"\s+\.\s+", " "),
)
_JOINTS = re.compile("[-_]")
_MOST_JOINTS = 3
"""A caption with more dashes and underscores is a file's name or the like."""
_SHOP_TALK = _rules(
    (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),
    (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),
    (r"\b\d+[a-zA-Z]+\d+\b", ""),
    (r"(worldwide\s+)?(free\s+)?shipping", ""),
    (r"(free\s)?download(\sfree)?", ""),
    (r"\bclick\b\s(?:for|on)\s\w+", ""),
    (rf"\b(?:{_FILE_ENDINGS})(\simage[s]?)?", ""),
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),
    (r"\b\d+\.?\d*[xх×]\d+\.?\d*\b", ""),
    (r"\b\s+:\s+", ": "),
    (r"(\D[,./])\b", r"\1 "),
    (r"\s+", " "),
)
_ENDS = _rules(
    (r"^[\"']([\w\W]+)[\"']$", r"\1"),
    (r"^['_,\-:;]", ""),
    (r"['_,\-:+]$", ""),
    (r"^\.\S+$", ""),
)


def _apply(rules: tuple[Rule, ...], text: str) -> str:
    for pattern, replacement in rules:
        text = pattern.sub(replacement, text)
    return text
