"""WFVAE on torch, where the goldens do not look: formulas in numpy, causality, batches, half precision, gradients."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from duosora.backends.torch.models.wfvae import WFVAE
from duosora.backends.torch.video import (
    double_space_linear,
    double_space_nearest,
    double_time_linear,
    double_time_nearest,
    frame_attention,
    haar_analysis_2d,
    haar_analysis_3d,
    haar_synthesis_2d,
    haar_synthesis_3d,
)
from duosora.core.layout import FreshWeights, GivenWeights
from duosora.core.loading import check_structure
from duosora.core.maths.haar import BANDS_2D, BANDS_3D, Band, taps_2d, taps_3d
from duosora.core.models.wfvae import TINY, WFVAESpec
from duosora.core.seam.backend import get

SMALL: dict[str, Any] = {
    "latent_dim": 4,
    "base_channels": 4,
    "encoder_num_resblocks": 1,
    "decoder_num_resblocks": 1,
    "encoder_energy_flow_hidden_size": 4,
    "decoder_energy_flow_hidden_size": 4,
    "norm_type": "layernorm",
    "scale": (1.0,) * 4,
    "shift": (0.0,) * 4,
}
GROUP_NORM = SMALL | {
    "base_channels": 32,
    "encoder_energy_flow_hidden_size": 32,
    "decoder_energy_flow_hidden_size": 32,
    "norm_type": "groupnorm",
}


def build(spec: WFVAESpec, dtype: str = "fp32") -> WFVAE:
    """The model with fresh weights whose norms are not the identity."""
    generator = np.random.default_rng(0)
    weights = {
        name: value + 0.3 * generator.standard_normal(value.shape).astype(np.float32) if "norm" in name else value
        for name, value in FreshWeights(spec.layout(), seed=0).items()
    }
    return get("torch", "cpu").build(spec, GivenWeights(weights, "test"), dtype)


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


def near(got: Tensor, expected: Tensor | np.ndarray, limit: float = 5e-5) -> None:
    """Closer than `limit` of the expected range; 5e-5 is several times what another order of sums makes in a model."""
    np.testing.assert_allclose(got, expected, rtol=0, atol=limit * float(np.abs(np.asarray(expected)).max()))


@pytest.mark.parametrize(
    "spec",
    [
        WFVAESpec(),
        WFVAESpec(use_attention=False, encoder_num_resblocks=0, decoder_num_resblocks=0, connect_res_layer_num=0),
        WFVAESpec(temporal_level_1=True, encoder_num_resblocks=3, decoder_num_resblocks=1),
    ],
    ids=lambda spec: f"{spec.base_channels}x{spec.latent_dim}{spec.norm_type}",
)
def test_parameters_are_those_of_the_layout(spec: WFVAESpec) -> None:
    check_structure(spec.layout(), get("torch", "cpu").structure(spec))


@pytest.mark.parametrize(
    ("analysis", "bands", "taps"),
    [(haar_analysis_3d, BANDS_3D, taps_3d), (haar_analysis_2d, BANDS_2D, taps_2d)],
    ids=["3d", "2d"],
)
def test_haar_analysis_filters_each_channel_with_each_band_bands_outermost(
    analysis: Callable[[Tensor], Tensor], bands: Sequence[Band], taps: Callable[[Band], np.ndarray]
) -> None:
    x = normal(2, 3, 4, 6, 8)
    expected = []
    for band in bands:
        tap = taps(band)
        blocks = x.numpy()
        if tap.ndim == 2:
            blocks = blocks.reshape(2, 3, 4, 3, 2, 4, 2)
            expected.append(np.einsum("nctiajb,ab->nctij", blocks, tap))
        else:
            blocks = blocks.reshape(2, 3, 2, 2, 3, 2, 4, 2)
            expected.append(np.einsum("ncsziajb,zab->ncsij", blocks, tap))
    near(analysis(x), np.concatenate(expected, axis=1), limit=1e-6)


def test_haar_analysis_drops_an_odd_frame_row_and_column() -> None:
    x = normal(1, 2, 5, 7, 9)
    assert torch.equal(haar_analysis_3d(x), haar_analysis_3d(x[:, :, :4, :6, :8]))


def test_haar_synthesis_inverts_the_analysis_up_to_the_gain_of_rounded_taps() -> None:
    x = normal(1, 3, 4, 6, 8)
    near(haar_synthesis_3d(haar_analysis_3d(x)), 8 * 0.3536**2 * x, limit=1e-6)
    near(haar_synthesis_2d(haar_analysis_2d(x)), x, limit=1e-6)


def half_pixel_linear(x: np.ndarray, axis: int) -> np.ndarray:
    """Twice as many samples by np.interp, which clamps at the ends."""
    size = x.shape[axis]
    places = (np.arange(2 * size) + 0.5) / 2 - 0.5
    return np.apply_along_axis(lambda line: np.interp(places, np.arange(size), line), axis, x)


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_doubling_is_linear_with_half_pixel_centres_or_repeats(frames: int) -> None:
    x = normal(2, 3, frames, 4, 5)
    values = x.numpy().astype(np.float64)
    near(double_time_linear(x), half_pixel_linear(values, 2), limit=1e-6)
    near(double_space_linear(x), half_pixel_linear(half_pixel_linear(values, 3), 4), limit=1e-6)
    assert np.array_equal(double_time_nearest(x), np.repeat(x, 2, axis=2))
    assert np.array_equal(double_space_nearest(x), np.repeat(np.repeat(x, 2, axis=3), 2, axis=4))


def test_attention_mixes_the_positions_of_one_frame_only() -> None:
    q, k, v = (normal(2, 6, 3, 2, 4, seed=seed) for seed in range(3))
    expected = np.empty(v.shape)
    for batch in range(2):
        for frame in range(3):
            queries, keys, values = (t[batch, :, frame].reshape(6, 8).T.double().numpy() for t in (q, k, v))
            scores = np.exp(queries @ keys.T / np.sqrt(6))
            mixed = scores / scores.sum(axis=1, keepdims=True) @ values
            expected[batch, :, frame] = mixed.T.reshape(6, 2, 4)
    near(frame_attention(q, k, v), expected, limit=1e-6)


@pytest.mark.parametrize("temporal_level_1", [False, True])
def test_frames_do_not_depend_on_later_ones(temporal_level_1: bool) -> None:
    vae = build(WFVAESpec(**SMALL, t_interpolation="nearest", temporal_level_1=temporal_level_1))
    step = vae.spec.compression.time
    video = normal(1, 3, 1 + 3 * step, 16, 24)
    changed = video.clone()
    changed[:, :, 1 + step :] += 1
    moments, moments_changed = vae.encode(video).moments["latent"], vae.encode(changed).moments["latent"]
    near(moments_changed[:, :, :2], moments[:, :, :2])
    assert (moments_changed[:, :, 2] - moments[:, :, 2]).abs().max() > 0.01
    near(vae.encode(video[:, :, :1]).moments["latent"], moments[:, :, :1])
    near(vae.decode(moments[:, :4, :1]), vae.decode(moments[:, :4])[:, :, :1])


def test_linear_interpolation_in_time_looks_one_latent_frame_ahead() -> None:
    vae = build(WFVAESpec(**SMALL, t_interpolation="trilinear"))
    latents = normal(1, 4, 5, 2, 3)
    changed = latents.clone()
    changed[:, :, 4] += 1
    difference = (vae.decode(changed) - vae.decode(latents)).abs().amax(dim=(0, 1, 3, 4))
    # Latent frame 3 makes pixel frames 9..12; only the last coefficient frame of those, two pixel frames, looks ahead.
    assert (difference[:11] < 1e-4).all()
    assert (difference[11:] > 1e-3).all()


def test_group_norm_of_2d_blocks_is_taken_per_frame_and_that_of_3d_blocks_over_time() -> None:
    vae = build(WFVAESpec(**GROUP_NORM))
    stream = None
    block_2d, norm_3d = vae.encoder.down1[1], vae.encoder.down2[1].norm1
    clip = normal(1, 32, 3, 4, 4)
    clip[:, :, 1] *= 5
    near(block_2d(clip, stream)[:, :, 1:2], block_2d(clip[:, :, 1:2], stream))
    wide = torch.cat([clip, clip], 1)
    groups = wide.double().reshape(1, 32, -1)
    expected = (groups - groups.mean(-1, keepdim=True)) / torch.sqrt(
        groups.var(-1, keepdim=True, unbiased=False) + 1e-6
    )
    scale, offset = (p.double().reshape(1, 64, 1, 1, 1) for p in (norm_3d.weight, norm_3d.bias))
    near(norm_3d(wide), expected.reshape(wide.shape) * scale + offset, limit=1e-6)


def test_layer_norm_keeps_small_signals_by_an_eps_of_1e_6() -> None:
    norm = build(WFVAESpec(**SMALL)).decoder.norm_out
    x = 1e-3 * normal(1, 4, 2, 3, 3)
    values = x.double()
    expected = (values - values.mean(1, keepdim=True)) / torch.sqrt(values.var(1, keepdim=True, unbiased=False) + 1e-6)
    scale, offset = (p.double().reshape(1, 4, 1, 1, 1) for p in (norm.norm.weight, norm.norm.bias))
    near(norm(x), expected * scale + offset)


def test_a_batch_gives_what_its_clips_give_one_by_one() -> None:
    vae = build(WFVAESpec(**SMALL, t_interpolation="trilinear"))
    video, latents = normal(2, 3, 5, 16, 16), normal(2, 4, 2, 2, 2)
    near(
        vae.encode(video).moments["latent"],
        torch.cat([vae.encode(video[:1]).moments["latent"], vae.encode(video[1:]).moments["latent"]]),
    )
    near(vae.decode(latents), torch.cat([vae.decode(latents[:1]), vae.decode(latents[1:])]))


@pytest.mark.parametrize(("dtype", "limit"), [("bf16", 0.06), ("fp16", 0.01)])
def test_half_precision_stays_near_and_comes_back_as_float32(dtype: str, limit: float) -> None:
    video, latents = normal(1, 3, 5, 16, 16), normal(1, 8, 2, 2, 2)
    exact, half = build(TINY), build(TINY, dtype)
    for got, expected in (
        (half.encode(video).moments["latent"], exact.encode(video).moments["latent"]),
        (half.decode(latents), exact.decode(latents)),
    ):
        assert got.dtype == torch.float32
        near(got, expected, limit)


@pytest.mark.parametrize(
    "options", [SMALL, SMALL | {"temporal_level_1": True}, GROUP_NORM], ids=["4x8x8", "8x8x8", "groups"]
)
def test_every_weight_gets_a_gradient(options: dict[str, Any]) -> None:
    vae = build(WFVAESpec(**options, t_interpolation="trilinear")).requires_grad_(True)
    frames = 1 + 2 * vae.spec.compression.time
    mean = vae.encode(normal(1, 3, frames, 16, 16)).moments["latent"][:, :4]
    vae.decode(mean).square().mean().backward()
    without = [name for name, p in vae.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    # The same added to all keys changes no attention.
    zero = [name for name, p in vae.named_parameters() if p.grad is not None and p.grad.abs().max() < 1e-12]
    assert without == []
    assert [name for name in zero if not name.endswith("k.conv.bias")] == []
