"""Whether labelled pictures, or features of them, fit the models of a run; seen before any long work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..config.data import DataSettings
from ..errors import CheckpointError, ConfigError, MediaError
from ..shapes import Compression, VideoShape
from .cache import INDEX_NAME, read_index
from .class_folders import ClassFolders, class_names
from .feature_folder import FeatureFolder
from .features import Features, FeatureSource
from .sources import RecordSource, labelled_folder


def check_labels(
    source: RecordSource,
    settings: DataSettings,
    num_classes: int,
    compression: Compression,
    scaling: Mapping[str, Any],
) -> None:
    """See that a denoiser of so many classes can be trained on a source.

    scaling: of the autoencoder, as core.data.latent_cache.scaling_of; {}: no latents are wanted.
    Raises: ConfigError, MediaError and CheckpointError, naming what does not fit.
    """
    if not isinstance(source, FeatureSource):
        names = class_names(labelled_folder(settings))
        if len(names) > num_classes:
            raise ConfigError(
                f"data.files = {settings.files[0]}: holds {len(names)} classes; the model knows {num_classes}"
            )
        return
    features = source.features
    _check_table(features, num_classes)
    if settings.flip and not features.are_mirrored:
        raise ConfigError(f"data.flip = true: {features.folder} holds no mirrored pictures; set data.flip=false")
    latent = compression.latent(VideoShape(1, settings.height or 0, settings.width or 0))
    if features.size != latent[1:]:
        raise ConfigError(
            f"{features.folder}: holds latents of {_x(features.size)}, while pictures of data.height x width = "
            f"{settings.height} x {settings.width} have {_x(latent[1:])} under this autoencoder"
        )
    for name, value in scaling.items():
        if features.scaling is not None and features.scaling.get(name) != value:
            raise CheckpointError(
                f"{features.folder}: its latents have {name} = {features.scaling.get(name)}, those of model.vae "
                f"{value}; name the autoencoder that it was made with"
            )


def _check_table(features: Features, num_classes: int) -> None:
    labels = features.labels
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(outside):
        first = int(outside[0])
        raise MediaError(f"{features.shown(first)}: class {labels[first]}; the model knows 0 to {num_classes - 1}")


def _x(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes))


def class_table(settings: DataSettings) -> tuple[str, ...]:
    """Names of the classes that a run is trained on, by their numbers; () where there are none, or nobody knows them.

    Raises: MediaError and CheckpointError when the folder cannot be read.
    """
    if settings.kind == "class_folders":
        return class_names(labelled_folder(settings))
    if settings.kind != "features" or not (labelled_folder(settings) / INDEX_NAME).exists():
        return ()
    return tuple(read_index(labelled_folder(settings)).identity.get("classes", ()))


def labelled_names(kind: str, folder: Path) -> list[Any]:
    """By what a set of labelled pictures or features is known again, in plain values; no picture is opened.

    Raises: as opening it.
    """
    if kind == "class_folders":
        return ClassFolders(folder).names
    if (folder / INDEX_NAME).exists():
        index = read_index(folder)
        return [dict(index.identity), dict(index.shards)]
    return FeatureFolder(folder).names
