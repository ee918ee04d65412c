"""The optimiser steps of an OpenSoraVAE: its losses by hand, what learns in each stage, and going on bit for bit."""

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from duosora.core.errors import ConfigError
from duosora.core.layout import Constant, FreshWeights
from duosora.core.maths import gaussian
from duosora.core.models.opensora_vae import OpenSoraVAESpec, TemporalVAESpec
from duosora.core.models.patch_discriminator import PatchDiscriminatorSpec
from duosora.core.models.sd_vae import PictureVAESpec
from duosora.core.random import normal
from duosora.core.seam.backend import Backend, get
from duosora.core.seam.training import AdamW, AutoencoderBatch, AutoencoderLosses, Companion, StepReport, TrainOptions
from duosora.core.shapes import VideoShape

SPEC = OpenSoraVAESpec(
    spatial=PictureVAESpec(block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=2),
    temporal=TemporalVAESpec(
        filters=8, num_res_blocks=1, channel_multipliers=(1, 1, 2), temporal_downsample=(True, True), num_groups=4
    ),
    micro_frame_size=5,
    micro_batch_size=3,
)
JUDGE = PatchDiscriminatorSpec(base_channels=4, num_layers=2)
PIXELS = AutoencoderLosses(pair_weights={"spatial": 0.7, "identity": 0.4}, kl_weight=0.01)
STAGE_1 = replace(PIXELS, pixel_weight=0.0, kl_weight=0.0)
OPTIONS = TrainOptions(optimizer=AdamW(eps=1e-8), max_grad_norm=None)
LR = 1e-3
SPATIAL, TEMPORAL = "spatial_vae.", "temporal_vae."
DECODER = ("spatial_vae.module.decoder.", "spatial_vae.module.post_quant_conv.")


@pytest.fixture(scope="module", params=["torch", pytest.param("mindspore", marks=pytest.mark.slow)])
def backend(request: pytest.FixtureRequest) -> Backend:
    return get(request.param, "cpu")


def make(
    backend: Backend, losses: AutoencoderLosses = PIXELS, options: TrainOptions = OPTIONS, judged: bool = False
) -> Any:
    judge = Companion(JUDGE, FreshWeights(JUDGE.layout(), 1)) if judged else None
    return backend.train_autoencoder(SPEC, FreshWeights(SPEC.layout(), 0), losses, options, judge)


def batch(frames: int = 7, number: int = 0, update: str = "generator", adversarial: bool = False) -> AutoencoderBatch:
    video = VideoShape(frames, 8, 8)
    noise = {
        name: np.stack([normal(shape, 1, name, number, clip) for clip in range(2)])
        for name, shape in SPEC.noise_shapes(video).items()
    }
    pixels = np.stack([normal((3, *video), 1, "video", number, clip) for clip in range(2)])
    return AutoencoderBatch(np.tanh(pixels), noise, update, adversarial)


def weights(trainer: Any) -> dict[str, np.ndarray]:
    return dict(trainer.saved().weights(use_ema=False))


def changed(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> set[str]:
    return {name for name in before if not np.array_equal(before[name], after[name])}


def learned(*without: str) -> set[str]:
    """Names of the weights, but for those that begin so."""
    layout = SPEC.layout()
    names = {name for name in layout if not isinstance(layout[name].init, Constant)}
    return {name for name in names if not name.startswith(without)} if without else names


@pytest.mark.parametrize("frames", [1, 7])
def test_the_losses_are_upstreams(backend: Backend, frames: int) -> None:
    """Sums of absolute differences by clips and frames, the divergence by clips; the identity of single frames only."""
    clip = batch(frames)
    parts = make(backend).step([clip], 0.0).parts
    with backend.inference():
        vae = backend.build(SPEC, FreshWeights(SPEC.layout(), 0))
        noise = {name: backend.asarray(values) for name, values in clip.noise.items()}
        made = vae.reconstruct(backend.asarray(clip.video), noise)
        pixels, latents, moments = (backend.to_numpy(x) for x in (made.pixels, made.latents, made.moments["temporal"]))
        frames_latents, rebuilt = (backend.to_numpy(x) for x in made.pairs["spatial"])
    mean, log_variance = gaussian.split_moments(moments)
    expected = {
        "nll": np.abs(clip.video - pixels).sum() / (2 * frames),
        "kl": 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance).sum() / 2,
        "spatial": np.abs(frames_latents - rebuilt).sum() / (2 * frames),
    }
    if frames == 1:
        expected["identity"] = np.abs(frames_latents - latents).sum() / 2
    assert parts.keys() == expected.keys() | {"loss", "reconstruction"}
    for name, value in expected.items():
        assert parts[name] == pytest.approx(float(value), rel=1e-5), name
    weighed = {"nll": 1.0, "kl": 0.01, "spatial": 0.7, "identity": 0.4}
    assert parts["loss"] == pytest.approx(sum(weighed[name] * value for name, value in expected.items()), rel=1e-5)


