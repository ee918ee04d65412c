"""VideoGPT's VQ-VAE: what its family has beside what holds for all."""

import argparse
import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from family_cases import awake

from duosora.convert import commands
from duosora.core.converting import Conversion
from duosora.core.errors import ConfigError, DuosoraError, ShapeError
from duosora.core.io.weights import open_weights
from duosora.core.layout import GivenWeights
from duosora.core.maths import codebook
from duosora.core.models.finding import recognise
from duosora.core.models.vqvae import PRESETS, VQVAESpec
from duosora.core.pipelines.autoencode import encode_latents, posterior_noise, unscale_latents
from duosora.core.random import normal
from duosora.core.seam.backend import Backend, get
from duosora.core.seam.training import AdamW, AutoencoderBatch, AutoencoderLosses, TrainOptions
from duosora.core.shapes import VideoShape

TINY = PRESETS["vqvae_tiny"]
BOOK = ("embeddings", "N", "z_avg")
LOSSES = AutoencoderLosses(pixel_weight=0, pair_weights={"reconstruction": 16.0, "commitment": 0.25})
OPTIONS = TrainOptions(optimizer=AdamW(eps=1e-8, weight_decay=0.0), max_grad_norm=None, keeps_ema=False)


def batch(number: int = 0, spec: VQVAESpec = TINY) -> AutoencoderBatch:
    """One clip of 8 latents, and what codes start again as."""
    size = spec.n_codes, spec.embedding_dim
    restarts = tuple(codebook.draw(8, *size, np.random.default_rng((number, i))) for i in range(2))
    video = np.tanh(normal((1, 3, 4, 8, 8), 1, "video", number))
    return AutoencoderBatch(video, {}, "generator", False, restarts=restarts)


def weights_with(counts: float) -> GivenWeights:
    """Weights of their own whose codes were all chosen so often."""
    copies = {name: array.copy() for name, array in awake(TINY).items()}
    return GivenWeights(copies | {"codebook.N": np.full(16, counts, np.float32)}, "weights")


def trained(backend: Backend, weights: Any, steps: int = 1) -> tuple[dict[str, np.ndarray], Any]:
    """Weights after a few steps, and the last report."""
    trainer = backend.train_autoencoder(TINY, weights, LOSSES, OPTIONS)
    report = None
    for number in range(steps):
        report = trainer.step([batch(2 * number), batch(2 * number + 1)], 1e-3)
    return dict(trainer.saved().weights(use_ema=False)), report


def test_latents_are_the_vectors_of_the_nearest_codes(backend: Backend) -> None:
    weights = awake(TINY)
    vae, video = backend.build(TINY, weights), backend.asarray(batch().video)
    with backend.inference():
        latents, z = backend.to_numpy(vae.encode(video).latents), backend.to_numpy(vae.latents(video, False))
        codes = backend.to_numpy(vae.codes(video))
        again, pixels = (backend.to_numpy(each) for each in (
            vae.decode_codes(backend.asarray(codes)), vae.decode(backend.asarray(latents)),
        ))  # fmt: skip
    book = weights["codebook.embeddings"].astype(np.float64)
    distances = ((np.moveaxis(z, 1, -1)[..., None, :] - book) ** 2).sum(-1)
    np.testing.assert_array_equal(codes, distances.argmin(-1))
    np.testing.assert_array_equal(np.moveaxis(latents, 1, -1), weights["codebook.embeddings"][codes])
    np.testing.assert_allclose(again, pixels, atol=1e-6)


def test_a_book_begins_with_the_first_batch_and_stays_begun(backend: Backend) -> None:
    fresh, _ = trained(backend, weights_with(0))
    held = awake(TINY)["codebook.embeddings"]
    assert not np.isclose(fresh["codebook.embeddings"], held).all(1).any(), "all codes are latents of the batch"
    np.testing.assert_allclose(fresh["codebook.N"].sum(), 0.99 * 16 + 0.01 * 16, rtol=1e-6)
    loaded, _ = trained(backend, weights_with(5))
    assert np.abs(loaded["codebook.z_avg"] - 0.99 * awake(TINY)["codebook.z_avg"]).max() < 0.3, "a loaded book goes on"


