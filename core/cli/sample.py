"""`duosora sample`: videos (or images) from prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .arguments import lora_override


def sample(
    prompts: Annotated[
        list[str] | None,
        typer.Argument(help="Prompts, or files of them (.txt, .jsonl, .json, .csv, .tsv); instead of the config's."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="A YAML file, or one that comes with duosora: sample/tiny."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY=VALUE", help="Change one setting: --set sampler.steps=30"),
    ] = None,
    backend: Annotated[str | None, typer.Option(help="torch or mindspore; short for --set backend.name=...")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Output folder; short for --set output.folder=...")
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE[:SCALE]", help="Add LoRA to the denoiser; several times for several."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Short for --set seed=...")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace outputs that exist; they are kept otherwise.")
    ] = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="Also sample without sampler.cache, and tell the difference.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
) -> None:
    """Make videos or images from prompts, or from classes.

    Each prompt goes through the text encoder, denoising with guidance and the autoencoder, and becomes an mp4 (or png)
    with a JSON sidecar. A model that reads classes is given their numbers or names.
    """
    import json

    from tqdm import tqdm

    from ..config.loading import load, override_paths
    from ..config.schema import SampleConfig
    from ..pipelines.denoise import Step
    from ..pipelines.sample import Sampling
    from ..pipelines.sample_files import SampleFiles
    from ..planning.cases import sampling_case
    from ..planning.starting import tell_forecast
    from ..printable import say

    overrides = list(settings or [])
    for key, value in (("backend.name", backend), ("output.folder", out and str(out)), ("seed", seed)):
        if value is not None:
            overrides.append(f"{key}={json.dumps(value)}")
    if compare:
        overrides.append("output.compare=true")
    overrides += lora_override(lora)
    if prompts:
        overrides.append(f"prompts.sources={json.dumps(prompts)}")
    run = Sampling(load(config, SampleConfig, overrides), overrides=override_paths(overrides))
    files = SampleFiles(run, overwrite)
    if run.ranks.is_first:
        say(*run.plan())
        tell_forecast(lambda: sampling_case(run.settled, run.jobs), run.backend)
    if dry_run:
        return
    is_quiet = not run.ranks.is_first
    with tqdm(total=run.num_steps, desc="steps", unit="step", dynamic_ncols=True, disable=is_quiet) as bar:

        def advance(step: Step) -> None:
            bar.update()

        for path in files.run(advance):
            say(f"wrote {path}")
    spared = run.told_of_cache()
    if spared is not None and run.ranks.is_first:
        say(spared)
