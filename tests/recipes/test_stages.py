"""The published stages of Open-Sora 1.0 to 1.2: their tables of buckets, what they draw, that they fit the model."""

from pathlib import Path

import pytest

from duosora.core.config.loading import load
from duosora.core.config.training import TrainConfig
from duosora.core.models import stdit, stdit3
from duosora.core.pipelines.following import trained
from duosora.core.recipes import opensora_v1_2
from duosora.core.train.setup.objective import frame_masks
from duosora.core.train.start import check_frozen

STAGES = Path(__file__).parents[2] / "configs/train"
RESOLUTIONS = ["144p", "256", "240p", "360p", "512", "480p", "720p", "1024", "1080p", "2048"]


def stage(number: int) -> TrainConfig:
    return load(STAGES / f"opensora_v1_2_stage{number}.yaml", TrainConfig)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_every_bucket_has_a_size_of_the_recipe(number: int) -> None:
    buckets = stage(number).data.buckets
    assert buckets is not None
    assert list(buckets) == RESOLUTIONS
    for resolution, lengths in buckets.items():
        assert opensora_v1_2.SIZES.resolution(resolution)
        assert "1" in lengths


@pytest.mark.parametrize(
    ("number", "resolution", "frames", "value"),
    [
        (1, "144p", "408", [[1.0, 0.1], 6]),
        (1, "240p", "1", [0.3, 297]),
        (1, "2048", "1", [0.1, 5]),
        (2, "256", "204", [[0.5, 1.0], 5]),
        (2, "512", "102", [[0.2, 0.4], 4]),
        (2, "720p", "51", [0.03, 1]),
        (3, "144p", "102", [1.0, 27]),
        (3, "480p", "408", [0.0, None]),
        (3, "1024", "51", [0.1, 2]),
    ],
)
def test_buckets_are_those_that_were_published(number: int, resolution: str, frames: str, value: list) -> None:
    buckets = stage(number).data.buckets
    assert buckets is not None
    assert buckets[resolution][frames] == value


@pytest.mark.parametrize(
    ("number", "share", "warmup", "steps"), [(1, 0.2, 1000, 30000), (2, 0.2, 0, 23000), (3, 0.25, 1000, 15000)]
)
def test_stages_train_as_they_were_published(number: int, share: float, warmup: int, steps: int) -> None:
    config = trained(stage(number)).config
    assert frame_masks(config.objective) is not None
    assert sum(config.objective.frame_masks.values()) == pytest.approx(share)
    assert (config.learning_rate.peak, config.learning_rate.warmup_steps, config.max_steps) == (1e-4, warmup, steps)
    assert (config.objective.kind, config.objective.timesteps.kind) == ("rflow", "logit_normal")
    assert config.objective.timestep_transform
    assert (config.optimizer.eps, config.optimizer.weight_decay, config.optimizer.max_grad_norm) == (1e-15, 0.0, 1.0)
    assert config.ema is not None
    assert (config.ema.decay, config.parallel.zero, config.compute.recompute_every) == (0.99, 2, 1)
    check_frozen(stdit3.XL_2.layout(), config.start.frozen)


# Open-Sora 1.1


@pytest.mark.parametrize(
    ("number", "resolution", "frames", "value"),
    [
        (1, "144p", "96", [1.0, 1]),
        (1, "256", "64", [0.0, None]),
        (2, "240p", "128", [0.8, 2]),
        (2, "1080p", "1", [0.4, 8]),
        (3, "144p", "1", [1.0, 200]),
        (3, "720p", "32", [0.6, 1]),
    ],
)
def test_buckets_of_1_1_are_those_that_were_published(number: int, resolution: str, frames: str, value: list) -> None:
    config = load(STAGES / f"opensora_v1_1_stage{number}.yaml", TrainConfig)
    assert config.data.buckets is not None
    assert config.data.buckets[resolution][frames] == value


@pytest.mark.parametrize(("number", "steps", "recomputes"), [(1, 57000, 0), (2, 22000, 1), (3, 4000, 1)])
def test_stages_of_1_1_train_as_they_were_published(number: int, steps: int, recomputes: int) -> None:
    config = trained(load(STAGES / f"opensora_v1_1_stage{number}.yaml", TrainConfig)).config
    assert sum(config.objective.frame_masks.values()) == pytest.approx(0.25)
    assert frame_masks(config.objective) is not None
    assert (config.data.frame_interval, config.data.tells_file_rate, config.max_tokens) == (3, True, 200)
    assert (config.max_steps, config.compute.recompute_every) == (steps, recomputes)
    _is_diffusion_as_published(config)


# Open-Sora 1.0


@pytest.mark.parametrize(
    ("size", "denoiser", "video", "clips", "recomputes"),
    [
        ("16x256x256", "stdit_xl_2_16x256", (16, 256, 256, 8), 8, 1),
        ("16x512x512", "stdit_xl_2_16x512", (16, 512, 512, 8), 2, 0),
        ("64x512x512", "stdit_xl_2_64x512", (64, 512, 512, 12), 4, 1),
    ],
)
def test_stages_of_1_0_train_as_they_were_published(
    size: str, denoiser: str, video: tuple[int, ...], clips: int, recomputes: int
) -> None:
    config = trained(load(STAGES / f"opensora_v1_0_{size}.yaml", TrainConfig)).config
    data = config.data
    assert (config.model.denoiser, config.batch_size, config.accumulate) == (denoiser, clips, 64)
    assert (data.frames, data.height, data.width, data.fps) == video
    assert (data.min_frames, data.clean_captions, config.max_tokens) == (video[0], True, 120)
    assert config.compute.recompute_every == recomputes
    assert stdit.PRESETS[denoiser].input_size == (video[0], video[1] // 8, video[2] // 8)
    _is_diffusion_as_published(config)


def _is_diffusion_as_published(config: TrainConfig) -> None:
    objective = config.objective
    assert (objective.kind, objective.schedule, objective.bound) == ("epsilon", "linear", "hybrid")
    assert (objective.timesteps.kind, objective.zero_terminal_snr, objective.snr_gamma) == ("uniform", False, None)
    assert (config.learning_rate.peak, config.learning_rate.warmup_steps) == (2e-5, 0)
    assert (config.optimizer.eps, config.optimizer.weight_decay, config.optimizer.max_grad_norm) == (1e-8, 0.0, 1.0)
    assert config.ema is not None
    assert (config.ema.decay, config.parallel.zero) == (0.9999, 2)
