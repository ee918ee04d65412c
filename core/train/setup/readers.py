"""Where the clips of a training run come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...bucketing.table import BucketTable
from ...config.data import DataSettings
from ...config.training import ValidationSettings
from ...data.bucket_order import Bucketing
from ...data.features import FeatureSource
from ...data.labels import check_labels
from ...data.latent_cache import LatentCache
from ...data.loader import ClipLoader
from ...data.sources import RecordSource, open_source
from ...errors import ConfigError, DuosoraError
from ...parallel.agreement import agreed, exchange
from ...recipes import named
from ...seam.ranks import Ranks
from ...shapes import Compression, Patch
from ..held_out import HeldOut
from ..stored import RecordTexts

NO_PATCHES = Patch(1, 1)
"""An autoencoder's clips need not fit any."""
HELD_OUT_SEED = 1
"""Added to the run's, for the clips that it is measured on."""


@dataclass(frozen=True, kw_only=True)
class Readers:
    """Opens the readers of one run."""

    seed: int
    batch_size: int
    """Clips of a micro-batch."""
    accumulate: int
    """Micro-batches of a step, over all readers."""
    compression: Compression
    patch: Patch = NO_PATCHES
    text_channels: int | None = None
    text_pooled: bool = False
    """Of text states, or of the vector of a text, for records that bring them."""
    keeps_dropped: bool = False
    """Captions that are dropped stay, as the denoiser has a null caption of its own."""
    recipe: str = ""
    """Whose sizes the buckets have, where there are some."""
    num_classes: int | None = None
    """That the denoiser knows; None: it reads no labels."""
    scaling: Mapping[str, Any] = field(default_factory=dict)
    """Of the autoencoder's latents, as core.data.latent_cache.scaling_of; {}: a denoiser needs none."""

    def open(
        self, data: DataSettings, latents: LatentCache | None = None, readers: int = 1, reader: int = 0
    ) -> ClipLoader:
        """The clips that the run is trained on, or the share of one of several readers. latents: instead of pixels."""
        source = self._opened(data)
        features = _features_of(source)
        return ClipLoader(
            source,
            data,
            self.seed,
            self.compression,
            self.patch,
            micro_batch=self.batch_size,
            accumulation=self.accumulate,
            readers=readers,
            reader=reader,
            bucketing=Bucketing((self._table(data.buckets),)) if data.buckets is not None else None,
            text_of=self._record_texts(source),
            moments_of=features.latent_of if features else None if latents is None else latents.moments,
            are_scaled=features is not None and features.features.are_scaled,
            keeps_dropped=self.keeps_dropped,
        )

    def open_share(
        self, data: DataSettings, ranks: Ranks, open_latents: Callable[[], LatentCache | None] = lambda: None
    ) -> ClipLoader | None:
        """For the leader of a team its share of the clips; nothing for others."""
        if not ranks.leads_team:
            return None
        plan = ranks.plan
        return self.open(data, open_latents(), plan.data, plan.place(ranks.rank).data)

    def open_held_out(self, validation: ValidationSettings, data: DataSettings) -> ClipLoader | None:
        """The clips that the run is measured on; their captions are never dropped. data: that it is trained on."""
        if not _is_measured(validation, data):
            return None
        settings = (validation.data or data).model_copy(update={"caption_dropout": 0.0})
        try:
            source = self._opened(settings, is_held_out=True)
            features = _features_of(source)
            return ClipLoader(
                source,
                settings,
                self.seed + HELD_OUT_SEED,
                self.compression,
                self.patch,
                micro_batch=self.batch_size,
                mixes_sizes=True,
                bucketing=self._to_measure(settings, validation.batches),
                text_of=self._record_texts(source),
                moments_of=features.latent_of if features else None,
                are_scaled=features is not None and features.features.are_scaled,
            )
        except DuosoraError as error:
            raise type(error)(f"validation: {error}") from error

    def held_out(self, validation: ValidationSettings, data: DataSettings, ranks: Ranks) -> HeldOut | None:
        """What the run is measured on: leaders of teams read their share, and all ranks take part."""
        if not _is_measured(validation, data):
            return None
        loader = agreed(ranks.world, lambda: self.open_held_out(validation, data) if ranks.leads_team else None)
        in_all = exchange(ranks.world, lambda: loader and loader.steps_per_epoch)[0]
        is_in_buckets = (validation.data or data).buckets is not None
        return HeldOut(loader, in_all if is_in_buckets else validation.batches, ranks)

    def _opened(self, data: DataSettings, is_held_out: bool = False) -> RecordSource:
        """Raises: as open_source; ConfigError for labels and features that do not fit the models."""
        source = open_source(data, is_held_out)
        if self.num_classes is not None:
            check_labels(source, data, self.num_classes, self.compression, self.scaling)
        return source

    def _to_measure(self, data: DataSettings, batches: int) -> Bucketing | None:
        return None if data.buckets is None else Bucketing.to_measure(self._table(data.buckets), batches)

    def _table(self, buckets: Mapping[str, Mapping[str, Any]]) -> BucketTable:
        return named(self.recipe).buckets(buckets)

    def _record_texts(self, source: RecordSource) -> RecordTexts | None:
        """For a loader where a record brings text states."""
        if self.text_channels is None:
            return None
        brings_states = any(source.record(number).embeddings is not None for number in range(len(source)))
        return RecordTexts(self.text_channels, self.text_pooled) if brings_states else None


def _features_of(source: RecordSource) -> FeatureSource | None:
    return source if isinstance(source, FeatureSource) else None


def _is_measured(validation: ValidationSettings, data: DataSettings) -> bool:
    if validation.every is not None and validation.data is None and data.kind != "moving_shapes":
        raise ConfigError(f"validation.every = {validation.every}: needs validation.data, or nothing is measured")
    return validation.every is not None
