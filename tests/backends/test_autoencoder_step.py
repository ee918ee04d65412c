"""The autoencoder's optimiser steps: who learns, refusals, averages, and state that goes on bit for bit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from duosora.core.errors import ConfigError
from duosora.core.layout import FreshWeights
from duosora.core.models.lpips import LPIPSSpec
from duosora.core.models.patch_discriminator import PatchDiscriminatorSpec
from duosora.core.models.wfvae import TINY
from duosora.core.random import normal
from duosora.core.seam.backend import Backend, get
from duosora.core.seam.training import AdamW, AutoencoderBatch, AutoencoderLosses, Companion, TrainOptions

SPEC = replace(TINY, base_channels=4, encoder_energy_flow_hidden_size=4, decoder_energy_flow_hidden_size=4)
JUDGE = PatchDiscriminatorSpec(base_channels=4, num_layers=2)
LOSSES = AutoencoderLosses(pair_weights={"wavelet": 0.1})
OPTIONS = TrainOptions(optimizer=AdamW(eps=1e-8), max_grad_norm=None)
LR = 1e-3


@pytest.fixture(scope="module", params=["torch", pytest.param("mindspore", marks=pytest.mark.slow)])
def backend(request: pytest.FixtureRequest) -> Backend:
    # Convolutions over time take MindSpore long on a CPU.
    return get(request.param, "cpu")


def make(
    backend: Backend, losses: AutoencoderLosses = LOSSES, options: TrainOptions = OPTIONS, judged: bool = True
) -> Any:
    judge = Companion(JUDGE, FreshWeights(JUDGE.layout(), 1)) if judged else None
    return backend.train_autoencoder(SPEC, FreshWeights(SPEC.layout(), 0), losses, options, judge)


def batch(number: int, update: str = "generator", adversarial: bool = True, side: int = 16) -> AutoencoderBatch:
    samples, latent = range(number * 10, number * 10 + 2), side // 8
    video = np.stack([normal((3, 5, side, side), 1, "video", sample) for sample in samples])
    noise = np.stack([normal((8, 2, latent, latent), 1, "posterior", sample) for sample in samples])
    return AutoencoderBatch(np.tanh(video), {"latent": noise}, update, adversarial)


def test_lpips_adds_its_distance_to_every_pixel_of_a_frame(backend: Backend) -> None:
    spec = LPIPSSpec("alexnet")
    perceptual = Companion(spec, FreshWeights(spec.layout(), 3))
    losses = replace(LOSSES, pair_weights={}, kl_weight=0.0)
    clip = batch(0, adversarial=False, side=32)

    def loss(weight: float) -> float:
        options = replace(losses, perceptual_weight=weight)
        trainer = backend.train_autoencoder(
            SPEC, FreshWeights(SPEC.layout(), 0), options, OPTIONS, perceptual=perceptual
        )
        return trainer.evaluate(clip, use_ema=False)

    vae = backend.build(SPEC, FreshWeights(SPEC.layout(), 0))
    lpips = backend.build(spec, FreshWeights(spec.layout(), 3))
    with backend.inference():
        video, noise = map(backend.asarray, (clip.video, clip.noise["latent"]))
        pixels = vae.reconstruct(video, {"latent": noise}).pixels
        frames = [x.permute(0, 2, 1, 3, 4).reshape(-1, 3, 32, 32) for x in (video, pixels)]
        distance = float(lpips(*frames).mean())
    assert distance > 0.01
    # Losses are sums over the colours and positions of a frame.
    assert loss(0.7) - loss(0.0) == pytest.approx(0.7 * distance * 3 * 32 * 32, rel=1e-3)


def weights(trainer: Any) -> dict[str, np.ndarray]:
    return dict(trainer.saved().weights(use_ema=False))


def judges(trainer: Any) -> dict[str, np.ndarray]:
    return dict(trainer.saved().optimizers["discriminator"][0])


def changed(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> set[str]:
    return {name for name in before if not np.array_equal(before[name], after[name])}


def test_a_generator_step_trains_the_model_and_only_shows_clips_to_the_discriminator(backend: Backend) -> None:
    trainer = make(backend)
    model, judge = weights(trainer), judges(trainer)
    report = trainer.step([batch(0)], LR, ema_decay=0.5)
    assert report.applied
    assert report.updated == "generator"
    assert changed(model, weights(trainer)) == model.keys()
    assert changed(judge, judges(trainer)) == set(JUDGE.statistics)
    average = trainer.saved().weights(use_ema=True)
    name = "decoder.conv_out.weight"
    np.testing.assert_allclose(average[name], (model[name] + weights(trainer)[name]) / 2, rtol=0, atol=1e-7)


def test_a_discriminator_step_trains_the_discriminator_alone(backend: Backend) -> None:
    trainer = make(backend)
    model, judge = weights(trainer), judges(trainer)
    report = trainer.step([batch(0, "discriminator")], LR, ema_decay=0.5)
    assert report.updated == "discriminator"
    assert changed(model, weights(trainer)) == set()
    assert changed(judge, judges(trainer)) == judge.keys()
    assert changed(model, dict(trainer.saved().weights(use_ema=True))) == set()


def test_before_its_start_the_discriminator_has_no_part_in_the_loss(backend: Backend) -> None:
    report = make(backend).step([batch(0, adversarial=False)], LR)
    assert report.parts.keys() == {"loss", "nll", "reconstruction", "kl", "wavelet"}
    parts = report.parts
    expected = parts["reconstruction"] + 1e-6 * parts["kl"] + 0.1 * parts["wavelet"]
    assert parts["loss"] == pytest.approx(expected, rel=1e-6)


def test_the_adversarial_loss_pulls_at_the_last_layer_as_hard_as_the_pixels(backend: Backend) -> None:
    losses = replace(LOSSES, pair_weights={}, kl_weight=0.0, discriminator_weight=1.0)
    share = 1 - OPTIONS.optimizer.betas[0]
    name = "decoder.conv_out.weight"

    def gradient(adversarial: bool) -> np.ndarray:
        trainer = make(backend, losses)
        trainer.step([batch(0, adversarial=adversarial)], 0.0)
        return trainer.first_moments()[name] / share

    pixels = gradient(False)
    both = gradient(True)
    assert np.linalg.norm(both - pixels) == pytest.approx(np.linalg.norm(pixels), rel=1e-3)


def test_the_discriminator_learns_to_tell_clips_from_reconstructions(backend: Backend) -> None:
    trainer = make(backend)
    reports = [trainer.step([batch(number % 3, "discriminator")], 5e-3) for number in range(30)]
    assert reports[-1].loss < 0.5 * reports[0].loss


def test_micro_batches_add_up_to_the_whole_batch_without_a_discriminator(backend: Backend) -> None:
    whole = batch(0, adversarial=False)
    parts = [
        replace(whole, video=whole.video[i : i + 1], noise={"latent": whole.noise["latent"][i : i + 1]}) for i in (0, 1)
    ]
    together, apart = make(backend, judged=False), make(backend, judged=False)
    assert together.step([whole], LR).loss == pytest.approx(apart.step(parts, LR).loss, rel=1e-6)
    for name, gradient in together.first_moments().items():
        # Float32 sums in another order; a key's bias has no gradient but rounding.
        limit = 1e-3 * np.abs(gradient).max() + 1e-5
        np.testing.assert_allclose(apart.first_moments()[name], gradient, rtol=0, atol=limit, err_msg=name)


def test_a_run_that_goes_on_from_a_saved_state_is_the_straight_run(backend: Backend, tmp_path: Path) -> None:
    updates = ["generator", "discriminator"] * 3
    straight = make(backend)
    for number, update in enumerate(updates[:3]):
        straight.step([batch(number, update)], LR, 0.9)
    saved = straight.saved()
    (tmp_path / "state").mkdir()
    saved.save(tmp_path / "state")
    kept, average = weights(straight), dict(saved.weights(use_ema=True))
    resumed = make(backend)
    resumed.optimization.load_weights(kept, use_ema=False)
    resumed.load(tmp_path / "state")
    resumed.load_average(average)
    for number, update in enumerate(updates[3:], start=3):
        one, other = (trainer.step([batch(number, update)], LR, 0.9) for trainer in (straight, resumed))
        assert one == other
    assert changed(weights(straight), weights(resumed)) == set()
    assert changed(judges(straight), judges(resumed)) == set()


def test_a_step_that_is_not_finite_changes_nothing(backend: Backend) -> None:
    trainer = make(backend)
    before = weights(trainer)
    bad = batch(0)
    bad.video[0, 0, 0, 0, 0] = np.nan
    report = trainer.step([bad], LR)
    assert not report.applied
    assert changed(before, weights(trainer)) == set()


@pytest.mark.parametrize(
    ("name", "update"),
    [
        ("torch", "generator"),
        ("torch", "discriminator"),
        pytest.param("mindspore", "discriminator", marks=pytest.mark.slow),
    ],
)
def test_neither_does_it_change_what_the_discriminator_has_measured(name: str, update: str) -> None:
    """MindSpore runs the same lines for both, and takes a minute to build the generator's graphs."""
    trainer = make(get(name, "cpu"))
    assert trainer.step([batch(0, update)], LR).applied
    before = judges(trainer)
    bad = batch(1, update)
    bad.video[0, 0, 0, 0, 0] = np.nan
    assert not trainer.step([batch(2, update), bad], LR).applied
    assert not trainer.step([batch(2, update)], LR, reject_above=0.0).applied
    assert changed(before, judges(trainer)) == set()


