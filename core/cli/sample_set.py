"""`duosora sample-set`: many pictures for statistics such as FID, and one archive of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .arguments import lora_override


def sample_set(
    prompts: Annotated[
        list[str] | None,
        typer.Argument(help="Classes or prompts, or files of them; default: all classes of the model."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Pictures of the set.")] = 50_000,
    order: Annotated[str, typer.Option(help="balanced: every class in turn; random: one drawn for each picture.")] = (
        "balanced"
    ),
    archive: Annotated[
        Path | None, typer.Option(help="The .npz file; default: beside the folder, called like it.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="A YAML file, or one that comes with duosora.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", "-s", metavar="KEY=VALUE", help="Change one setting of `sample`.")
    ] = None,
    backend: Annotated[str | None, typer.Option(help="torch or mindspore; short for --set backend.name=...")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the pictures.")] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE[:SCALE]", help="Add LoRA to the denoiser; several times for several."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Short for --set seed=...")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an archive that exists.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
) -> None:
    """Make a set of pictures, numbered, and one .npz of all of them, as the usual evaluation reads it.

    The same command goes on with a set that was begun. A picture follows from its number and the seed alone.
    """
    import json

    from tqdm import tqdm

    from ..config.loading import load, override_paths
    from ..config.schema import SampleConfig
    from ..evaluate.sample_set import SampleSet
    from ..pipelines.denoise import Step
    from ..printable import say

    overrides = list(settings or [])
    for key, value in (("backend.name", backend), ("output.folder", out and str(out)), ("seed", seed)):
        if value is not None:
            overrides.append(f"{key}={json.dumps(value)}")
    overrides += lora_override(lora)
    if prompts:
        overrides.append(f"prompts.sources={json.dumps(prompts)}")
    run = SampleSet(load(config, SampleConfig, overrides), count, order, archive, overwrite, override_paths(overrides))
    if run.sampling.ranks.is_first:
        say(*run.plan())
    if dry_run:
        return
    is_quiet = not run.sampling.ranks.is_first
    with tqdm(total=run.sampling.num_steps, desc="steps", unit="step", dynamic_ncols=True, disable=is_quiet) as bar:

        def advance(step: Step) -> None:
            bar.update()

        path = run.run(advance)
    if run.sampling.ranks.is_first:
        say(f"wrote {path}")
