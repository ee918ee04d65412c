"""What `import duosora` gives: `load` settles a pipeline, calling it makes videos, and `save` writes them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, overload

import numpy as np

from .config.loading import changed
from .config.schema import OutputSettings, SampleConfig, SamplerSettings
from .config.settings import list_settings
from .errors import ConfigError, DuosoraError, OutOfMemory
from .io.paths import given_path
from .io.prompts import read_prompts
from .memory import out_of_memory, savings
from .parallel.launched import launched
from .pipelines.denoise import Step
from .pipelines.gathering import gathered, name_of, named
from .pipelines.sample import Job, Sampling
from .pipelines.sample_files import refuse_sample, write_sample
from .pipelines.text_to_video import TextToVideo
from .printable import short_name

log = logging.getLogger("duosora")
SAID_OTHERWISE = {
    "prompts.sources": "prompts are what the pipeline is called with",
    "output.folder": "save() is told the file",
    "output.overwrite": "save() is told whether to replace files",
}
"""Settings of the command line that have no use here, and why."""
OF_LOADED = ("model", "backend", "parallel")
"""Groups that say what is loaded, which calls cannot change."""


def load(
    name: str | os.PathLike[str],
    models: str | os.PathLike[str] = "models",
    backend: str | None = None,
    device: str = "auto",
    settings: Mapping[str, Any] | None = None,
    keeps_text_encoder: bool = True,
) -> Pipeline:
    """A pipeline whose models are found and checked; they are loaded when they are first needed.

    name: a recipe ("tiny", "opensora_plan_v1_3"), a folder of a denoiser or of models, a run, a preset, or a YAML file.
    models: a folder in which the models are looked for that nothing names. backend: "torch" or "mindspore"; by
    default the first that is installed. settings: as `--set` has them, {"sampler.steps": 20} or {"steps": 20}.
    keeps_text_encoder: False lets go of it when the prompts of a call are encoded, so that a small device holds the
    denoiser.
    Raises: DuosoraError of the part that does not fit.
    """
    if launched().world > 1:
        raise ConfigError(
            f"load works in one process, and {launched().world} were started; `duosora sample` works in many"
        )
    said = {"backend.name": backend, "backend.device": None if device == "auto" else device}
    changes = {path: value for path, value in said.items() if value is not None} | _paths(settings or {})
    config = gathered(changed(named(name_of(name)), changes), Path(name_of(models)))
    with _memory_told():
        return Pipeline(config, keeps_text_encoder)


class Pipeline:
    """Makes videos from prompts. Calls share the models that are loaded."""

    def __init__(self, config: SampleConfig, keeps_text_encoder: bool = True) -> None:
        self._keeps_text_encoder = keeps_text_encoder
        self._told: set[str] = set()
        sampling = Sampling(config, prompts=[])
        self.models: TextToVideo = sampling.pipeline
        """The models and what they do, for those who write their own loop: encode, noise, model, decode."""
        # The same ones are meant when a run that is still going has written another checkpoint.
        self._config = config.model_copy(update={"model": sampling.config.model})
        if "channels" not in self.models.parts.denoiser.spec.given:  # whose size may follow a picture
            self.models.sizes(sampling.settled.video)
        self._tell(sampling)

    @overload
    def __call__(
        self,
        prompts: str,
        seed: int | None = ...,
        *,
        settings: Mapping[str, Any] | None = ...,
        on_step: Callable[[Step], None] | None = ...,
        **short: Any,
    ) -> Video: ...
    @overload
    def __call__(
        self,
        prompts: Sequence[str],
        seed: int | None = ...,
        *,
        settings: Mapping[str, Any] | None = ...,
        on_step: Callable[[Step], None] | None = ...,
        **short: Any,
    ) -> list[Video]: ...
    def __call__(
        self,
        prompts: str | Sequence[str],
        seed: int | None = None,
        *,
        settings: Mapping[str, Any] | None = None,
        on_step: Callable[[Step], None] | None = None,
        **short: Any,
    ) -> Video | list[Video]:
        """Make the video of a prompt, or those of several as a list.

        settings, and all further arguments: of this call only, by their paths or by their last names where those are
        clear: frames=51, steps=20, guidance=7.0, images=["cat.png"]. on_step: is told of each network call.
        Raises: DuosoraError of what does not fit before any long work; NumericsError; OutOfMemory.
        """
        changes = _paths(settings or {}) | _paths(short) | ({} if seed is None else _paths({"seed": seed}))
        for path in changes:
            if path.partition(".")[0] in OF_LOADED:
                raise ConfigError(f"settings: {path}: is what was loaded; load another pipeline with it")
        with _memory_told():
            sampling = self._asked(prompts, changed(self._config, changes))
            videos = [_video(sampling, job, latent) for job, latent in sampling.latents(on_step)]
        return videos[0] if isinstance(prompts, str) else videos

    def release(self) -> None:
        """Let go of the loaded models; the next call loads them again."""
        for kind in tuple(self.models.loaded):
            self.models.release(kind)

    def _asked(self, prompts: str | Sequence[str], config: SampleConfig) -> Sampling:
        sources = [prompts] if isinstance(prompts, str) else prompts
        if not isinstance(sources, list | tuple) or not all(isinstance(source, str) for source in sources):
            raise ConfigError("prompts: expected a text, or a list of texts")
        read = read_prompts(sources, log.warning)
        sampling = Sampling(config, read, models=self.models, keeps_text_encoder=self._keeps_text_encoder)
        if isinstance(prompts, str) and len(sampling.jobs) != 1:
            raise ConfigError(
                f"prompts: {short_name(prompts)!r} makes {len(sampling.jobs)} videos; ask with a list, [prompt], for a "
                "list of them"
            )
        self._tell(sampling)
        return sampling

    def _tell(self, sampling: Sampling) -> None:
        for note in sampling.notes:
            if note not in self._told:
                log.warning("%s", note)
                self._told.add(note)


@dataclass(frozen=True, eq=False)
class Video:
    """What a pipeline made; of a picture there is one frame."""

    frames: np.ndarray = field(repr=False)
    """(T, H, W, 3) uint8, RGB."""
    fps: float
    latents: np.ndarray = field(repr=False)
    """(C, t, h, w) float32."""
    prompt: str
    seed: int
    sidecar: Mapping[str, Any] = field(repr=False)
    """What is written beside the file."""
    output: OutputSettings = field(repr=False)
    """How it is written."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Those that make it again."""
        config: Mapping[str, Any] = self.sidecar["config"]
        return config

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
        """Write an .mp4, or of a picture a .png or .jpg, with its JSON sidecar beside it; gives the path.

        Raises: ConfigError for what is no path; MediaError for another ending, a file that is there while `overwrite`
        is off, or one that cannot be written.
        """
        try:
            target = given_path(Path(path))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"save: {error}") from error
        overwrite = overwrite or self.output.overwrite
        refuse_sample(target, len(self.frames), self.output, overwrite)
        output = {**self.settings["output"], "folder": str(target.parent)}
        sidecar = {**self.sidecar, "config": {**self.settings, "output": output}}
        write_sample(target, iter(self.frames), self.fps, self.latents, sidecar, self.output, overwrite)
        return target


