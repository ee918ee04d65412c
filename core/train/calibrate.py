"""Scale and shift of an autoencoder's latents, measured on clips.

A diffusion model is trained best on latents of mean 0 and deviation 1 in each channel. Clips are encoded as that
training encodes them, in the autoencoder's groups; upstream measured Open-Sora 1.2's in one piece each, which differs
where a group begins.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..config.training import TrainConfig
from ..data.loader import ClipLoader
from ..data.sources import open_source
from ..errors import ConfigError
from ..io.files import atomic_write
from ..io.weights import WeightsReader, open_file, open_weights, save_weights
from ..maths import gaussian
from ..models.finding import CONFIG_FILE, open_part
from ..models.kinds import AutoencoderSpec
from ..models.run_folders import MANIFEST
from ..pipelines.settings import chosen_dtype
from ..seam import backend as backends
from .encoders import ClipEncoder
from .setup.readers import NO_PATCHES

LEAST_DEVIATION = 1e-6
"""Of a channel's latents; what is less is rounding."""


class LatentStatistics(NamedTuple):
    """Of samples of the latents, per channel (C,)."""

    mean: np.ndarray
    deviation: np.ndarray
    num_clips: int


def measure(moments: Iterable[np.ndarray], are_drawn: bool = True) -> LatentStatistics:
    """Mean and deviation of what is drawn from moments (2C, t, h, w) of clips; every position counts alike.

    are_drawn: False for an autoencoder that draws nothing, which gives latents (C, t, h, w) instead.

    Raises: ConfigError when there is no clip.
    """
    count, num_clips = 0, 0
    total = squares = np.zeros(1)
    for clip in moments:
        values = clip[None].astype(np.float64)
        mean, log_variance = gaussian.split_moments(values) if are_drawn else (values, -np.inf)
        total = total + mean.sum(axis=(0, 2, 3, 4))
        squares = squares + (mean**2 + np.exp(log_variance)).sum(axis=(0, 2, 3, 4))
        count, num_clips = count + mean[0, 0].size, num_clips + 1
    if not count:
        raise ConfigError("there is no clip to measure latents on; look at data and --clips")
    center = total / count
    return LatentStatistics(center, np.sqrt(squares / count - center**2), num_clips)


def write_scale(folder: Path, spec: AutoencoderSpec, statistics: LatentStatistics) -> AutoencoderSpec:
    """Put the scale and shift that follow from statistics into a model folder's config.json; returns the new spec.

    Weights that hold them too, as published ones of some families do, are written anew with the same numbers.
    Raises: ConfigError when a channel is the same everywhere, which no scale gives a deviation of 1.
    """
    if still := np.flatnonzero(~(statistics.deviation > LEAST_DEVIATION)).tolist():
        raise ConfigError(
            f"{folder}: the latents of {len(still)} of {len(statistics.deviation)} channels (the first is {still[0]}) "
            f"are the same in all {statistics.num_clips} clips; train the autoencoder on, or measure more clips"
        )
    calibrated: AutoencoderSpec = spec.calibrated(statistics.mean.tolist(), statistics.deviation.tolist())
    before, after = spec.layout(), calibrated.layout()
    changed = {name: after.fresh_weight(name, 0) for name in after if after[name] != before[name]}
    with atomic_write(folder / CONFIG_FILE, overwrite=True) as temporary:
        temporary.write_text(json.dumps(calibrated.to_config(), indent=1), encoding="utf-8")
        if changed:
            _write_constants(open_weights(folder), changed)
    return calibrated


def _write_constants(weights: WeightsReader, constants: Mapping[str, np.ndarray]) -> None:
    """Write the files anew that hold some of them; of a model in one file, that one gets them in any case."""
    for file in weights.files:
        held = open_file(file)
        own = {name: array for name, array in constants.items() if name in held or len(weights.files) == 1}
        if own:
            save_weights(file, _With(held, own), held.metadata, overwrite=True)


class _With(Mapping[str, np.ndarray]):
    """The tensors of a file, some of them with other values."""

    def __init__(self, weights: WeightsReader, changed: Mapping[str, np.ndarray]) -> None:
        self.weights, self.changed = weights, changed

    def __getitem__(self, name: str) -> np.ndarray:
        return self.changed[name] if name in self.changed else self.weights[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self.weights, *self.changed)))

    def __len__(self) -> int:
        return len(self.weights.keys() | self.changed.keys())

    def shape(self, name: str) -> tuple[int, ...]:
        return self.changed[name].shape if name in self.changed else self.weights.shape(name)

    def dtype(self, name: str) -> np.dtype[Any]:
        return self.changed[name].dtype if name in self.changed else self.weights.dtype(name)


def calibrate_folder(folder: Path, config: TrainConfig, num_clips: int) -> tuple[AutoencoderSpec, LatentStatistics]:
    """Measure the autoencoder in a folder on the clips that a training run reads, and write its config.json anew.

    Raises: DuosoraError of the part that does not fit.
    """
    if config.data.buckets is not None:
        raise ConfigError("data.buckets: calibrate measures clips of one size; set it to null, and height and width")
    backend = backends.get(config.compute.name, config.compute.device)
    part = open_part("vae", str(folder))
    if part.is_fresh or not folder.is_dir():
        raise ConfigError(f"{folder}: calibrate needs the folder of a trained autoencoder")
    folder = Path(part.source)
    if (folder.absolute().parent / MANIFEST).is_file():
        raise ConfigError(
            f"{folder}: is part of a checkpoint, which would count as damaged then; calibrate a copy of it"
        )
    part.check()
    dtype = chosen_dtype(backend, config.compute.frozen_dtype, "compute.frozen_dtype", config.compute.allow_slow_dtype)
    encoder = ClipEncoder(backend, part, dtype, config.compute.encode_chunk)
    with ClipLoader(
        open_source(config.data), config.data, config.seed, part.spec.compression, NO_PATCHES, micro_batch=1
    ) as loader:
        pixels = (clips.pixels[0] for step in loader.batches() for clips in step if clips.pixels is not None)
        statistics = measure(
            (encoder.moments(clip) for clip in islice(pixels, num_clips)), are_drawn=bool(encoder.spec.posteriors)
        )
    return write_scale(folder, part.spec, statistics), statistics
