"""`duosora calibrate`: scale and shift of a trained autoencoder's latents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def calibrate(
    model: Annotated[Path, typer.Argument(help="The folder of an autoencoder; its config.json is written anew.")],
    config: Annotated[
        Path, typer.Option("--config", "-c", help="A training file, whose group `data` names the clips.")
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY=VALUE", help="Change one setting: --set data.files=[clips]"),
    ] = None,
    backend: Annotated[str | None, typer.Option(help="torch or mindspore; short for --set compute.name=...")] = None,
    clips: Annotated[int, typer.Option(min=1, help="How many clips to measure.")] = 512,
) -> None:
    """Measure an autoencoder's latents on clips, and set its scale and shift.

    A diffusion model then sees latents of mean 0 and deviation 1 in each channel.
    """
    from ..config.loading import load
    from ..config.training import TrainConfig
    from ..printable import say
    from ..train.calibrate import calibrate_folder

    overrides = [*(settings or []), *([] if backend is None else [f"compute.name={backend}"])]
    spec, statistics = calibrate_folder(model, load(config, TrainConfig, overrides), clips)
    say(f"measured {statistics.num_clips} clips; {model / 'config.json'} has now")
    written = spec.to_config()  # in the words of the family: some call the deviation scale, some what makes it 1
    for name in ("shift", "scale", "latents_mean", "latents_std"):
        if name in written:
            say(f"  {name} {' '.join(f'{value:.4f}' for value in written[name])}")
