"""Filling caches on torch: what they hold is what the models give, and what they were made with is kept apart."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from duosora.core import random
from duosora.core.config.caches import CacheSettings
from duosora.core.data.cache import CacheReader
from duosora.core.data.latent_cache import CachedClip, LatentCache, find_uncached
from duosora.core.data.text_cache import TextCache, uncached_captions
from duosora.core.errors import CheckpointError, ConfigError, MediaError
from duosora.core.io.media import DEFAULTS
from duosora.core.io.tokenizer import Tokenizer
from duosora.core.layout import FreshWeights
from duosora.core.models.finding import TINY_FOLDER, open_part
from duosora.core.seam.backend import Backend, get
from duosora.core.train.caching import cache_latents, cache_texts, latent_writer, text_writer
from duosora.core.train.encoders import CaptionEncoder, ClipEncoder
from duosora.core.train.stored import CLIP_SETTINGS, RecordTexts, open_latent_cache, open_text_cache, transform_of

CAPTIONS = ["a star", "", "a big blue bar moves up, gray background", "a star"]
TRANSFORM = {"frames": 9}
ENCODER = open_part("text_encoder", "tiny")
OTHER_ENCODER = replace(ENCODER, open=lambda: FreshWeights(ENCODER.layout, 1))


@pytest.fixture(scope="module")
def backend() -> Backend:
    return get("torch", "cpu")


def text_encoder(backend: Backend, **changed: Any) -> CaptionEncoder:
    options = {"part": open_part("text_encoder", "tiny"), "tokenizer": Tokenizer.open(TINY_FOLDER), "max_tokens": 16}
    return CaptionEncoder(backend, **(options | changed))


def clips(folder: Path, count: int = 3) -> list[CachedClip]:
    folder.mkdir(exist_ok=True)
    made = [
        CachedClip(folder / f"{i}.mp4", f"{i}.mp4", {"frames": list(range(9)), "size": [16, 24]}) for i in range(count)
    ]
    for clip in made:
        clip.path.touch()
    return made


def pixels(place: int) -> np.ndarray:
    return random.stream(0, "clip", place).random((3, 9, 16, 24), dtype=np.float32) * 2 - 1


def read(places: Sequence[int]) -> Iterator[np.ndarray | MediaError]:
    for place in places:
        yield MediaError("is damaged") if place == 1 else pixels(place)


def store_texts(settings: CacheSettings, encoder: CaptionEncoder) -> CacheReader:
    writer = text_writer(settings, encoder)
    return cache_texts(writer, encoder, uncached_captions(writer, CAPTIONS))


def store_latents(
    settings: CacheSettings,
    encoder: ClipEncoder,
    made: list[CachedClip],
    reads: Callable[[Sequence[int]], Iterator[Any]],
    transform: dict[str, Any],
) -> CacheReader:
    writer = latent_writer(settings, encoder, transform)
    return cache_latents(writer, encoder, find_uncached(writer, made), reads)


def test_cached_texts_are_encoded_texts(backend: Backend, tmp_path: Path) -> None:
    assert len(store_texts(CacheSettings(text=tmp_path, text_dtype="fp32"), text_encoder(backend))) == 3
    cache = TextCache(tmp_path)
    for caption, states in zip(CAPTIONS, text_encoder(backend).states(CAPTIONS), strict=True):
        np.testing.assert_array_equal(cache.find(caption), states)


def test_cached_latents_are_encoded_clips(backend: Backend, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = ClipEncoder(backend, open_part("vae", "tiny"), chunk=2)
    settings = CacheSettings(latents=tmp_path / "cache")
    made = clips(tmp_path / "clips")
    reader = store_latents(settings, encoder, made, read, TRANSFORM)
    assert "1.mp4: is damaged" in capsys.readouterr().err
    assert list(reader.index.failed) == ["1.mp4"]
    cache = LatentCache(tmp_path / "cache")
    for place in (0, 2):
        np.testing.assert_array_equal(cache.moments(made[place]), encoder.moments(pixels(place)))


def test_a_run_that_stopped_goes_on_where_it_was(backend: Backend, tmp_path: Path) -> None:
    encoder = ClipEncoder(backend, open_part("vae", "tiny"))
    settings = CacheSettings(latents=tmp_path / "cache", shard_mb=1)
    made = clips(tmp_path / "clips", 6)
    asked: list[int] = []

    def read(places: Sequence[int]) -> Iterator[np.ndarray]:
        for place in places:
            asked.append(place)
            if len(asked) == 5:
                raise KeyboardInterrupt
            yield np.full((3, 1, 640, 640), place / 10, np.float32)  # 0.4 MB of moments: three to a shard

    with pytest.raises(KeyboardInterrupt):
        store_latents(settings, encoder, made, read, TRANSFORM)
    with pytest.raises(CheckpointError, match="the cache is not finished"):
        LatentCache(tmp_path / "cache")
    assert len(store_latents(settings, encoder, made, read, TRANSFORM)) == 6
    assert asked[5:] == [3, 4, 5]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"dtype": "bf16"}, "was made with computed in = fp32, here it is bf16"),
        ({"max_tokens": 8}, "was made with max_tokens = 16, here it is 8"),
        ({"part": OTHER_ENCODER}, "was made with model = "),
    ],
)
def test_a_cache_made_otherwise_is_refused(
    backend: Backend, tmp_path: Path, changed: dict[str, Any], words: str
) -> None:
    settings = CacheSettings(text=tmp_path)
    store_texts(settings, text_encoder(backend))
    with pytest.raises(CheckpointError, match=words):
        store_texts(settings, text_encoder(backend, **changed))


def test_a_folder_must_be_named(backend: Backend) -> None:
    with pytest.raises(ConfigError, match=r"caches\.text: name the folder"):
        text_writer(CacheSettings(), text_encoder(backend))
    with pytest.raises(ConfigError, match=r"caches\.latents: name the folder"):
        latent_writer(CacheSettings(), ClipEncoder(backend, open_part("vae", "tiny")), TRANSFORM)


@dataclass
class Item:
    name: str
    embeddings: Path | None = None


def test_records_bring_their_own_states_or_none(backend: Backend, tmp_path: Path) -> None:
    encoder = text_encoder(backend)
    texts = RecordTexts(encoder.part.spec.d_model)
    own = np.random.default_rng(0).standard_normal((4, encoder.part.spec.d_model)).astype(np.float32)
    np.savez(tmp_path / "a-1.npz", text_emb=own, mask=np.array([1, 1, 0, 0], np.uint8))
    np.testing.assert_array_equal(texts(Item("a.mp4", tmp_path), 1), own[:2])
    for item, number in ((Item("a.mp4", tmp_path), None), (Item("a.mp4"), 1)):
        assert texts(item, number) is None
    np.savez(tmp_path / "b-0.npz", text_emb=own[:, :3], mask=np.ones(4))
    with pytest.raises(MediaError, match=r"b-0\.npz: its states have 3 channels, the model reads "):
        texts(Item("b.mp4", tmp_path), 0)


def data_settings(**changed: Any) -> Any:
    values = (
        dict.fromkeys(CLIP_SETTINGS) | {"frames": 9, "kind": "files", "drawn_clips": None, "media": DEFAULTS} | changed
    )
    return SimpleNamespace(**values)


def test_training_opens_the_caches_that_were_made_for_it(backend: Backend, tmp_path: Path) -> None:
    settings = CacheSettings(text=tmp_path / "text", latents=tmp_path / "latents")
    encoder, clip_encoder = text_encoder(backend), ClipEncoder(backend, open_part("vae", "tiny"))
    store_texts(settings, encoder)
    store_latents(
        settings, clip_encoder, clips(tmp_path / "clips"), read, transform_of(data_settings(), 5, clip_encoder.spec)
    )
    assert open_text_cache(settings, encoder.part, encoder.tokenizer, 16) is not None
    assert open_latent_cache(settings, clip_encoder.part, data_settings(), 5, False) is not None
    assert open_text_cache(CacheSettings(), encoder.part, encoder.tokenizer, 16) is None
    assert open_latent_cache(CacheSettings(), clip_encoder.part, data_settings(), 5, True) is None
    with pytest.raises(CheckpointError, match="max_tokens = 16, here it is 17"):
        open_text_cache(settings, encoder.part, encoder.tokenizer, 17)
    with pytest.raises(CheckpointError, match=r"data\.frames = 9, here it is 13"):
        open_latent_cache(settings, clip_encoder.part, data_settings(frames=13), 5, False)
    with pytest.raises(CheckpointError, match="seed = 5, here it is 6"):
        open_latent_cache(settings, clip_encoder.part, data_settings(), 6, False)


@pytest.mark.parametrize(
    ("kind", "is_inpaint", "words"),
    [("files", True, "an inpaint model is shown"), ("moving_shapes", False, "moving shapes are drawn anew")],
)
def test_clips_that_change_are_not_cached(tmp_path: Path, kind: str, is_inpaint: bool, words: str) -> None:
    settings = CacheSettings(latents=tmp_path)
    with pytest.raises(ConfigError, match=words):
        open_latent_cache(settings, open_part("vae", "tiny"), data_settings(kind=kind), 0, is_inpaint)
