"""OpenSoraVAE's spec: config.json there and back, sizes, groups, what the weights' file is checked against."""

import json
from typing import Any

import numpy as np
import pytest

from duosora.core.errors import ConfigError, LayoutError, ShapeError
from duosora.core.layout import FreshWeights, GivenWeights
from duosora.core.loading import checked_weights
from duosora.core.models.finding import family_of
from duosora.core.models.opensora_vae import PRESETS, OpenSoraVAESpec, TemporalVAESpec
from duosora.core.models.sd_vae import PictureVAESpec
from duosora.core.shapes import Grouped, LatentShape, VideoShape

PUBLISHED = {
    "architectures": ["VideoAutoencoderPipeline"],
    "cal_loss": False,
    "freeze_vae_2d": False,
    "from_pretrained": None,
    "micro_frame_size": 17,
    "model_type": "VideoAutoencoderPipeline",
    "scale": [3.85, 2.32, 2.33, 3.06],
    "shift": [-0.1, 0.34, 0.27, 0.98],
    "torch_dtype": "float32",
    "transformers_version": "4.36.2",
    "vae_2d": {
        "from_pretrained": "PixArt-alpha/pixart_sigma_sdxlvae_T5_diffusers",
        "local_files_only": False,
        "micro_batch_size": 4,
        "subfolder": "vae",
        "type": "VideoAutoencoderKL",
    },
    "vae_temporal": {"from_pretrained": None, "type": "VAE_Temporal_SD"},
}
TINY = PRESETS["opensora_vae_tiny"]


def test_the_published_config_is_the_preset() -> None:
    family = family_of(PUBLISHED, "config.json")
    assert family.spec.from_config(PUBLISHED) == PRESETS["opensora_vae_v1_2"]


@pytest.mark.parametrize(
    "spec",
    [
        *PRESETS.values(),
        OpenSoraVAESpec(micro_frame_size=None, micro_batch_size=None, mean=(0.5,), spread=(2.0,)),
        OpenSoraVAESpec(temporal=TemporalVAESpec(channel_multipliers=(1, 3), temporal_downsample=(True,))),
        OpenSoraVAESpec(spatial=PictureVAESpec(block_out_channels=(32, 64)), micro_frame_size=9),
    ],
)
def test_config_there_and_back(spec: OpenSoraVAESpec) -> None:
    config = json.loads(json.dumps(spec.to_config()))
    assert OpenSoraVAESpec.from_config(config) == spec


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"micro_frames": 17}, "micro_frames: unknown key"),
        ({"micro_frame_size": 0}, "micro_frame_size = 0"),
        ({"scale": [1.0, 2.0]}, "shift and scale need one number or 4 each, not 4 and 2"),
        ({"scale": [0.0] * 4}, "scale = 0.0: needs a number from 1e-06"),
        ({"vae_2d": {"type": "VideoAutoencoderKLTemporalDecoder"}}, "vae_2d: type = 'VideoAutoencoderKLTemporal"),
        ({"vae_2d": {"block_out_channels": [100]}}, "100 is not a multiple of norm_num_groups = 32"),
        ({"vae_2d": {"latent_channels": 8}}, "vae_2d.latent_channels = 8 is not vae_temporal.in_out_channels = 4"),
        ({"vae_2d": {"act_fn": "gelu"}}, "vae_2d: act_fn = 'gelu'"),
        ({"vae_temporal": {"temporal_downsample": [True]}}, "temporal_downsample: needs 3 entries"),
        ({"vae_temporal": {"temporal_downsample": [1, 0, 1]}}, "temporal_downsample of true or false"),
        ({"vae_temporal": {"depth": 3}}, "vae_temporal: depth: unknown key"),
    ],
)
def test_a_config_that_cannot_be_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        OpenSoraVAESpec.from_config(PUBLISHED | changes, "vae/config.json")
    assert str(refused.value).startswith("vae/config.json: ")
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("video", "latent"),
    [
        ((1, 240, 426), (1, 30, 53)),
        ((4, 8, 8), (1, 1, 1)),
        ((17, 64, 64), (5, 8, 8)),
        ((18, 64, 64), (6, 8, 8)),
        ((51, 720, 1280), (15, 90, 160)),
        ((102, 144, 256), (30, 18, 32)),
    ],
)
def test_sizes_of_groups(video: tuple[int, int, int], latent: tuple[int, int, int]) -> None:
    compression = PRESETS["opensora_vae_v1_2"].compression
    assert compression.latent(VideoShape(*video)) == latent
    again = compression.video(LatentShape(*latent))
    assert compression.latent(again) == latent
    assert again.frames >= video[0]


def test_a_clip_in_one_group() -> None:
    assert Grouped(None, 4, 8).latent(VideoShape(34, 64, 64)).frames == 9
    assert Grouped(17, 4, 8).latent(VideoShape(34, 64, 64)).frames == 10


@pytest.mark.parametrize("video", [VideoShape(0, 64, 64), VideoShape(1, 7, 64), VideoShape(1, 64, 7)])
def test_a_video_without_a_latent_is_refused(video: VideoShape) -> None:
    with pytest.raises(ShapeError, match="needs at least"):
        Grouped(17, 4, 8).latent(video)


def test_whole_groups() -> None:
    assert Grouped(17, 4, 8).whole_groups(15) == 51
    with pytest.raises(ShapeError, match="whole groups of 5; the nearest are 5 and 10"):
        Grouped(17, 4, 8).whole_groups(7)


def test_chunks_are_whole_groups() -> None:
    spec = PRESETS["opensora_vae_v1_2"]
    assert [tuple(chunk)[:2] for chunk in spec.chunks(12, None)] == [(0, 5), (5, 10), (10, 12)]
    assert [tuple(chunk)[:2] for chunk in spec.chunks(27, 14)] == [(0, 10), (10, 20), (20, 27)]
    assert next(spec.pixel_chunks(14)) == 34
    for refused in (lambda: spec.chunks(12, 4), lambda: next(spec.pixel_chunks(4))):
        with pytest.raises(ConfigError, match="groups of 5 latent frames"):
            refused()


def test_a_clip_in_one_piece_takes_no_chunks() -> None:
    spec = OpenSoraVAESpec(micro_frame_size=None)
    assert [tuple(chunk)[:2] for chunk in spec.chunks(12, None)] == [(0, 12)]
    for refused in (lambda: spec.chunks(12, 5), lambda: next(spec.pixel_chunks(5))):
        with pytest.raises(ConfigError, match="one piece"):
            refused()


def test_scaled_latents_are_upstreams() -> None:
    spec = PRESETS["opensora_vae_v1_2"]
    np.testing.assert_allclose([3.85 * scale for scale in spec.scale[:1]], [1.0])
    one = OpenSoraVAESpec(mean=(0.5,), spread=(2.0,))
    assert one.shift == (0.5,) * 4
    assert one.scale == (0.5,) * 4
    assert one.layout()["scale"].shape == ()


def test_weights_of_another_scale_are_refused() -> None:
    weights = dict(FreshWeights(TINY.layout(), 0))
    list(checked_weights(TINY.layout(), GivenWeights(weights, "vae")))
    weights["scale"] = weights["scale"] * 2
    with pytest.raises(LayoutError, match="vae: scale holds other constants"):
        list(checked_weights(TINY.layout(), GivenWeights(weights, "vae")))
