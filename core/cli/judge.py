"""`duosora judge`: how well a tiny model follows its prompts, or whether sampled digits can be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .arguments import lora_override

PROMPTS = 64


def judge(
    folder: Annotated[
        Path | None, typer.Argument(help="Sampled digits, which are judged instead; nothing is sampled then.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="How to sample, where it is not as the model's recipe says.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY=VALUE", help="Change one setting: --set model.denoiser=FOLDER"),
    ] = None,
    backend: Annotated[str | None, typer.Option(help="torch or mindspore; short for --set backend.name=...")] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE[:SCALE]", help="Add LoRA to the denoiser; several times for several."),
    ] = None,
    prompts: Annotated[int | None, typer.Option(min=1, help=f"How many held-out prompts, or {PROMPTS}.")] = None,
    colour: Annotated[
        list[str] | None, typer.Option(help="Only scenes of this colour; several times for several, such as teal.")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="Also write frames of all videos into this PNG.")] = None,
    report: Annotated[Path | None, typer.Option("--json", help="Also write everything to this file.")] = None,
) -> None:
    """Sample videos of scenes that were never trained on, and measure what they show.

    For models of the moving shapes (core.data.moving_shapes): colour, shape, size, direction and background are read
    off the pixels. With a FOLDER of sampled digits, as docs/lesson.md makes them: how many of them a classifier of real
    digits recognises as their class.
    """
    from ..errors import ConfigError
    from ..io.files import refuse_unwritable

    for output in (picture, report):
        if output is not None:
            refuse_unwritable(output, overwrite=True)
    if folder is None:
        overrides = [*(settings or []), *([] if backend is None else [f"backend.name={json.dumps(backend)}"])]
        overrides += lora_override(lora)
        content = _judge_shapes(config, overrides, prompts or PROMPTS, colour or [], picture)
    elif any((config, settings, backend, lora, prompts, colour, picture)):
        raise ConfigError(f"judge {folder}: nothing is sampled, so of the options only --json has a use")
    else:
        content = _judge_digits(folder)
    if report is not None:
        _write(report, content)


def _judge_shapes(
    config: Path | None, overrides: list[str], prompts: int, colours: list[str], picture: Path | None
) -> dict[str, Any]:
    from tqdm import tqdm

    from ..config.loading import load, override_paths
    from ..config.schema import SampleConfig
    from ..data.shape_judge import Tally
    from ..evaluate.judge import held_out_prompts, judging_run, sheet
    from ..io.images import image_format, write_image
    from ..pipelines.denoise import Step
    from ..printable import say

    if picture is not None:
        image_format(picture)
    asked = held_out_prompts(prompts, colours)
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
    results = [
        {"prompt": each.prompt, "asked": each.scene._asdict(), "seen": verdict._asdict()}
        for each, verdict in zip(asked, tally.verdicts, strict=True)
    ]
    confusion = {name: tally.confusion(name) for name in tally.scenes[0]._fields}
    return {"rates": tally.rates(), "confusion": confusion, "videos": results}


def _judge_digits(folder: Path) -> dict[str, Any]:
    from ..data.digits import read_digits
    from ..evaluate.digit_judge import DigitJudge, cross_validated, read_labelled
    from ..printable import say
    from .tables import Table, show

    asked, real = read_labelled(folder), read_digits()
    own, found = cross_validated(real), DigitJudge(real)(asked)
    say(f"classifier {own.right:.1%} of {own.count} real digits recognised, without having seen them")
    table = Table("asked for, seen as", *map(str, range(len(found.table))))
    for label, row in enumerate(found.table):
        table.add_row(str(label), *(str(count) if count else "" for count in row))
    show(table)
    say(f"recognised {found.right:.1%} of {found.count} pictures")
    say(f"variety    {found.variety:.2f} of that of real digits")
    return {
        "recognised": found.right,
        "pictures": found.count,
        "variety": found.variety,
        "table": found.table.tolist(),
        "real": {"recognised": own.right, "pictures": own.count, "table": own.table.tolist()},
    }


def _write(report: Path, content: dict[str, Any]) -> None:
    from ..io.files import atomic_write

    with atomic_write(report, overwrite=True) as temporary:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
