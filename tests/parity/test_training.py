"""Both backends train alike, and a run may go from one to the other: same batches, weights and state, in float32."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import mindspore
import numpy as np
import pytest
import torch

from duosora.backends.mindspore import layers as mindspore_layers
from duosora.backends.mindspore import streaming as mindspore_streaming
from duosora.backends.mindspore.models import wfvae as mindspore_wfvae
from duosora.backends.mindspore.optimization import make_trainable
from duosora.backends.torch import streaming as torch_streaming
from duosora.backends.torch.models import wfvae as torch_wfvae
from duosora.core.layout import FreshWeights, GivenWeights
from duosora.core.models.opensora_t2v import OpenSoraT2VSpec
from duosora.core.models.opensora_vae import OpenSoraVAESpec, TemporalVAESpec
from duosora.core.models.patch_discriminator import PatchDiscriminatorSpec
from duosora.core.models.sd_vae import PictureVAESpec
from duosora.core.models.wfvae import TINY
from duosora.core.random import normal
from duosora.core.seam.backend import get
from duosora.core.seam.models import Given
from duosora.core.seam.training import (
    AdamW,
    AutoencoderBatch,
    AutoencoderLosses,
    Companion,
    DiffusionBatch,
    TrainOptions,
)
from duosora.core.shapes import VideoShape
from duosora.core.train.objectives import DiffusionObjective

sys.path.append(str(Path(__file__).parents[1] / "backends"))
import flows

pytestmark = pytest.mark.slow
BACKENDS = ("torch", "mindspore")
OPTIONS = TrainOptions(optimizer=AdamW(eps=1e-8))
LR = 1e-3


def spec(num_layers: int) -> OpenSoraT2VSpec:
    return OpenSoraT2VSpec(
        num_layers=num_layers,
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        caption_channels=16,
    )


def denoiser(backend: str, num_layers: int = 4, weights: Mapping[str, np.ndarray] | None = None) -> Any:
    layout = spec(num_layers).layout()
    fresh = FreshWeights(layout, 0)
    awake = {name: fresh[name] + 0.02 * normal(fresh.shape(name), 5, name) for name in fresh}
    return get(backend, "cpu").train_denoiser(spec(num_layers), GivenWeights(dict(weights or awake), "test"), OPTIONS)


def clips(number: int) -> DiffusionBatch:
    samples = range(number * 100, number * 100 + 2)
    mask = np.ones((2, 2, 4, 4), np.float32)
    mask[0, :, :, 2:] = 0
    return DiffusionBatch(
        latents=np.stack([normal((4, 2, 4, 4), 1, "clean", sample) for sample in samples]),
        noise=np.stack([normal((4, 2, 4, 4), 1, "noise", sample) for sample in samples]),
        given=Given(
            text=np.stack([normal((3, 16), 1, "text", sample) for sample in samples]),
            text_mask=np.array([[1, 1, 1], [1, 1, 0]]),
            latent_mask=mask,
        ),
        **DiffusionObjective(snr_gamma=5.0).draw(1, samples, number)._asdict(),
    )


def assert_near(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], limit: float) -> None:
    """Each tensor to a share of its largest value. A key's bias has no gradient but rounding, which Adam enlarges."""
    assert ours.keys() == theirs.keys()
    for name in theirs:
        if not name.endswith(("to_k.bias", "kv_linear.bias", ".k.conv.bias")):
            atol = limit * np.abs(theirs[name]).max()
            np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=atol, err_msg=name)


def flow_denoiser(backend: str) -> Any:
    return get(backend, "cpu").train_denoiser(flows.SPEC, flows.awake(flows.SPEC), OPTIONS)


@pytest.mark.parametrize(
    ("make", "new"), [(denoiser, clips), (flow_denoiser, flows.batch)], ids=["opensora_t2v", "stdit3"]
)
def test_denoisers_learn_alike(make: Callable, new: Callable) -> None:
    one, other = map(make, BACKENDS)
    for number in range(8):
        theirs, ours = (trainer.step([new(number)], LR, 0.9) for trainer in (one, other))
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-4)
    for use_ema in (False, True):
        assert_near(other.saved().weights(use_ema), one.saved().weights(use_ema), 1e-4)