def test_accumulating_looks_up_in_one_book_and_updates_it_once(backend: Backend) -> None:
    weights = weights_with(5)
    after, report = trained(backend, weights_with(5))
    book = codebook.Codebook(*(weights[f"codebook.{name}"] for name in BOOK))
    vae = backend.build(TINY, weights)
    vectors = []
    with backend.inference():
        for number in (0, 1):
            z = backend.to_numpy(vae.latents(backend.asarray(batch(number).video), True))
            vectors.append(np.moveaxis(z, 1, -1).reshape(-1, 8))
    rows = np.concatenate(vectors)
    codes = ((rows[:, None].astype(np.float64) - book.embeddings) ** 2).sum(-1).argmin(1)
    counts, sums = codebook.usage(rows, codes, 16)
    again = codebook.candidates(vectors[0], batch(0).restarts[1], 16)
    expected = codebook.updated(book, counts, sums, again)
    for name, values in zip(BOOK, expected, strict=True):
        np.testing.assert_allclose(after[f"codebook.{name}"], values, rtol=1e-5, atol=1e-6)
    assert report.parts["perplexity"] == pytest.approx(codebook.perplexity(counts))


def test_a_step_that_is_not_applied_measures_nothing(backend: Backend) -> None:
    trainer = backend.train_autoencoder(TINY, weights_with(5), LOSSES, OPTIONS)
    before = {name: array.copy() for name, array in trainer.saved().weights(use_ema=False).items()}
    broken = replace(batch(), video=np.full((1, 3, 4, 8, 8), np.nan, np.float32))
    assert not trainer.step([broken], 1e-3).applied
    for name, array in trainer.saved().weights(use_ema=False).items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


def test_evaluating_measures_nothing(backend: Backend) -> None:
    trainer = backend.train_autoencoder(TINY, weights_with(5), LOSSES, OPTIONS)
    before = {name: array.copy() for name, array in trainer.saved().weights(use_ema=False).items()}
    losses = [trainer.evaluate(batch(), use_ema=False) for _ in range(2)]
    assert losses[0] == losses[1]
    for name, array in trainer.saved().weights(use_ema=False).items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


