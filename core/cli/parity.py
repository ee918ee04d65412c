"""`duosora parity`: one sampling run on two backends, and how far apart they are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer


def parity(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            help="What to sample: a YAML file, or one that comes along: sample/tiny.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY=VALUE", help="Change one setting: --set model.denoiser=FOLDER"),
    ] = None,
    reference: Annotated[str, typer.Option(help="The backend that the other is compared with.")] = "torch",
    other: Annotated[str, typer.Option(help="The backend that is compared.")] = "mindspore",
    dtype: Annotated[
        list[str] | None, typer.Option(help="fp32, fp16 or bf16; may be given several times. Nothing: fp32.")
    ] = None,
    report: Annotated[Path | None, typer.Option("--json", help="Also write everything to this file.")] = None,
    page: Annotated[Path | None, typer.Option("--markdown", help="Also write the tables to this file.")] = None,
) -> None:
    """Compare two backends on one run.

    Each block of each model on equal inputs, the gradients of the models that are trained (which takes the memory of
    training), and the first video that each makes by itself.
    """
    import json
    from dataclasses import asdict

    from ..config.loading import load, override_paths
    from ..config.schema import SampleConfig
    from ..errors import ConfigError
    from ..evaluate.parity import TwinRuns
    from ..io.files import atomic_write, refuse_unwritable
    from ..printable import say
    from ..seam.backend import refuse_missing

    for name in (reference, other):
        refuse_missing(name, offers_other=False)
    if report is not None and page is not None and os.path.abspath(report) == os.path.abspath(page):
        raise ConfigError(f"--json and --markdown both name {page}; give each a file of its own")
    for file in (report, page):
        if file is not None:
            refuse_unwritable(file, overwrite=True)
    overrides = list(settings or [])
    settled, given = load(config, SampleConfig, overrides), override_paths(overrides)
    twins = [TwinRuns(settled, (reference, other), each, given) for each in dtype or ["fp32"]]
    for twin in twins:
        say(*twin.plan())
    reports = [twin.compare() for twin in twins]
    text = _page(twins[0], reports)
    say(*text.splitlines())
    contents = {report: json.dumps([asdict(each) for each in reports], indent=1), page: text}
    for file, content in contents.items():
        if file is not None:
            with atomic_write(file, overwrite=True) as temporary:
                temporary.write_text(content, encoding="utf-8")


def _page(twins: Any, reports: list[Any]) -> str:
    """The reports as Markdown, one column for each dtype."""
    reference, other = twins.backends
    dtypes = [report.dtype for report in reports]
    lines = [
        f"# {other.name} against {reference.name}",
        "",
        "What `duosora parity` measured. Blocks get the same inputs on both backends. Differences are the largest "
        "anywhere, relative to the",
        "largest value of the block's output, and hold what all blocks up to there do. Those of gradients are relative "
        "to the largest value of",
        "the same weight's gradient, and of a block's weights the worst is told; models are trained in mixed precision "
        "then, with weights in fp32.",
        f"Each backend makes the video by itself. Times are those of {reference.name} and of {other.name}.",
        "",
        *(f"- {_versions(backend)}" for backend in twins.backends),
        *(f"- {' '.join(line.split())}" for line in twins.runs[0].plan()[2:]),
        "",
        _row("", *dtypes),
        _row("---", *["---"] * len(dtypes)),
    ]
    for part, blocks in reports[0].blocks.items():
        for number, block in enumerate(blocks):
            relative = [f"{report.blocks[part][number].relative:.1e}" for report in reports]
            lines.append(_row(f"{part} {block.name}", *relative))
    for model, blocks in reports[0].gradients.items():
        for number, block in enumerate(blocks):
            relative = [f"{report.gradients[model][number].relative:.1e}" for report in reports]
            lines.append(_row(f"gradients, {model} {block.name}", *relative))
    videos = [report.videos for report in reports]
    lines += [
        _row("latents of the video", *(f"{video.latents.relative:.1e}" for video in videos)),
        _row("pixels, of 255 levels", *(str(video.levels) for video in videos)),
        _row("PSNR of the worst frame, dB", *(f"{video.psnr:.1f}" for video in videos)),
        _row("milliseconds a step", *(_times(video.seconds) for video in videos)),
        _row("milliseconds of the first step", *(_times(video.first_seconds) for video in videos)),
        "",
    ]
    return "\n".join(lines)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _times(seconds: tuple[float, float]) -> str:
    return " / ".join(f"{1000 * each:.0f}" for each in seconds)


def _versions(backend: Any) -> str:
    return ", ".join(f"{key} {value}" for key, value in backend.versions().items())