def _video(sampling: Sampling, job: Job, latent: np.ndarray) -> Video:
    config = sampling.config
    frames = sampling.frames(job, latent)
    sidecar = sampling.sidecar(job)
    return Video(frames, config.video.file_rate, latent, job.prompt.text, job.seed, sidecar, config.output)


def _paths(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by their whole paths, groups taken apart. Raises: ConfigError for names that are not clear."""
    if not isinstance(settings, Mapping):
        raise ConfigError(f"settings: expected a mapping such as {{'steps': 20}}, got {type(settings).__name__}")
    paths: dict[str, Any] = {}
    for path, value in _flat((_path(str(name)), value) for name, value in settings.items()):
        if path in SAID_OTHERWISE:
            raise ConfigError(f"settings: {path}: has no use here; {SAID_OTHERWISE[path]}")
        if path in paths:
            raise ConfigError(f"settings: {path}: is given twice")
        paths[path] = _plain(path, value)
    return paths


def _flat(settings: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    for path, value in settings:
        if isinstance(value, Mapping):
            yield from _flat((f"{path}.{name}", inner) for name, inner in value.items())
        elif path == "sampler":
            yield f"{path}.{SamplerSettings.choice}", value
        else:
            yield path, value


def _path(name: str) -> str:
    """The path of a setting by its last name; paths stay, and what is wrong with one the schema says."""
    known = [setting.path for setting in list_settings(SampleConfig)]
    if "." in name or name in known or name in SampleConfig.model_fields:
        return name
    meant = [path for path in known if path.endswith(f".{name}")]
    # What is loaded has names of its own: backend.dtype.vae is not meant with `vae`.
    meant = [path for path in meant if path.count(".") == min(each.count(".") for each in meant)]
    if len(meant) == 1:
        return meant[0]
    if meant:
        raise ConfigError(f"settings: {name}: may be {' or '.join(meant)}; write the one that is meant")
    near = get_close_matches(name, [path.rpartition(".")[2] for path in known], n=1)
    hint = f", did you mean {near[0]!r}?" if near else "; `duosora settings` lists all"
    raise ConfigError(f"settings: {short_name(name)}: there is no such setting{hint}")


def _plain(path: str, value: Any) -> Any:
    """As YAML would have it: paths are texts, and numbers of numpy are numbers."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list | tuple):
        return [_plain(path, each) for each in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise ConfigError(f"settings: {path}: expected a text, a number or a list, got {type(value).__name__}")


@contextmanager
def _memory_told() -> Iterator[None]:
    """Inside, memory that runs out is a DuosoraError too."""
    try:
        yield
    except DuosoraError:
        raise
    except Exception as error:
        told = out_of_memory(error)
        if told is None:
            raise
        raise OutOfMemory(f"{told}; {savings('sample')}") from error
