"""`duosora judge`: how well a tiny model follows its prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def judge(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="How to sample, where it is not as the model's recipe says.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY=VALUE", help="Change one setting: --set model.denoiser=FOLDER"),
    ] = None,
    backend: Annotated[str | None, typer.Option(help="torch or mindspore; short for --set backend.name=...")] = None,
    prompts: Annotated[int, typer.Option(min=1, help="How many held-out prompts.")] = 64,
    picture: Annotated[Path | None, typer.Option(help="Also write frames of all videos into this PNG.")] = None,
    report: Annotated[Path | None, typer.Option("--json", help="Also write everything to this file.")] = None,
) -> None:
    """Sample videos of scenes that were never trained on, and measure what they show.

    For models of the moving shapes (core.data.moving_shapes): colour, shape, size, direction and background are read
    off the pixels.
    """
    import json

    from tqdm import tqdm

    from ..config.loading import load, override_paths
    from ..config.schema import SampleConfig
    from ..data.shape_judge import Tally
    from ..evaluate.judge import held_out_prompts, judging_run, sheet
    from ..io.files import atomic_write, refuse_unwritable
    from ..io.images import image_format, write_image
    from ..pipelines.denoise import Step
    from ..printable import say

    overrides = list(settings or [])
    if backend is not None:
        overrides.append(f"backend.name={json.dumps(backend)}")
    for output in (picture, report):
        if output is not None:
            refuse_unwritable(output, overwrite=True)
    if picture is not None:
        image_format(picture)
    asked = held_out_prompts(prompts)
    run = judging_run(load(config, SampleConfig, overrides), asked, override_paths(overrides))
    say(*run.plan())
    with tqdm(total=run.num_steps, desc="steps", unit="step", dynamic_ncols=True, disable=None) as bar:

        def advance(step: Step) -> None:
            bar.update()

        clips = [run.frames(job, latent) for job, latent in run.latents(advance)]
    tally = Tally.of((each.scene, frames) for each, frames in zip(asked, clips, strict=True))
    for name, rate in tally.rates().items():
        say(f"{name:<11}{rate:6.1%}")
    say(f"shapes asked for and seen: {json.dumps(tally.confusion('shape'))}")
    if picture is not None:
        write_image(picture, sheet(zip((each.prompt for each in asked), clips, strict=True)), overwrite=True)
    if report is not None:
        results = [
            {"prompt": each.prompt, "asked": each.scene._asdict(), "seen": verdict._asdict()}
            for each, verdict in zip(asked, tally.verdicts, strict=True)
        ]
        confusion = {name: tally.confusion(name) for name in tally.scenes[0]._fields}
        content = {"rates": tally.rates(), "confusion": confusion, "videos": results}
        with atomic_write(report, overwrite=True) as temporary:
            temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