def test_training_of_both_backends_is_the_same() -> None:
    torchs, mindspores = (trained(get(name, "cpu"), weights_with(0), steps=2)[0] for name in ("torch", "mindspore"))
    for name in (*(f"codebook.{each}" for each in BOOK), "decoder.convts.1.convt.weight", "pre_vq_conv.conv.weight"):
        np.testing.assert_allclose(mindspores[name], torchs[name], rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("num_vectors", [3, 16, 40])
def test_candidates_are_vectors_of_the_batch(num_vectors: int) -> None:
    vectors = normal((num_vectors, 8), 1, "vectors")
    draws = codebook.draw(num_vectors, 16, 8, np.random.default_rng(1))
    rows = codebook.candidates(vectors, draws, 16)
    nearest = np.abs(rows[:, None] - vectors).max(-1).min(1)
    assert rows.shape == (16, 8)
    assert nearest.max() < 0.03 if num_vectors < 16 else nearest.max() == 0
    assert len(np.unique(rows, axis=0)) == 16


def test_codes_that_are_hardly_chosen_start_again() -> None:
    book = codebook.Codebook(np.eye(3, dtype=np.float32), np.array([2.0, 1.0, 0.5], np.float32), np.eye(3) * 2)
    rows = np.full((3, 3), 7.0, np.float32)
    counts, sums = np.array([0.0, 0.0, 60.0], np.float32), np.zeros((3, 3), np.float32)
    kept = [(each != 7).all() for each in codebook.updated(book, counts, sums, rows).embeddings]
    assert kept == [True, False, True]
    kept = [(each != 7).all() for each in codebook.updated(book, counts, sums, rows, restart_below=0.5).embeddings]
    assert kept == [True, True, True]


def lightning(path: Path, arguments: Any) -> None:
    """A checkpoint as Lightning writes it."""
    import torch

    state = {name: torch.from_numpy(array) for name, array in awake(TINY).items()}
    counters = {name: torch.tensor(3) for name in TINY.layout().ignores}
    torch.save({"state_dict": state | counters, "hyper_parameters": {"args": arguments}, "epoch": 1}, path)


def test_checkpoints_of_lightning_are_converted(tmp_path: Path) -> None:
    source, target = tmp_path / "vq.ckpt", tmp_path / "vqvae"
    lightning(source, argparse.Namespace(lr=3e-4))
    commands.convert(Conversion(source=source, target=target, config="vqvae_tiny"))
    made = open_weights(target)
    for name, array in awake(TINY).items():
        np.testing.assert_array_equal(made[name], array)
    part = recognise(target)
    part.check()
    assert part.spec == TINY


def test_checkpoints_of_lightning_tell_what_their_model_is(tmp_path: Path) -> None:
    """Shapes do not tell the strides."""
    source, target = tmp_path / "vq.ckpt", tmp_path / "vqvae"
    told = {"embedding_dim": 8, "n_codes": 16, "n_hiddens": 12, "n_res_layers": 1, "downsample": (4, 2, 2)}
    lightning(source, argparse.Namespace(**told, lr=3e-4, data_path="videos"))
    commands.convert(Conversion(source=source, target=target))
    part = recognise(target)
    part.check()
    assert part.spec == VQVAESpec(**told)
    lightning(source, argparse.Namespace(**told | {"downsample": [3, 2, 2]}))
    with pytest.raises(ConfigError, match=r"^.*vq\.ckpt: downsample = \[3, 2, 2\]: needs powers of 2"):
        commands.convert(Conversion(source=source, target=tmp_path / "other"))
    assert not (tmp_path / "other").exists()


class Touch:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return open, (self.path, "w")


def test_a_checkpoint_executes_nothing(tmp_path: Path) -> None:
    witness = tmp_path / "executed"
    lightning(tmp_path / "vq.ckpt", Touch(witness))
    with suppress(DuosoraError):  # read without it, or refused
        commands.convert(Conversion(source=tmp_path / "vq.ckpt", target=tmp_path / "vqvae", config="vqvae_tiny"))
    assert not witness.exists()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"downsample": [1, 1, 1]}, "needs powers of 2, not all of them 1"),
        ({"downsample": [3, 4, 4]}, "needs powers of 2"),
        ({"downsample": [4, 2, 4]}, "the same for rows and columns"),
        ({"downsample": [4, 4]}, "needs 3 numbers"),
        ({"n_hiddens": 7}, "needs a multiple of 2"),
    ],
)
def test_what_cannot_be_is_refused(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        VQVAESpec.from_config(json.loads(json.dumps(config)))


def test_a_book_of_another_size_is_told(tmp_path: Path) -> None:
    source = tmp_path / "vq.ckpt"
    lightning(source, argparse.Namespace(lr=3e-4))
    (tmp_path / "config.json").write_text(json.dumps(replace(TINY, n_codes=32).to_config()))
    with pytest.raises(DuosoraError, match=r"^\S*vq\.ckpt .*3 mis-shaped \(codebook\.embeddings is 16x8"):
        commands.convert(Conversion(source=source, target=tmp_path / "vqvae", config=str(tmp_path / "config.json")))
    assert not (tmp_path / "vqvae").exists()


@pytest.mark.slow
@pytest.mark.parametrize("downsample", [(2, 2, 2), (1, 2, 2), (2, 1, 1)])
def test_strides_of_2_at_most_work_as_others(backend: Backend, downsample: tuple[int, int, int]) -> None:
    """Upstream's last convolution expects three channels then, and fails."""
    spec = replace(TINY, downsample=downsample)
    vae, video = backend.build(spec, awake(spec)), VideoShape(4, 8, 8)
    with backend.inference():
        latents = vae.encode(backend.asarray(batch().video)).latents
        assert tuple(latents.shape) == (1, 8, *spec.compression.latent(video))
        assert tuple(vae.decode(latents).shape) == (1, 3, *video)


def test_a_denoisers_vectors_are_decoded_without_a_look_up(backend: Backend) -> None:
    weights = awake(TINY)
    vae, between = backend.build(TINY, weights), weights["codebook.embeddings"][:2].mean(0)
    latents = np.broadcast_to(between.reshape(1, 8, 1, 1, 1), (1, 8, 2, 2, 2))
    with backend.inference():
        as_they_are = backend.to_numpy(vae.decode(backend.asarray(latents.copy())))
        codes = vae.codebook.codes(backend.asarray(latents.copy()))
        looked_up = backend.to_numpy(vae.decode_codes(codes))
    assert np.abs(as_they_are - looked_up).max() > 1e-3 * np.abs(looked_up).max()


def test_latents_reach_a_denoiser_scaled(backend: Backend) -> None:
    vae, video = backend.build(TINY, awake(TINY)), batch().video
    scaled = encode_latents(backend, vae, TINY, video, noise=posterior_noise(TINY, VideoShape(4, 8, 8), 1))
    latents = np.moveaxis(unscale_latents(TINY, scaled), 1, -1).reshape(-1, 1, 8)
    assert np.abs(latents - awake(TINY)["codebook.embeddings"]).max(-1).min(1).max() < 1e-6, "all are codes"


def test_sizes_are_multiples_of_the_strides() -> None:
    with pytest.raises(ShapeError, match="num_frames = 5: needs a multiple of 2; the nearest are 4 and 6"):
        TINY.compression.latent(VideoShape(5, 8, 8))
    assert TINY.compression.latent(VideoShape(4, 16, 8)) == (2, 4, 2)
    assert [TINY.compression.longest(frames) for frames in (1, 4, 7)] == [0, 4, 6]
