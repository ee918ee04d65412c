"""From clips to denoiser batches on torch: each part is what pipelines compute, and no sample sees its neighbours."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from duosora.core import random
from duosora.core.data.batch import ClipBatch
from duosora.core.data.cache import CacheWriter
from duosora.core.data.latent_cache import CachedClip, LatentCache, find_uncached, latent_identity, write_latent_cache
from duosora.core.data.text_cache import TextCache, text_identity, uncached_captions, write_text_cache
from duosora.core.errors import ConfigError
from duosora.core.io.tokenizer import Tokenizer
from duosora.core.maths import gaussian
from duosora.core.models.finding import TINY_FOLDER, open_part
from duosora.core.pipelines.autoencode import encode_chunks, scale_latents
from duosora.core.pipelines.text import encode_texts
from duosora.core.seam.backend import Backend, get
from duosora.core.seam.training import DiffusionBatch
from duosora.core.shapes import VideoShape
from duosora.core.train.encoders import CaptionEncoder, ClipEncoder
from duosora.core.train.inputs import DiffusionInputs, InputOptions
from duosora.core.train.objectives import Draws

SEED = 3
TEXT = frozenset(("text", "latent_mask"))
INPAINT = TEXT | {"channels"}
FRAMES, SIDE = 9, 32
CAPTIONS = ("a small red circle moves left on a white background", "", "a star", "")


class ByNumber:
    """An objective whose coefficients tell which sample they belong to."""

    def draw(self, seed: int, samples: Sequence[int], step: int, sizes: Sequence[VideoShape]) -> Draws:
        column = np.array([random.stream(seed, "timestep", sample, step).random() for sample in samples])
        return Draws(*(column + i for i in range(6)))


@pytest.fixture(scope="module")
def backend() -> Backend:
    return get("torch", "cpu")


@pytest.fixture(scope="module")
def texts(backend: Backend) -> CaptionEncoder:
    return CaptionEncoder(backend, open_part("text_encoder", "tiny"), Tokenizer.open(TINY_FOLDER), max_tokens=32)


@pytest.fixture(scope="module")
def clips(backend: Backend) -> ClipEncoder:
    return ClipEncoder(backend, open_part("vae", "tiny"), chunk=2)


def clip_batch(numbers: Sequence[int] = (10, 11, 12, 13), **changed: Any) -> ClipBatch:
    pixels = np.stack([noise_clip(number) for number in numbers])
    captions = tuple(CAPTIONS[number - 10] for number in numbers)
    sources = tuple(f"{number}.mp4" for number in numbers)
    return replace(ClipBatch(pixels, None, captions, tuple(numbers), sources), **changed)


def noise_clip(number: int, frames: int = FRAMES) -> np.ndarray:
    levels = random.stream(0, "clip", number).integers(0, 256, (3, frames, SIDE, SIDE))
    return (2 * (levels.astype(np.float32) / 255) - 1).astype(np.float32)


def rows_of(batch: DiffusionBatch, row: int) -> dict[str, Any]:
    """The arrays of one sample, its text without padding."""
    held = {**vars(batch), **vars(batch.given)}
    arrays = {name: value[row] for name, value in held.items() if isinstance(value, np.ndarray)}
    arrays["text"] = arrays["text"][arrays.pop("text_mask") > 0]
    return arrays


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)


def test_latents_are_scaled_draws_from_the_posterior(
    backend: Backend, texts: CaptionEncoder, clips: ClipEncoder
) -> None:
    batch = DiffusionInputs(SEED, texts, clips, ByNumber()).make(clip_batch(), step=4)
    assert batch.latents.dtype == batch.noise.dtype == batch.given.text.dtype == np.float32
    for row, number in enumerate((10, 11, 12, 13)):
        moments = encode_chunks(backend, clips.model(), clips.spec, noise_clip(number)[None], 2)
        noise = random.normal((8, 3, 4, 4), SEED, "posterior", number, 4)
        expected = scale_latents(clips.spec, gaussian.sample(moments, noise[None]))
        np.testing.assert_array_equal(batch.latents[row], expected[0])
        np.testing.assert_array_equal(batch.noise[row], random.normal((8, 3, 4, 4), SEED, "noise", number, 4))
    assert batch.mask is None
    assert batch.condition is None


def test_texts_are_those_of_the_sampling_pipeline(backend: Backend, texts: CaptionEncoder, clips: ClipEncoder) -> None:
    batch = DiffusionInputs(SEED, texts, clips, ByNumber()).make(clip_batch())
    expected = encode_texts(backend, texts.model(), texts.tokenizer, CAPTIONS, 32).given(CAPTIONS)
    np.testing.assert_array_equal(batch.given.text, expected["text"])
    np.testing.assert_array_equal(batch.given.text_mask, expected["text_mask"])


@pytest.mark.parametrize("reads", [TEXT, INPAINT])
def test_a_sample_is_the_same_alone_and_in_any_split(
    texts: CaptionEncoder, clips: ClipEncoder, reads: frozenset[str]
) -> None:
    options = InputOptions(noise_offset=0.1, condition_noise=True)
    inputs = DiffusionInputs(SEED, texts, clips, ByNumber(), options, reads)
    masks = np.tile(np.array([0, *[1] * (FRAMES - 1)], np.float32), (4, 1))
    whole = inputs.make(clip_batch(frame_mask=masks), step=2)
    for numbers in ((10,), (12, 11), (13, 10)):
        part = inputs.make(clip_batch(numbers, frame_mask=masks[: len(numbers)]), step=2)
        for row, number in enumerate(numbers):
            assert_same(rows_of(part, row), rows_of(whole, number - 10))


def test_another_step_seed_or_number_draws_anew(texts: CaptionEncoder, clips: ClipEncoder) -> None:
    first = DiffusionInputs(SEED, texts, clips, ByNumber()).make(clip_batch((10,)))
    others = [
        DiffusionInputs(SEED, texts, clips, ByNumber()).make(clip_batch((10,)), step=1),
        DiffusionInputs(SEED + 1, texts, clips, ByNumber()).make(clip_batch((10,))),
        DiffusionInputs(SEED, texts, clips, ByNumber()).make(replace(clip_batch((10,)), samples=(11,))),
    ]
    for other in others:
        for name in ("latents", "noise", "timesteps"):
            assert np.abs(getattr(first, name) - getattr(other, name)).max() > 1e-3, name


def test_padding_reaches_neither_latents_nor_noise(texts: CaptionEncoder, clips: ClipEncoder) -> None:
    inputs = DiffusionInputs(SEED, texts, clips, ByNumber())
    alone = inputs.make(clip_batch((10,)))
    pixels = np.zeros((2, 3, FRAMES + 4, SIDE + 16, SIDE + 8), np.float32)
    pixels[0, :, :FRAMES, :SIDE, :SIDE] = noise_clip(10)
    pixels[1, :, :, :SIDE, :SIDE] = noise_clip(11, FRAMES + 4)
    mask = np.zeros((2, 4, 6, 5), np.float32)
    mask[0, :3, :4, :4] = mask[1, :, :4, :4] = 1
    padded = inputs.make(clip_batch((10, 11), pixels=pixels, mask=mask))
    np.testing.assert_array_equal(padded.mask, mask)
    for name in ("latents", "noise"):
        array = getattr(padded, name)
        assert array.shape == (2, 8, 4, 6, 5)
        np.testing.assert_array_equal(array[0, :, :3, :4, :4], getattr(alone, name)[0])
        assert not array[np.broadcast_to(mask[:, None] == 0, array.shape)].any()


def test_noise_offset_is_one_number_a_channel(texts: CaptionEncoder, clips: ClipEncoder) -> None:
    plain = DiffusionInputs(SEED, texts, clips, ByNumber()).make(clip_batch())
    offset = DiffusionInputs(SEED, texts, clips, ByNumber(), InputOptions(noise_offset=0.5)).make(clip_batch())
    difference = (offset.noise - plain.noise).reshape(4, 8, -1)
    assert np.ptp(difference, axis=2).max() < 1e-6
    assert 0.3 < difference.mean(axis=2).std() < 0.7


def test_the_condition_is_the_clip_with_black_frames_and_the_mask(
    backend: Backend, texts: CaptionEncoder, clips: ClipEncoder
) -> None:
    mask = np.ones(FRAMES, np.float32)
    mask[[0, 5]] = 0
    inputs = DiffusionInputs(SEED, texts, clips, ByNumber(), reads=INPAINT)
    batch = inputs.make(clip_batch((10,), frame_mask=mask[None]), step=1)
    visible = np.full((1, 3, FRAMES, SIDE, SIDE), -1, np.float32)
    visible[0, :, [0, 5]] = noise_clip(10)[:, [0, 5]].swapaxes(0, 1)
    noise = random.normal((8, 3, 4, 4), SEED, "condition posterior", 10, 1)
    moments = encode_chunks(backend, clips.model(), clips.spec, visible, 2)
    assert batch.condition is not None
    latents = scale_latents(clips.spec, gaussian.sample(moments, noise[None]))
    np.testing.assert_array_equal(batch.condition[:, :8], latents)
    folded = np.array([[0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 1]], np.float32)  # (t, time within a latent frame)
    np.testing.assert_array_equal(batch.condition[0, 8:], np.broadcast_to(folded.T[:, :, None, None], (4, 3, 4, 4)))


def test_condition_noise_changes_given_frames_of_most_samples(texts: CaptionEncoder, clips: ClipEncoder) -> None:
    hidden = np.ones((1, FRAMES), np.float32)
    given = np.zeros((1, FRAMES), np.float32)
    plain = DiffusionInputs(SEED, texts, clips, ByNumber(), InputOptions(), INPAINT)
    noisy = DiffusionInputs(SEED, texts, clips, ByNumber(), InputOptions(condition_noise=True), INPAINT)

    def differs(mask: np.ndarray, step: int) -> bool:
        batch = clip_batch((11,), frame_mask=mask, pixels=noise_clip(11, 1)[None])
        return bool((plain.make(batch, step).condition != noisy.make(batch, step).condition).any())

    assert not differs(hidden[:, :1], 0)
    assert 0.85 < np.mean([differs(given[:, :1], step) for step in range(60)]) < 1


def test_given_moments_and_states_take_the_models_place(texts: CaptionEncoder, clips: ClipEncoder) -> None:
    batch = clip_batch()
    expected = DiffusionInputs(SEED, texts, clips, ByNumber()).make(batch)
    assert batch.pixels is not None
    moments = np.stack([clips.moments(clip) for clip in batch.pixels])
    stored = replace(batch, pixels=None, moments=moments, text=tuple(texts.states(batch.captions)))
    no_text = CaptionEncoder(texts.backend, open_part("text_encoder", "mt5_xxl"), texts.tokenizer)
    made = DiffusionInputs(SEED, no_text, ClipEncoder(clips.backend, clips.part), ByNumber()).make(stored)
    for row in range(4):
        assert_same(rows_of(made, row), rows_of(expected, row))


def test_batches_from_caches_are_those_without(tmp_path: Path, texts: CaptionEncoder, clips: ClipEncoder) -> None:
    batch = clip_batch()
    expected = DiffusionInputs(SEED, texts, clips, ByNumber()).make(batch, step=7)
    identity = text_identity(texts.part, texts.tokenizer, texts.max_tokens)
    text_writer = CacheWriter(tmp_path / "text", identity)
    write_text_cache(text_writer, uncached_captions(text_writer, CAPTIONS), texts.states)
    files = [CachedClip(tmp_path / source, source, {"frames": [0, 9]}) for source in batch.sources]
    for file in files:
        file.path.touch()
    transform = latent_identity(clips.part, {"frames": FRAMES}, "stat")
    writer = CacheWriter(tmp_path / "latents", transform)
    to_do = find_uncached(writer, files)
    write_latent_cache(writer, to_do, lambda places: [clips.moments(noise_clip(batch.samples[i])) for i in places])

    latents = LatentCache(tmp_path / "latents", transform)
    stored = replace(batch, pixels=None, moments=np.stack([latents.moments(file) for file in files]))
    cache = TextCache(tmp_path / "text", identity)
    cached_texts = CaptionEncoder(texts.backend, texts.part, texts.tokenizer, max_tokens=32, stored=cache)
    cached_clips = ClipEncoder(clips.backend, clips.part)
    made = DiffusionInputs(SEED, cached_texts, cached_clips, ByNumber()).make(stored, step=7)
    for row in range(4):
        assert_same(rows_of(made, row), rows_of(expected, row))
    assert cached_texts._model is None, "the text encoder was loaded although every caption is in the cache"
    assert cached_clips._model is None


@pytest.mark.parametrize("changed", [{"frame_mask": None}, {"pixels": None}])
def test_an_inpaint_model_needs_pixels_and_frame_masks(
    texts: CaptionEncoder, clips: ClipEncoder, changed: dict[str, Any]
) -> None:
    batch = clip_batch((10,), frame_mask=np.ones((1, FRAMES), np.float32))
    with pytest.raises(ConfigError, match="needs the pixels of each clip and the mask of its frames"):
        DiffusionInputs(SEED, texts, clips, ByNumber(), reads=INPAINT).make(replace(batch, **changed))


def test_repeated_captions_are_encoded_once(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    part, tokenizer = open_part("text_encoder", "tiny"), Tokenizer.open(TINY_FOLDER)
    texts = CaptionEncoder(backend, part, tokenizer, max_tokens=32)
    first = texts.states(["a star", "", "a star"])
    monkeypatch.setattr(texts, "model", lambda: pytest.fail("was encoded again"))
    for one, other in zip(first, texts.states(["a star", "", "a star"]), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_memory_of_captions_is_bounded(backend: Backend) -> None:
    part, tokenizer = open_part("text_encoder", "tiny"), Tokenizer.open(TINY_FOLDER)
    texts = CaptionEncoder(backend, part, tokenizer, max_tokens=32, remembered_bytes=1000)
    for i in range(20):
        texts.states([f"a star {i}"])
    assert sum(states.nbytes for states in texts._memory._held.values()) <= 1000
