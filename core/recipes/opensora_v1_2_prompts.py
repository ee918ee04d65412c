"""The prompts of Open-Sora 1.1 and 1.2: JSON at their end, segments for loops, scores, cleaning.

A prompt may be `text{"reference_path": "a.png;b.mp4", "mask_strategy": "0"}`, and its text may be segments
`|0|a calm sea|5|a storm`, each of which holds from its loop on. PromptScores and cleaning are applied to each segment.
Source: opensora/utils/inference_utils.py of hpcaitech Open-Sora at v1.2.0.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import NamedTuple

from ..conditioning.prompt_parts import PromptParts, Segments
from ..data.captions import clean_caption
from ..errors import MediaError
from ..io.safetensors_format import unique_keys
from ..printable import short_name

_LOOP = re.compile(r"\s*(\d{1,6})\s*", re.ASCII)
_CLEANING = ("cleaning prompts", "write them in plain ASCII, without < and &")
_JSON_KEYS = ("reference_path", "mask_strategy")


class BarePrompt(NamedTuple):
    """A prompt without the JSON at its end."""

    text: str
    references: tuple[str, ...]
    """Paths of pictures and videos."""
    mask_strategy: str


@dataclass(frozen=True)
class PromptScores:
    """What is said of a clip behind its text; the published models were trained with such texts."""

    aesthetic: float | None = None
    """About 4 to 7."""
    motion: float | None = None
    """Mean optical flow, about 0 to 20."""
    camera: str | None = None
    """"pan left", "zoom in", "static", ..."""

    def behind(self, text: str) -> str:
        """The text with those scores that it does not name itself."""
        for tag, score in (("aesthetic score:", self.aesthetic), ("motion score:", self.motion)):
            if score is not None and tag not in text:
                text += f" {tag} {score:.1f}."
        if self.camera and "camera motion:" not in text:
            text += f" camera motion: {self.camera}."
        return text


def clean(text: str) -> str:
    """A text as the published models read it. Raises: PackageMissing when ftfy or BeautifulSoup is not installed."""
    once = clean_caption(text, keep_chinese=False, use=_CLEANING)
    return clean_caption(once, keep_chinese=False, use=_CLEANING)


def segments(text: str, where: str = "prompt") -> Segments:
    """The segments of a text that begins with `|0|`; any other text is one. Raises: MediaError."""
    if not text.startswith("|0|"):
        return Segments((text,))
    parts = text.split("|")[1:]
    if len(parts) % 2:
        raise MediaError(f"{where}: expected |loop|text|loop|text, but {short_name(parts[-1])!r} has no text behind it")
    starts = tuple(_loop(part, where) for part in parts[::2])
    if list(starts) != sorted(set(starts)):
        raise MediaError(f"{where}: expected segments of rising loops, got {', '.join(map(str, starts))}")
    return Segments(tuple(part.strip() for part in parts[1::2]), starts)


def take_apart(prompt: str, where: str = "prompt") -> PromptParts:
    """A prompt with its JSON and its segments. Raises: MediaError for what does not parse."""
    text, given = _split(prompt, where)
    strategy = given.get("mask_strategy")
    return PromptParts(where, segments(text, where), _paths(given.get("reference_path", "")), strategy)


def describe(prompt: str, references: str = "", mask_strategy: str = "", where: str = "prompt") -> BarePrompt:
    """Take the JSON off a prompt; what it says goes before `references`, paths parted by `;`, and `mask_strategy`.

    Raises: MediaError when what begins with `{` is no JSON object of these two keys.
    """
    text, given = _split(prompt, where)
    paths = _paths(given.get("reference_path", references))
    return BarePrompt(text, paths, given.get("mask_strategy", mask_strategy))


def _split(prompt: str, where: str) -> tuple[str, dict[str, str]]:
    text, brace, rest = prompt.partition("{")
    return text, _read_json(brace + rest, where) if brace else {}


def _paths(written: str) -> tuple[str, ...]:
    return tuple(path.strip() for path in written.split(";") if path.strip())


def _loop(text: str, where: str) -> int:
    match = _LOOP.fullmatch(text)
    if match is None:
        raise MediaError(f"{where}: expected the number of a loop between two |, got {short_name(text)!r}")
    return int(match[1])


def _read_json(text: str, where: str) -> dict[str, str]:
    expected = 'expected at its end an object such as {"reference_path": "a.png", "mask_strategy": "0"}'
    if "{" in text[1:]:
        raise MediaError(f"{where}: {expected}, got more than one {{")
    try:
        given = json.loads(text, object_pairs_hook=unique_keys)
    except ValueError as error:
        raise MediaError(f"{where}: {expected}, got {short_name(text)!r}") from error
    for key, value in given.items():
        if key not in _JSON_KEYS:
            near = get_close_matches(key, _JSON_KEYS, n=1) or _JSON_KEYS
            raise MediaError(f"{where}: unknown key {short_name(key)!r}, expected {' or '.join(near)}")
        if not isinstance(value, str):
            raise MediaError(f"{where}: {key}: expected text, got {short_name(json.dumps(value))}")
    return dict(given)
