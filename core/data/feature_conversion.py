"""Mini Sora's folders of features to a cache of latents, and a cache of labelled pictures to such folders."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import numpy as np

from .. import random
from ..errors import MediaError
from ..io.files import TEMPORARY, refuse_unwritable
from ..maths import gaussian
from ..progress import progress
from .cache import INDEX_NAME, SHARD_BYTES, CacheWriter
from .feature_folder import ENDING, FEATURES, LABELS
from .features import FolderFeatures
from .fingerprints import json_fingerprint
from .labelled_cache import LabelledCache
from .latent_cache import SCALED, label_note

NAME = "imagenet256"
"""What Mini Sora calls its two folders."""


def convert_features(source: Path, target: Path, seed: int = 0, shard_bytes: int = SHARD_BYTES) -> str:
    """Whichever of the two a source is, as the other; returns what was done, in a line. seed: of write_folders.

    Raises: MediaError and CheckpointError when the source cannot be read or the target be written.
    """
    if (source / INDEX_NAME).exists():
        count = write_folders(LabelledCache(source), target, seed)
        return f"{target}: {count} latents with their classes, as {NAME}{FEATURES} and {NAME}{LABELS}"
    count = write_cache(FolderFeatures(source), target, shard_bytes)
    return f"{target}: a cache of {count} latents with their classes"


def write_cache(features: FolderFeatures, target: Path, shard_bytes: int = SHARD_BYTES) -> int:
    """Store features as a cache of scaled latents; it goes on where it was ended. Returns how many there are."""
    writer = CacheWriter(target, {"kind": SCALED}, shard_bytes=shard_bytes)
    writer.begin()
    for number in progress(range(len(features)), "storing latents", "latent"):
        name, label, latent = features.name(number), int(features.labels[number]), features.latent(number)
        key = json_fingerprint([name, label, sha256(latent.tobytes()).hexdigest()])
        if key not in writer:
            writer.add(key, latent, str(features.folder / name), label_note(name, label, False))
    writer.close()
    return len(features)


def write_folders(cache: LabelledCache, target: Path, seed: int = 0) -> int:
    """Write a cache in Mini Sora's form, numbered by the place of each picture. Returns how many there are.

    As there, each latent is drawn once, and once it is decided whether it is mirrored, if the cache holds both; seed:
    of these draws. What was drawn before stays as it is, under its name.
    Raises: MediaError when the target exists or cannot be written.
    """
    with _folder(target) as temporary:
        features, labels = temporary / f"{NAME}{FEATURES}", temporary / f"{NAME}{LABELS}"
        features.mkdir()
        labels.mkdir()
        for number in progress(range(len(cache)), "writing latents", "latent"):
            kept = cache.are_scaled and cache.name(number).endswith(ENDING)
            name = cache.name(number) if kept else f"{number}{ENDING}"
            np.save(features / name, _drawn(cache, number, seed)[None, :, 0])
            np.save(labels / name, cache.labels[number : number + 1].astype(np.int64))
    return len(cache)


def _drawn(cache: LabelledCache, number: int, seed: int) -> np.ndarray:
    """A scaled latent (C, 1, h, w) of a picture."""
    is_mirrored = cache.are_mirrored and bool(random.stream(seed, "flip", number).integers(2))
    latent = cache.latent(number, is_mirrored)
    if cache.scaling is None:
        return latent
    scale, shift = (np.array(cache.scaling[name], np.float32).reshape(-1, 1, 1, 1) for name in ("scale", "shift"))
    if len(latent) == 2 * len(scale):
        noise = random.normal((len(scale), *latent.shape[1:]), seed, "posterior", number)
        latent = gaussian.sample(latent[None], noise[None])[0]
    return ((latent - shift) * scale).astype(np.float32)


@contextmanager
def _folder(target: Path) -> Iterator[Path]:
    """A new folder that becomes the target when the block ends without an error."""
    if os.path.lexists(target):
        raise MediaError(f"{target}: exists already and is kept; choose another name")
    refuse_unwritable(target, overwrite=False)
    temporary = target.with_name(f"{TEMPORARY}{secrets.token_hex(4)}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.replace(target)
    except OSError as error:
        raise MediaError(f"{target}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