@pytest.mark.parametrize(("begins", "goes_on"), [BACKENDS, BACKENDS[::-1]])
def test_a_denoiser_goes_on_exactly_on_the_other_backend(begins: str, goes_on: str, tmp_path: Path) -> None:
    first = denoiser(begins)
    for number in range(3):
        first.step([clips(number)], LR, 0.9)
    saved = first.saved()
    saved.save(tmp_path)
    second = denoiser(goes_on, weights=saved.weights(use_ema=False))
    second.load(tmp_path)
    second.load_average(saved.weights(use_ema=True))
    for use_ema in (False, True):
        assert_same(second.saved().weights(use_ema), saved.weights(use_ema))
    (arrays, rest), (arrays_before, rest_before) = second.optimization.state(), first.optimization.state()
    assert_same(arrays, arrays_before)
    assert rest == rest_before
    for number in range(3, 6):
        ours, theirs = (trainer.step([clips(number)], LR, 0.9) for trainer in (second, first))
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)
    assert_near(second.saved().weights(False), first.saved().weights(False), 1e-4)


def assert_same(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> None:
    assert ours.keys() == theirs.keys()
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_the_loss_scale_goes_on_on_the_other_backend(tmp_path: Path) -> None:
    options = TrainOptions(optimizer=OPTIONS.optimizer, dtype="fp16", keeps_ema=False)
    layout = spec(1).layout()
    one, other = (get(name, "cpu").train_denoiser(spec(1), FreshWeights(layout, 0), options) for name in BACKENDS)
    bad = clips(0)
    bad.latents[0] = np.inf
    one.step([bad], LR)
    one.saved().save(tmp_path)
    other.load(tmp_path)
    assert other.optimization.scaler.state_dict() == one.optimization.scaler.state_dict()


def test_gradients_of_a_block_agree() -> None:
    gradients = []
    for name in BACKENDS:
        trainer = denoiser(name, num_layers=1)
        trainer.step([clips(0)], lr=0.0)
        gradients.append(dict(trainer.first_moments()))
    assert_near(gradients[1], gradients[0], 1e-5)


def test_gradients_of_a_residual_block_of_the_autoencoder_agree() -> None:
    inputs, outputs, shape = 16, 32, (2, 16, 5, 6, 6)
    x, slope = normal(shape, 0, "x"), normal((2, outputs, *shape[2:]), 0, "slope")
    theirs = torch_wfvae.ResnetBlock3D(inputs, outputs, "layernorm")
    ours = mindspore_wfvae.ResnetBlock3D(inputs, outputs, "layernorm")
    for name, parameter in theirs.named_parameters():
        weight = 0.1 * normal(tuple(parameter.shape), 1, name)
        parameter.data.copy_(torch.from_numpy(weight))
        mindspore_layers.set_parameter(ours, name, mindspore.Tensor(weight))
    (theirs(torch.from_numpy(x), torch_streaming.whole_clip()) * torch.from_numpy(slope)).sum().backward()
    parameters = make_trainable(ours, lambda name: True)

    def along_slope() -> mindspore.Tensor:
        pixels = ours(mindspore.Tensor(x), mindspore_streaming.whole_clip())
        return (pixels * mindspore.Tensor(slope)).sum()

    gradients = mindspore.grad(along_slope, None, list(parameters.values()))()
    assert_near(
        {name: gradient.asnumpy() for name, gradient in zip(parameters, gradients, strict=True)},
        {name: parameter.grad.numpy() for name, parameter in theirs.named_parameters() if parameter.grad is not None},
        1e-5,
    )


VAE = replace(TINY, base_channels=4, encoder_energy_flow_hidden_size=4)
JUDGE = PatchDiscriminatorSpec(base_channels=4, num_layers=2)


def autoencoder(backend: str, weights: Mapping[str, np.ndarray] | None = None) -> Any:
    given = FreshWeights(VAE.layout(), 0) if weights is None else GivenWeights(dict(weights), "test")
    losses = AutoencoderLosses(loss="l2", pair_weights={"wavelet": 0.1})
    judge = Companion(JUDGE, FreshWeights(JUDGE.layout(), 1))
    return get(backend, "cpu").train_autoencoder(VAE, given, losses, OPTIONS, judge)


def pixels(number: int) -> AutoencoderBatch:
    samples = range(number * 10, number * 10 + 2)
    video = np.stack([normal((3, 5, 16, 16), 1, "video", sample) for sample in samples])
    noise = np.stack([normal((8, 2, 2, 2), 1, "posterior", sample) for sample in samples])
    return AutoencoderBatch(np.tanh(video), {"latent": noise}, ("generator", "discriminator")[number % 2], True)


def test_an_autoencoder_and_its_discriminator_learn_alike_and_go_on_on_the_other_backend(tmp_path: Path) -> None:
    one, other = map(autoencoder, BACKENDS)
    for number in range(4):
        theirs, ours = (trainer.step([pixels(number)], LR, 0.9) for trainer in (one, other))
        assert ours.parts == pytest.approx(theirs.parts, rel=1e-3, abs=1e-5)
    judged, judging = (trainer.saved().optimizers["discriminator"][0] for trainer in (other, one))
    assert_near(judged, judging, 1e-3)
    saved = one.saved()
    saved.save(tmp_path)
    again = autoencoder("mindspore", saved.weights(use_ema=False))
    again.load(tmp_path)
    again.load_average(saved.weights(use_ema=True))
    for name, (arrays, rest) in saved.optimizers.items():
        assert_same(again.saved().optimizers[name][0], arrays)
        assert again.saved().optimizers[name][1] == rest
    assert_same(again.saved().weights(use_ema=True), saved.weights(use_ema=True))
    ours, theirs = (trainer.step([pixels(4)], LR, 0.9) for trainer in (again, one))
    assert ours.parts == pytest.approx(theirs.parts, rel=1e-3, abs=1e-5)


OPENSORA = OpenSoraVAESpec(
    spatial=PictureVAESpec(block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=2),
    temporal=TemporalVAESpec(
        filters=8, num_res_blocks=1, channel_multipliers=(1, 2), temporal_downsample=(True,), num_groups=4
    ),
    micro_frame_size=3,
    micro_batch_size=2,
)
STAGES = {
    "stage 1": (AutoencoderLosses(pixel_weight=0, pair_weights={"spatial": 1, "identity": 1}), ("spatial_vae.",)),
    "stage 3": (AutoencoderLosses(loss="l2", kl_weight=1e-3), ()),
}


def frames(count: int, adversarial: bool = False) -> AutoencoderBatch:
    video = VideoShape(count, 16, 16)
    noise = {name: normal((1, *shape), 1, name) for name, shape in OPENSORA.noise_shapes(video).items()}
    return AutoencoderBatch(np.tanh(normal((1, 3, *video), 1, "video")), noise, "generator", adversarial)


@pytest.mark.parametrize("stage", STAGES)
def test_the_stages_of_an_autoencoder_in_two_halves_are_alike(stage: str, tmp_path: Path) -> None:
    losses, frozen = STAGES[stage]
    layout, options = OPENSORA.layout(), replace(OPTIONS, frozen=frozen)
    judge = Companion(JUDGE, FreshWeights(JUDGE.layout(), 1)) if stage == "stage 3" else None

    def make(backend: str) -> Any:
        return get(backend, "cpu").train_autoencoder(OPENSORA, FreshWeights(layout, 0), losses, options, judge)

    one, other = map(make, BACKENDS)
    theirs, ours = (trainer.step([frames(5, judge is not None)], LR, 0.9) for trainer in (one, other))
    assert ours.parts == pytest.approx(theirs.parts, rel=1e-5, abs=1e-5)
    assert_near(other.first_moments(), one.first_moments(), 1e-3)
    for count in (1, 4, 5):
        theirs, ours = (trainer.step([frames(count)], LR, 0.9) for trainer in (one, other))
        assert ours.parts == pytest.approx(theirs.parts, rel=1e-3, abs=1e-5)
    saved = one.saved()
    saved.save(tmp_path)
    again = make("mindspore")
    again.load(tmp_path)
    for name, (arrays, rest) in saved.optimizers.items():
        assert_same(again.saved().optimizers[name][0], arrays)
        assert again.saved().optimizers[name][1] == rest
