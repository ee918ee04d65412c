"""What the backend is told of how a model is trained."""

from __future__ import annotations

from ...config.training import ComputeSettings, OptimizerSettings, TrainingParallelSettings
from ...seam.training import AdamW, TrainOptions
from ..tuning import Tuning


def train_options(
    compute: ComputeSettings,
    optimizer: OptimizerSettings,
    parallel: TrainingParallelSettings,
    dtype: str,
    keeps_ema: bool,
    frozen: tuple[str, ...] = (),
    tuning: Tuning | None = None,
) -> TrainOptions:
    """dtype: of the run. frozen: beginnings of the names of weights that stay as they are. tuning: of a denoiser."""
    return TrainOptions(
        dtype=dtype,
        attention=compute.attention,
        optimizer=AdamW(betas=optimizer.betas, eps=optimizer.eps, weight_decay=optimizer.weight_decay),
        optimizer_name=optimizer.name,
        max_grad_norm=optimizer.max_grad_norm,
        keeps_ema=keeps_ema,
        recompute_every=compute.recompute_every,
        frozen=frozen,
        only=None if tuning is None else tuning.only,
        adapters={} if tuning is None else tuning.adapters,
        compile=compute.compile,
        zero=parallel.zero,
        engine=parallel.engine,
    )
