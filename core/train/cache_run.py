"""A whole `duosora cache` run: settle everything first, then fill. It sees data and models as the training run will."""

from __future__ import annotations

from ..config.training import TrainConfig
from ..data.cache import CacheReader
from ..data.latent_cache import find_uncached
from ..data.text_cache import uncached_captions
from ..errors import ConfigError
from ..models.finding import Part
from ..models.kinds import tokens_read
from ..parallel.agreement import agreed
from ..parallel.launched import launched
from ..pipelines.following import trained
from ..pipelines.settings import compute_dtype
from ..seam import backend as backends
from ..seam.ranks import ParallelPlan, Ranks
from .caching import cache_latents, cache_texts, latent_writer, text_writer
from .setup.denoiser import check_data, num_classes
from .setup.frozen import clip_encoder, text_encoder
from .setup.parts import train_parts
from .setup.readers import Readers
from .stored import check_latents_can_be_cached, transform_of


class _CacheRun:
    """What both kinds of caches have in common. Processes that were started together share the work."""

    def __init__(self, config: TrainConfig, is_dry: bool = False) -> None:
        """is_dry: for `plan` alone, without waiting for the other processes that were started with this one.

        Raises: DuosoraError of the part that does not fit, before any long work. No file is written before `run`.
        """
        if config.autoencoder is not None:
            raise ConfigError("autoencoder: is trained on the pixels of its clips; caches are for denoisers")
        here, self.config = launched(), config
        split = ParallelPlan(data=here.world)
        self.backend = backends.get(config.compute.name, config.compute.device)
        self.ranks = Ranks(split, here.rank) if is_dry else self.backend.connect(split, config.parallel.meet_seconds)
        agreed(self.ranks.world, self._settle)

    def _settle(self) -> None:
        self.config = config = trained(self.config).config
        self.dtype = config.compute.frozen_dtype or compute_dtype(self.backend, config.compute)
        self.backend.check(self.dtype, config.compute.attention)
        self.parts = train_parts(config.model, None, config.seed)

    def _plan(self, part: Part | None, data: str, what: str, counts: str, folder: object, dtype: str) -> list[str]:
        assert part is not None
        world = self.ranks.plan.world
        return [
            f"backend    {self.backend.name} on {self.backend.device}, {self.dtype}",
            f"model      {part.family.title} of {part.layout.num_parameters:,} parameters ({part.source})",
            f"data       {self.config.data.kind} {', '.join(map(str, self.config.data.files))}".rstrip(),
            f"           {data}",
            f"{what:10} {counts}",
            f"folder     {folder}, stored as {dtype}",
            *([f"processes  {world}, each writes files of its own"] if world > 1 else []),
        ]

    @property
    def _readers(self) -> Readers:
        assert self.parts.vae is not None
        config = self.config
        return Readers(
            seed=config.seed,
            batch_size=config.batch_size,
            accumulate=config.accumulate,
            compression=self.parts.vae.spec.compression,
            patch=self.parts.trained.spec.patch,
            recipe=config.model.recipe,
            num_classes=num_classes(self.parts.trained.spec),
        )


class TextCacheRun(_CacheRun):
    """Every caption that training may meet through the text encoder; those of the validation set too."""

    def _settle(self) -> None:
        super()._settle()
        compute, denoiser = self.config.compute, self.parts.trained
        if self.parts.text_encoder is None:
            raise ConfigError(f"caches.text: {denoiser.source} reads classes, no texts; leave it out")
        max_tokens = tokens_read(denoiser.spec, self.parts.text_encoder.spec, self.config.max_tokens)
        self.encoder = text_encoder(compute, self.backend, self.parts, self.dtype, max_tokens)
        self.encoder.part.check()
        self.writer = text_writer(self.config.caches, self.encoder, self.ranks.world)
        with self._readers.open(self.config.data) as loader:
            self.data, captions = loader.describe(), dict.fromkeys(loader.captions())
            held_out = self._readers.open_held_out(self.config.validation, self.config.data)
        if held_out is not None:
            with held_out:
                captions.update(dict.fromkeys(held_out.captions()))
        self.num_captions, self.uncached = len(captions), uncached_captions(self.writer, captions)

    def plan(self) -> list[str]:
        """What the run is about to do, a line per subject."""
        settings = self.config.caches
        stored = self.num_captions - len(self.uncached)
        counts = f"{self.num_captions} of at most {self.encoder.max_tokens} tokens, {stored} stored already"
        return self._plan(self.parts.text_encoder, self.data, "captions", counts, settings.text, settings.text_dtype)

    def run(self) -> str:
        """Encode and store what is not stored yet; returns what was done, in a line."""
        stored = len(self.writer)
        cache = cache_texts(self.writer, self.encoder, self.uncached, self.ranks.world)
        return _outcome(cache, "captions", stored)


class LatentCacheRun(_CacheRun):
    """Every clip of the plan through the autoencoder."""

    def _settle(self) -> None:
        super()._settle()
        config, autoencoder = self.config, self.parts.vae
        assert autoencoder is not None
        check_data(config, self.parts.trained)
        check_latents_can_be_cached(config.data, "channels" in self.parts.trained.spec.given)
        self.encoder = clip_encoder(config.compute, self.backend, self.parts, self.dtype)
        self.encoder.part.check()
        transform = transform_of(config.data, config.seed, autoencoder.spec)
        self.writer = latent_writer(config.caches, self.encoder, transform, self.ranks.world)
        self.loader = self._readers.open(config.data)
        self.to_do = find_uncached(self.writer, self.loader.cached_views())

    def plan(self) -> list[str]:
        """What the run is about to do, a line per subject."""
        settings, to_do = self.config.caches, self.to_do
        counts = f"{to_do.clips}, {to_do.num_stored} stored already"
        if to_do.unreadable:
            counts += f", {len(to_do.unreadable)} not there"
        return self._plan(
            self.parts.vae, self.loader.describe(), "clips", counts, settings.latents, settings.latents_dtype
        )

    def run(self) -> str:
        """Read, encode and store what is not stored yet; returns what was done, in a line."""
        stored = len(self.writer)
        with self.loader:
            cache = cache_latents(self.writer, self.encoder, self.to_do, self.loader.pixels, self.ranks.world)
        return _outcome(cache, "clips", stored)


def _outcome(cache: CacheReader, what: str, stored: int) -> str:
    """stored: how many were there before."""
    failed = len(cache.index.failed)
    size = f"{cache.nbytes / 2**20:.2f} MiB on the disk"
    line = f"{cache.folder}: {len(cache)} {what}, {len(cache) - stored} of them new, {size}"
    return f"{line}; {failed} could not be read, index.json there names them" if failed else line
