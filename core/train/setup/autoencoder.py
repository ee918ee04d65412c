"""The task of training an autoencoder."""

from __future__ import annotations

from ...config.training import AutoencoderSettings, TrainConfig
from ...data.loader import ClipLoader
from ...errors import ConfigError
from ...layout import FreshWeights
from ...models.patch_discriminator import PatchDiscriminatorSpec
from ...parallel.agreement import agreed
from ...seam.backend import Backend
from ...seam.ranks import Ranks
from ...seam.training import Companion
from ..autoencoder import AutoencoderTask, losses_of
from ..start import Start
from .options import train_options
from .parts import TrainParts
from .readers import Readers


def autoencoder_task(
    config: TrainConfig,
    settings: AutoencoderSettings,
    backend: Backend,
    parts: TrainParts,
    start: Start,
    dtype: str,
    ranks: Ranks,
) -> tuple[AutoencoderTask, ClipLoader | None]:
    """As make_task of core.train.setup.task. settings: those of the config."""
    if config.data.autoencoder is None:
        raise ConfigError("data.autoencoder: an autoencoder is trained on clips at a stride; set it, if only to {}")
    if config.caches.text or config.caches.latents:
        raise ConfigError("caches: an autoencoder is trained on the pixels of its clips; leave text and latents out")
    spec = parts.trained.spec
    options = train_options(
        config.compute, config.optimizer, config.parallel, dtype, config.ema is not None, config.start.frozen
    )
    trainer = agreed(
        ranks.world,
        lambda: backend.train_autoencoder(
            spec,
            start.weights,
            losses_of(settings),
            options,
            _discriminator(settings, config.seed),
            parts.perceptual,
            ranks,
        ),
    )
    readers = Readers(
        seed=config.seed, batch_size=config.batch_size, accumulate=config.accumulate, compression=spec.compression
    )
    held_out = agreed(ranks.world, lambda: readers.held_out(config.validation, config.data, ranks))
    loader = agreed(ranks.world, lambda: readers.open_share(config.data, ranks))
    return AutoencoderTask(spec, trainer, backend, settings, config.seed, held_out, ranks), loader


def _discriminator(settings: AutoencoderSettings, seed: int) -> Companion | None:
    judge = PatchDiscriminatorSpec()
    return Companion(judge, FreshWeights(judge.layout(), seed)) if settings.discriminator_factor else None
