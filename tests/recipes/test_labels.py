"""The published training of DiT, SiT and Mini Sora: its numbers, and that the files fit their models."""

from pathlib import Path

import pytest

from duosora.core.config.loading import load
from duosora.core.config.training import TrainConfig
from duosora.core.models.finding import open_part
from duosora.core.pipelines.following import trained
from duosora.core.train.setup.denoiser import check_denoiser

CONFIGS = Path(__file__).parents[2] / "configs/train"


@pytest.mark.parametrize("name", ["dit_imagenet", "dit_imagenet_features", "sit_imagenet"])
def test_models_of_classes_train_as_they_were_published(name: str) -> None:
    followed = trained(load(CONFIGS / f"{name}.yaml", TrainConfig))
    config, part = followed.config, open_part("denoiser", followed.config.model.denoiser)
    assert followed.notes == []
    check_denoiser(config, part)
    assert config.batch_size * config.accumulate == 256
    assert config.max_steps == 1400 * (1281167 // 256)
    optimizer, rate, ema = config.optimizer, config.learning_rate, config.ema
    assert (optimizer.betas, optimizer.eps, optimizer.weight_decay) == ((0.9, 0.999), 1e-8, 0.0)
    assert optimizer.max_grad_norm is None
    assert (rate.peak, rate.kind, rate.warmup_steps) == (1e-4, "constant", 0)
    assert ema is not None
    assert (ema.decay, ema.warms_up, ema.start_step) == (0.9999, False, 0)
    assert config.data.caption_dropout == part.spec.class_dropout_prob == 0.1
    assert config.objective.timesteps.kind == "uniform"
    expected = ("velocity", None, "linear") if name.startswith("sit") else ("epsilon", "hybrid", None)
    assert (config.objective.kind, config.objective.bound, config.objective.path) == expected