def test_a_step_of_several_tries_is_measured_once() -> None:
    """In fp16 it is computed again with a lower scale of the loss. With MindSpore these are the lines of a step that is
    left out."""
    one, other = (make(get("torch", "cpu"), options=replace(OPTIONS, dtype="fp16")) for _ in range(2))
    _set_scale(one, 2.0**8)
    _set_scale(other, 2.0**60)
    for trainer in (one, other):
        assert trainer.step([batch(0, "discriminator")], LR).applied
    statistics = set(JUDGE.statistics)
    assert changed(judges(one), judges(other)) & statistics == set()


def _set_scale(trainer: Any, scale: float) -> None:
    scaler = trainer.discriminator.optimization.scaler
    scaler.load_state_dict({**scaler.state_dict(), "scale": scale})


def test_activations_computed_again_give_the_same_step(backend: Backend) -> None:
    kept, again = make(backend), make(backend, options=replace(OPTIONS, recompute_every=1))
    assert kept.step([batch(0)], LR) == again.step([batch(0)], LR)
    assert changed(weights(kept), weights(again)) == set()


def test_a_frozen_encoder_stays_and_a_frozen_last_layer_is_refused(backend: Backend) -> None:
    trainer = make(backend, options=replace(OPTIONS, frozen=("encoder.",)))
    before = weights(trainer)
    trainer.step([batch(0)], LR)
    assert {name.partition(".")[0] for name in changed(before, weights(trainer))} == {"decoder"}
    with pytest.raises(ConfigError, match="conv_out"):
        make(backend, options=replace(OPTIONS, frozen=("decoder.",)))


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_gives_nearly_the_same_loss(backend: Backend, dtype: str) -> None:
    if (backend.name, dtype) == ("mindspore", "bf16"):
        pytest.skip("MindSpore computes in bf16 on Ascend only")
    exact = make(backend).step([batch(0)], LR)
    half = make(backend, options=replace(OPTIONS, dtype=dtype)).step([batch(0)], LR)
    assert half.applied
    assert half.loss == pytest.approx(exact.loss, rel=0.02)
