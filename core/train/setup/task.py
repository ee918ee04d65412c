"""What a run trains."""

from __future__ import annotations

from ...config.training import TrainConfig
from ...data.loader import ClipLoader
from ...seam.backend import Backend
from ...seam.ranks import Ranks
from ..loop import Task
from ..start import Start
from .autoencoder import autoencoder_task
from .denoiser import denoiser_task
from .parts import TrainParts


def make_task(
    config: TrainConfig, backend: Backend, parts: TrainParts, start: Start, dtype: str, ranks: Ranks
) -> tuple[Task, ClipLoader | None]:
    """Build the models and open the data, which of several ranks the leaders of teams do.

    Raises: DuosoraError of the part that does not fit, on all ranks.
    """
    if config.autoencoder is not None:
        return autoencoder_task(config, config.autoencoder, backend, parts, start, dtype, ranks)
    return denoiser_task(config, backend, parts, start, dtype, ranks)