def test_all_of_it_learns_from_pixels(backend: Backend) -> None:
    trainer = make(backend, replace(PIXELS, pair_weights={}))
    before = weights(trainer)
    assert trainer.step([batch()], LR, 0.5).applied
    assert changed(before, weights(trainer)) == learned() == before.keys()


@pytest.mark.parametrize("frames", [1, 7])
@pytest.mark.parametrize(("frozen", "stays"), [((SPATIAL,), (SPATIAL,)), ((), DECODER)], ids=["stage 1", "stage 2"])
def test_without_pixels_the_decoder_of_frames_neither_learns_nor_runs(
    backend: Backend, frozen: tuple[str, ...], stays: tuple[str, ...], frames: int
) -> None:
    trainer = make(backend, STAGE_1, replace(OPTIONS, optimizer=AdamW(eps=1e-8, weight_decay=0.1), frozen=frozen))

    def runs(latents: Any) -> None:
        raise AssertionError("the decoder of frames runs")

    trainer.model.spatial_vae.decode = runs
    before = weights(trainer)
    report = trainer.step([batch(frames)], LR, 0.5)
    assert changed(before, weights(trainer)) == learned(*stays)
    assert changed(before, dict(trainer.saved().weights(use_ema=True))) == learned(*stays)
    assert report.parts.keys() == {"loss", "kl", "spatial"} | ({"identity"} if frames == 1 else set())


def test_the_autoencoder_of_frames_learns_by_itself(backend: Backend) -> None:
    """The pair "frames" is compared as pixels are, and what it does not need stays as it is."""
    losses = AutoencoderLosses(pixel_weight=0.0, pair_weights={"frames": 0.5}, squared_weight=2.0, kl_weight=0.0)
    decoder = ("temporal_vae.decoder.", "temporal_vae.post_quant_conv.")
    for frozen, stays in (((), decoder), ((TEMPORAL,), (TEMPORAL,))):
        trainer, clip = make(backend, losses, replace(OPTIONS, frozen=frozen)), batch()
        before = weights(trainer)
        report = trainer.step([clip], LR)
        assert changed(before, weights(trainer)) >= learned(*stays, "temporal_vae.encoder.", "temporal_vae.quant_conv.")
        assert {name for name in changed(before, weights(trainer)) if name.startswith(stays)} == set()
    with backend.inference():
        vae = backend.build(SPEC, FreshWeights(SPEC.layout(), 0))
        noise = {name: backend.asarray(values) for name, values in clip.noise.items()}
        given, made = vae.reconstruct(backend.asarray(clip.video), noise, False, frozenset({"frames"})).pairs["frames"]
        apart = backend.to_numpy(made) - backend.to_numpy(given)
    expected = (np.abs(apart) + 2 * apart**2).sum() / (2 * 7)
    assert report.parts["frames"] == pytest.approx(float(expected), rel=1e-5)
    assert report.loss == pytest.approx(0.5 * float(expected), rel=1e-5)


def test_noise_does_not_drown_fresh_latents(backend: Backend) -> None:
    with backend.inference():
        vae = backend.build(SPEC, FreshWeights(SPEC.layout(), 0))
        moments = vae.encode(backend.asarray(batch().video)).moments
        for name, both in moments.items():
            _, log_variance = gaussian.split_moments(backend.to_numpy(both))
            assert log_variance.mean() < -4, name


