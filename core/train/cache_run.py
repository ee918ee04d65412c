"""A whole `duosora cache` run: settle everything first, then fill. It sees data and models as the training run will."""

from __future__ import annotations

from ..config.training import TrainConfig
from ..data.cache import CacheReader
from ..data.latent_cache import find_uncached
from ..data.text_cache import uncached_captions
from ..errors import ConfigError
from ..models.finding import Part
from ..pipelines.following import trained
from ..pipelines.settings import default_dtype
from ..seam import backend as backends
from .caching import cache_latents, cache_texts, latent_writer, text_writer
from .setup.frozen import clip_encoder, text_encoder, tokens_read
from .setup.parts import train_parts
from .setup.readers import Readers
from .stored import check_latents_can_be_cached, transform_of


class _CacheRun:
    """What both kinds of caches have in common."""

    def __init__(self, config: TrainConfig) -> None:
        if config.autoencoder is not None:
            raise ConfigError("autoencoder: is trained on the pixels of its clips; caches are for denoisers")
        self.config = config = trained(config).config
        self.backend = backends.get(config.compute.name, config.compute.device)
        self.dtype = config.compute.frozen_dtype or config.compute.dtype or default_dtype(self.backend)
        self.backend.check(self.dtype, config.compute.attention)
        self.parts = train_parts(self.config.model, None, self.config.seed)

    def _plan(self, part: Part | None, data: str, what: str, counts: str, folder: object, dtype: str) -> list[str]:
        assert part is not None
        return [
            f"backend    {self.backend.name} on {self.backend.device}, {self.dtype}",
            f"model      {part.family.title} of {part.layout.num_parameters:,} parameters ({part.source})",
            f"data       {self.config.data.kind} {', '.join(map(str, self.config.data.files))}".rstrip(),
            f"           {data}",
            f"{what:10} {counts}",
            f"folder     {folder}, stored as {dtype}",
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
        )


class TextCacheRun(_CacheRun):
    """Every caption that training may meet through the text encoder; those of the validation set too.

    Raises: DuosoraError of the part that does not fit, before any long work. No file is written before `run`.
    """

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        compute = self.config.compute
        max_tokens = tokens_read(self.parts.trained.spec, self.config.max_tokens)
        self.encoder = text_encoder(compute, self.backend, self.parts, self.dtype, max_tokens)
        self.encoder.part.check()
        self.writer = text_writer(self.config.caches, self.encoder)
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
        cache = cache_texts(self.writer, self.encoder, self.uncached)
        return _outcome(cache, "captions", len(self.uncached))


class LatentCacheRun(_CacheRun):
    """Every clip of the plan through the autoencoder.

    Raises: DuosoraError of the part that does not fit, before any long work. No file is written before `run`.
    """

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        check_latents_can_be_cached(self.config.data, "channels" in self.parts.trained.spec.given)
        self.encoder = clip_encoder(self.config.compute, self.backend, self.parts, self.dtype)
        self.encoder.part.check()
        self.writer = latent_writer(self.config.caches, self.encoder, transform_of(self.config.data, self.config.seed))
        self.loader = self._readers.open(self.config.data)
        clips = map(self.loader.cached_clip, range(len(self.loader.plan)))
        self.to_do = find_uncached(self.writer, clips)

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
        with self.loader:
            cache = cache_latents(self.writer, self.encoder, self.to_do, self.loader.pixels)
        return _outcome(cache, "clips", len(self.to_do.uncached) + len(self.to_do.unreadable))


def _outcome(cache: CacheReader, what: str, num_tried: int) -> str:
    failed = len(cache.index.failed)
    size = f"{cache.nbytes / 2**20:.2f} MiB on the disk"
    line = f"{cache.folder}: {len(cache)} {what}, {num_tried - failed} of them new, {size}"
    return f"{line}; {failed} could not be read, index.json there names them" if failed else line
