"""Filling caches on torch: what they hold is what the models give, and what they were made with is kept apart."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from duosora.core import random
from duosora.core.backend import Backend, get
from duosora.core.config.caches import CacheSettings
from duosora.core.data.latent_cache import CachedClip, LatentCache
from duosora.core.data.text_cache import TextCache
from duosora.core.errors import CheckpointError, ConfigError, MediaError
from duosora.core.io.tokenizer import Tokenizer
from duosora.core.models.recognise import TINY_FOLDER, open_part
from duosora.core.train.caching import cache_latents, cache_texts
from duosora.core.train.encoders import ClipEncoder, TextEncoder

CAPTIONS = ["a star", "", "a big blue bar moves up, gray background", "a star"]
TRANSFORM = {"frames": 9}


@pytest.fixture(scope="module")
def backend() -> Backend:
    return get("torch", "cpu")


def text_encoder(backend: Backend, **changed: Any) -> TextEncoder:
    options = {"part": open_part("text_encoder", "tiny"), "tokenizer": Tokenizer.open(TINY_FOLDER), "max_tokens": 16}
    return TextEncoder(backend, **(options | changed))


def clips(folder: Path, count: int = 3) -> list[CachedClip]:
    folder.mkdir(exist_ok=True)
    made = [
        CachedClip(folder / f"{i}.mp4", f"{i}.mp4", {"frames": list(range(9)), "size": [16, 24]}) for i in range(count)
    ]
    for clip in made:
        clip.path.touch()
    return made


def pixels(clip: CachedClip) -> np.ndarray:
    if clip.name == "1.mp4":
        raise MediaError(f"{clip.path}: is damaged")
    return random.stream(0, clip.name).random((3, 9, 16, 24), dtype=np.float32) * 2 - 1


def test_cached_texts_are_encoded_texts(backend: Backend, tmp_path: Path) -> None:
    reader = cache_texts(CacheSettings(text=tmp_path, text_dtype="fp32"), text_encoder(backend), CAPTIONS)
    assert len(reader) == 3
    cache = TextCache(tmp_path)
    for caption, states in zip(CAPTIONS, text_encoder(backend).states(CAPTIONS), strict=True):
        np.testing.assert_array_equal(cache.find(caption), states)


def test_cached_latents_are_encoded_clips(backend: Backend, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = ClipEncoder(backend, open_part("vae", "tiny"), chunk=2)
    settings = CacheSettings(latents=tmp_path / "cache")
    made = clips(tmp_path / "clips")
    reader = cache_latents(settings, encoder, made, pixels, TRANSFORM)
    assert "1.mp4: is damaged" in capsys.readouterr().err
    assert list(reader.index.failed) == ["1.mp4"]
    cache = LatentCache(tmp_path / "cache")
    for clip in (made[0], made[2]):
        np.testing.assert_array_equal(cache.moments(clip), encoder.moments(pixels(clip)))


def test_a_run_that_stopped_goes_on_where_it_was(backend: Backend, tmp_path: Path) -> None:
    encoder = ClipEncoder(backend, open_part("vae", "tiny"))
    settings = CacheSettings(latents=tmp_path / "cache", shard_mb=1)
    made = clips(tmp_path / "clips", 6)
    asked: list[str] = []

    def read(clip: CachedClip) -> np.ndarray:
        asked.append(clip.name)
        if len(asked) == 5:
            raise KeyboardInterrupt
        return np.zeros((3, 1, 640, 640), np.float32)  # 0.4 MB of moments: three to a shard

    with pytest.raises(KeyboardInterrupt):
        cache_latents(settings, encoder, made, read, TRANSFORM)
    with pytest.raises(CheckpointError, match="the cache is not finished"):
        LatentCache(tmp_path / "cache")
    assert len(cache_latents(settings, encoder, made, read, TRANSFORM)) == 6
    assert asked[5:] == ["3.mp4", "4.mp4", "5.mp4"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"dtype": "bf16"}, "was made with computed in = fp32, here it is bf16"),
        ({"max_tokens": 8}, "was made with max_tokens = 16, here it is 8"),
        ({"part": open_part("text_encoder", "tiny", seed=1)}, "was made with model = "),
    ],
)
def test_a_cache_made_otherwise_is_refused(
    backend: Backend, tmp_path: Path, changed: dict[str, Any], words: str
) -> None:
    settings = CacheSettings(text=tmp_path)
    cache_texts(settings, text_encoder(backend), CAPTIONS)
    with pytest.raises(CheckpointError, match=words):
        cache_texts(settings, text_encoder(backend, **changed), CAPTIONS)


def test_a_folder_must_be_named(backend: Backend) -> None:
    with pytest.raises(ConfigError, match=r"caches\.text: name the folder"):
        cache_texts(CacheSettings(), text_encoder(backend), CAPTIONS)
    with pytest.raises(ConfigError, match=r"caches\.latents: name the folder"):
        cache_latents(CacheSettings(), ClipEncoder(backend, open_part("vae", "tiny")), [], pixels, TRANSFORM)
