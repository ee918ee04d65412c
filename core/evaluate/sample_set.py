"""A set of many pictures for statistics such as FID: numbered files, and one archive of all of them.

What picture i shows follows from its number and the seed alone, so neither batches nor ranks change it, and a run that
was ended, however, goes on where it was. The archive has the form that the usual evaluation of ADM reads.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from typing import Any

import numpy as np

from .. import random
from ..config.schema import SampleConfig
from ..config.settings import resolved
from ..data.fingerprints import model_fingerprint
from ..errors import ConfigError, MediaError
from ..io.array_archives import write_npz
from ..io.files import atomic_write, read_json, refuse_unwritable
from ..io.images import read_image, write_image
from ..io.prompts import Prompt, read_prompts
from ..maths.pixels import to_nearest_uint8
from ..parallel.agreement import agreed
from ..pipelines.denoise import Step
from ..pipelines.sample import Sampling
from ..printable import short_name

ORDERS = ("balanced", "random")
"""Every class or prompt in turn; or one drawn for each picture."""
RECORD = "set.json"
"""In the folder of a set: what its pictures follow from."""
OF_THE_WAY = ("backend", "parallel", "output", "batch_size", "media", "samples_per_prompt", "decode")
"""Settings that say how pictures are made, not which."""


class SampleSet:
    """A set of pictures in a folder. No file is written before `run`.

    Raises: as Sampling; ConfigError for what makes no pictures; MediaError for a folder with other pictures, and for
    files that cannot be written.
    """

    def __init__(
        self,
        config: SampleConfig,
        count: int,
        order: str = "balanced",
        archive: Path | None = None,
        overwrite: bool = False,
        overrides: Set[str] = frozenset(),
    ) -> None:
        """count: of the pictures. order: one of ORDERS. archive: None: beside the folder, called like it."""
        if order not in ORDERS:
            raise ConfigError(f"--order {short_name(order)}: needs one of {', '.join(ORDERS)}")
        self.count, self.order, self.overwrite = count, order, overwrite
        self.folder = config.output.folder
        self.archive = archive or self.folder.with_name(f"{self.folder.name}.npz")
        settled = Sampling(config, [], overrides)
        world = settled.ranks.world
        self.wishes = agreed(world, lambda: self._wishes(settled))
        self.record = agreed(world, lambda: self._record(settled))
        agreed(world, self._refuse_others)
        missing = [number for number in range(count) if not self.path(number).exists()]
        # Nobody writes before all have looked.
        prompts = agreed(world, lambda: [self._prompt(number, config.seed) for number in missing])
        self.sampling = Sampling(config, prompts, overrides, models=settled.pipeline)
        if self.sampling.settled.video.frames != 1:
            raise ConfigError(
                f"video.frames = {self.sampling.settled.video.frames}: a sample set holds pictures; set 1"
            )

    def path(self, number: int) -> Path:
        """Of a picture."""
        return self.folder / f"{number:06d}.png"

    def plan(self) -> list[str]:
        """What the run is about to do, a line per subject."""
        left, kinds = len(self.sampling.jobs), len(self.wishes)
        return [
            f"set        {self.count} pictures in {self.folder}, {self.count - left} of them there; {kinds} classes or "
            f"prompts, {self.order}; then {self.archive}",
            *(line for line in self.sampling.plan() if not line.startswith("seeds")),
        ]

    def run(self, on_step: Callable[[Step], None] | None = None) -> Path:
        """Make the pictures that are missing, all processes together, and the archive; gives its path."""
        sampling = self.sampling
        world = sampling.ranks.world
        if sampling.ranks.is_first:
            with atomic_write(self.folder / RECORD, overwrite=True) as temporary:
                temporary.write_text(json.dumps(self.record, indent=1), encoding="utf-8")
        world.barrier()
        for job, latent in sampling.latents(on_step):
            picture = to_nearest_uint8(np.concatenate(list(sampling.pixels(job, latent)), axis=2))[0, 0]
            if sampling.ranks.leads_team:
                write_image(self.folder / f"{job.prompt.name}.png", picture, overwrite=True)
        world.barrier()
        if sampling.ranks.is_first:
            size = sampling.settled.video
            shape = (self.count, size.height, size.width, 3)
            write_npz(self.archive, "arr_0", shape, self._pictures(shape[1:]), self.overwrite)
        world.barrier()
        return self.archive

    def _pictures(self, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
        for number in range(self.count):
            picture = read_image(self.path(number))
            if picture.shape != shape:
                raise MediaError(f"{self.path(number)}: is of another size; remove it, and run the same command again")
            yield picture

    def _wishes(self, settled: Sampling) -> list[str]:
        """The classes or prompts that pictures are made of; of a model of classes, all that are not named."""
        config, spec = settled.config, settled.pipeline.parts.denoiser.spec
        if config.prompts.sources:
            return [prompt.text for prompt in read_prompts(config.prompts.sources)]
        if "label" not in spec.given:
            raise ConfigError("there is no prompt; name some, or files of them, of which pictures are made in turn")
        return [str(number) for number in range(spec.num_classes)]

    def _prompt(self, number: int, seed: int) -> Prompt:
        place = number % len(self.wishes)
        if self.order == "random":
            place = int(random.stream(seed, "wish", sample=number).integers(len(self.wishes)))
        random.check_seed(seed + number)
        return Prompt(text=self.wishes[place], seed=seed + number, name=f"{number:06d}")

    def _record(self, settled: Sampling) -> dict[str, Any]:
        """What its pictures follow from, as JSON gives it back."""
        config = {name: value for name, value in resolved(settled.config).items() if name not in OF_THE_WAY}
        prints = {kind: model_fingerprint(part) for kind, part in settled.pipeline.parts.all.items()}
        config["model"] = prints
        config["prompts"]["sources"] = self.wishes
        dtypes = settled.pipeline.precision
        record = {**config, "order": self.order, "dtype": [dtypes.denoiser, dtypes.text_encoder, dtypes.vae]}
        return dict(json.loads(json.dumps(record)))

    def _refuse_others(self) -> None:
        """Raises: MediaError where the folder holds pictures of other settings, or files cannot be written."""
        refuse_unwritable(self.archive, self.overwrite)
        place = self.folder / RECORD
        refuse_unwritable(place, overwrite=True)
        if not place.exists():
            if self.path(0).exists():
                raise MediaError(f"{self.folder}: holds pictures and no {RECORD}; name another folder")
            return
        try:
            before = dict(read_json(place))
        except (OSError, ValueError, TypeError) as error:
            raise MediaError(f"{place}: cannot be read ({error}); name another folder") from error
        for path in _different(before, self.record):
            raise MediaError(f"{self.folder}: its pictures were made with another {path}; name another folder")


def _different(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """The paths of values that differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted(one.keys() | other.keys()):
            yield from _different(one.get(name), other.get(name), f"{path}.{name}" if path else name)
    elif one != other:
        yield path