def test_the_adversarial_loss_pulls_at_the_last_temporal_layer_as_hard_as_the_pixels(backend: Backend) -> None:
    losses = AutoencoderLosses(kl_weight=0.0, discriminator_weight=1.0)
    share = 1 - OPTIONS.optimizer.betas[0]

    def gradient(adversarial: bool) -> np.ndarray:
        trainer = make(backend, losses, judged=True)
        trainer.step([batch(adversarial=adversarial)], 0.0)
        return trainer.first_moments()["temporal_vae.decoder.conv_out.conv.weight"] / share

    pixels = gradient(False)
    assert np.linalg.norm(gradient(True) - pixels) == pytest.approx(np.linalg.norm(pixels), rel=1e-3)
    with pytest.raises(ConfigError, match=r"weighed at temporal_vae.decoder.conv_out"):
        make(backend, losses, replace(OPTIONS, frozen=(TEMPORAL,)), judged=True)


def test_the_discriminator_judges_clips_of_single_frames_too(backend: Backend) -> None:
    trainer = make(backend, judged=True)
    before = weights(trainer)
    assert trainer.step([batch(1, update="discriminator", adversarial=True)], LR).applied
    assert changed(before, weights(trainer)) == set()
    assert trainer.step([batch(1, adversarial=True)], LR).parts["adversarial_weight"] > 0


STAGES = {
    "stage 1": (STAGE_1, (SPATIAL,), [1, 7, 7, 1]),
    "stage 2": (STAGE_1, (), [7, 1, 7, 7]),
    "stage 3": (PIXELS, (), [3, 7, 1, 6]),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_that_goes_on_from_a_saved_state_is_the_straight_run(
    backend: Backend, tmp_path: Path, stage: str
) -> None:
    losses, frozen, lengths = STAGES[stage]
    options = replace(OPTIONS, frozen=frozen)
    straight = make(backend, losses, options)
    for number, frames in enumerate(lengths[:2]):
        straight.step([batch(frames, number)], LR, 0.9)
    saved = straight.saved()
    saved.save(tmp_path)
    kept, average = weights(straight), dict(saved.weights(use_ema=True))
    resumed = make(backend, losses, options)
    resumed.optimization.load_weights(kept, use_ema=False)
    resumed.load(tmp_path)
    resumed.load_average(average)
    for number, frames in enumerate(lengths[2:], start=2):
        one, other = (trainer.step([batch(frames, number)], LR, 0.9) for trainer in (straight, resumed))
        assert one == other
    assert changed(weights(straight), weights(resumed)) == set()


def test_activations_computed_again_give_the_same_step(backend: Backend) -> None:
    kept, again = make(backend), make(backend, options=replace(OPTIONS, recompute_every=1))
    assert kept.step([batch()], LR) == again.step([batch()], LR)
    assert changed(weights(kept), weights(again)) == set()


def test_micro_batches_add_up_to_the_whole_batch(backend: Backend) -> None:
    whole = batch()
    parts = [
        replace(whole, video=whole.video[i : i + 1], noise={name: x[i : i + 1] for name, x in whole.noise.items()})
        for i in range(2)
    ]
    together, apart = make(backend), make(backend)
    assert together.step([whole], LR).loss == pytest.approx(apart.step(parts, LR).loss, rel=1e-6)
    for name, gradient in together.first_moments().items():
        limit = 1e-3 * np.abs(gradient).max() + 1e-5
        np.testing.assert_allclose(apart.first_moments()[name], gradient, rtol=0, atol=limit, err_msg=name)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_gives_nearly_the_same_loss(dtype: str) -> None:
    torch = get("torch", "cpu")  # on a CPU, MindSpore needs a minute for fp16

    def step(dtype: str) -> StepReport:
        report: StepReport = make(torch, options=replace(OPTIONS, dtype=dtype)).step([batch()], LR)
        return report

    exact, half = step("fp32"), step(dtype)
    assert half.applied
    assert half.loss == pytest.approx(exact.loss, rel=0.02)


def test_all_blocks_can_be_computed_again(backend: Backend) -> None:
    step = import_module(f"duosora.backends.{backend.name}.autoencoder_step")
    vae = backend.build(SPEC, FreshWeights(SPEC.layout(), 0))
    halves = SPEC.blocks()
    assert len(list(step.blocks_of(vae))) == len(halves["encoder"]) + len(halves["decoder"])
