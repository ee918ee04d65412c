"""What is written beside a video: everything that is needed to make it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..config.schema import SampleConfig, SamplingParallelSettings
from ..config.settings import resolved
from ..io.files import sha256
from ..models.lora.files import lora_file
from ..seam.backend import Backend
from .cached import Spared
from .jobs import Job


def sidecar_of(job: Job, config: SampleConfig, backend: Backend, spared: Spared | None = None) -> dict[str, Any]:
    """That of one video of a run. spared: what its cache left out."""
    from duosora import __version__

    cache = {} if spared is None else {"cache": spared.facts()}
    return {
        "duosora": __version__,
        "versions": backend.versions(),
        "prompt": job.prompt.text,
        "prompt_in_template": job.text,
        "negative_prompt": job.negative,
        "seed": job.seed,
        "frames_height_width": list(job.video),
        "conditions": list(job.prompt.conditions),
        **cache,
        "lora": [{**resolved(each), "sha256": _sha256(each.file)} for each in config.model.lora],
        "config": _config_of(job, config),
    }


def _sha256(path: Path) -> str:
    """Of the file that a path of LoRA means."""
    return sha256(lora_file(path))


def _config_of(job: Job, config: SampleConfig) -> dict[str, Any]:
    """The settings of a run that makes just this video."""
    settings = resolved(config)
    settings["prompts"]["sources"] = [job.prompt.text]
    settings["prompts"]["negative"] = job.negative
    if job.prompt.conditions:
        files = list(job.prompt.conditions)
        settings["condition"]["images"] = [] if job.prompt.is_video else files
        settings["condition"]["video"] = files[0] if job.prompt.is_video else None
    settings["seed"] = job.seed
    settings["samples_per_prompt"] = 1
    settings["parallel"] = SamplingParallelSettings().model_dump()
    return settings
