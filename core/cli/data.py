"""`duosora data`: look over a training set before training on it, and bring others' sets into its form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

SHOWN_ROWS = 40
"""Bad rows printed; the report file has all of them."""

data = typer.Typer(
    name="data",
    help="Look over training data, and bring data sets into its form.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@data.callback()
def _group() -> None:
    """Look over training data, and bring data sets into its form."""


@data.command()
def check(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Annotations (.txt, .json, .jsonl, .csv, .parquet) or folders; instead of the config's."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="The YAML file of the training run that they are for.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY=VALUE", help="Change one setting of the run: --set data.frames=29"),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Also write every finding to this JSON file.")] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Decode every frame, not only the first.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a report that exists.")] = False,
) -> None:
    """Name the rows of annotations that would not be trained on, and why.

    Exit code 1 when there are any, 2 when an annotation cannot be read at all.
    """
    from ..data.advice import find_advice
    from ..data.check import Check
    from ..data.columns import column_uses
    from ..errors import ConfigError
    from ..io.files import atomic_write, refuse_unwritable
    from ..printable import say
    from ..recipes import named
    from .tables import show

    if report is not None:
        refuse_unwritable(report, overwrite)
    run, given = _read(config, settings or [])
    sources = files or given.files
    if not sources:
        raise ConfigError("data.files: name annotations or folders, here or in the config; there is nothing to check")
    batch = None if config is None else run.batch_size * run.accumulate
    recipe = named(run.model.recipe)
    looking = Check(sources, _compression(run), deep, run.seed, batch, recipe.buckets, run.accumulate)
    found = looking(given)
    advice = find_advice(looking, found, given, lambda setting: _read(config, [*(settings or []), setting])[1])
    for line in column_uses(sources):
        say(f"columns of {line}")
    for finding in found.findings[:SHOWN_ROWS]:
        say(f"{finding.kind}: {finding.path} ({finding.origin}): {finding.reason}")
    if len(found.findings) > SHOWN_ROWS:
        say(f"... and {len(found.findings) - SHOWN_ROWS} more; --report FILE writes all of them")
    show(_table(found))
    if found.epoch is not None:
        show(_epoch(found.epoch))
        say(_steps(found.epoch))
    say(f"{found.rows} rows, {found.num_good} good, {found.num_bad} bad")
    if advice is not None:
        say(advice)
    if report is not None:
        with atomic_write(report, overwrite) as temporary:
            # Of a file name that is no UTF-8 Python keeps half characters; written like this they are JSON's escapes.
            said = json.dumps(found.as_json() | {"advice": advice and advice._asdict()}, indent=1, ensure_ascii=False)
            temporary.write_text(said, encoding="utf-8", errors="backslashreplace")
    if found.num_bad:
        raise typer.Exit(1)


@data.command()
def msrvtt(
    folder: Annotated[Path, typer.Argument(help="MSR-VTT as published: annotation, structured-symlinks, videos/all.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for train, val and test.")],
    join: Annotated[bool, typer.Option("--join", help="A row a video with all of its captions.")] = False,
    link: Annotated[bool, typer.Option("--link", help="Link to the videos instead of copying them.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace annotations that exist.")] = False,
) -> None:
    """Sort MSR-VTT into a folder for each split, with annotations.json and videos."""
    from ..data.msrvtt import SPLITS, collate, read_captions, read_splits, write
    from ..printable import say

    found = collate(read_captions(folder), read_splits(folder), join)
    if found.homeless:
        first, count = found.homeless[0], len(set(found.homeless))
        say(f"warning: {len(found.homeless)} captions of {count} videos in no split are left out ({first}, ...)")
    write(found, folder, out, link, overwrite)
    for split in SPLITS:
        say(f"{out / split}: {len(found.rows[split])} rows, {len(found.videos(split))} videos")


@data.command()
def features(
    source: Annotated[
        Path, typer.Argument(help="A latent cache of class folders, or a folder with Mini Sora's two folders of .npy.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for it in the other form.")],
    seed: Annotated[int, typer.Option(min=0, help="For .npy: of the draws, and of which are mirrored.")] = 0,
) -> None:
    """Turn a latent cache of labelled pictures into Mini Sora's folders of .npy, and these into a cache."""
    from ..data.feature_conversion import convert_features
    from ..printable import say

    say(convert_features(source, out, seed))


@data.command()
def digits(
    out: Annotated[Path, typer.Option("--out", "-o", help="The new folder, which gets a folder for each class.")],
) -> None:
    """Write the 1,797 handwritten digits of scikit-learn as pictures of 8x8 pixels, for the lesson (docs/lesson.md)."""
    from ..data.digits import CLASSES, read_digits, write_digits
    from ..printable import say

    found = read_digits()
    write_digits(found, out)
    say(f"{out}: {len(found.labels)} pictures of {CLASSES} classes")


def _read(config: Path | None, settings: list[str]) -> tuple[Any, Any]:
    """The settings of the run, and of its data; without a config with sizes as published, where none are given."""
    from ..config.loading import load
    from ..config.training import TrainConfig
    from ..pipelines.following import trained
    from ..recipes import named

    given = load(config, TrainConfig, settings)
    run = trained(given).config
    data = run.data
    if config is None and data.buckets is None and data.max_area is None and data.height is None and data.width is None:
        clips = named(run.model.recipe).clips.get("denoiser" if data.autoencoder is None else "vae", {})
        own = given.data.model_fields_set
        data = data.model_copy(update={key: value for key, value in clips.items() if key not in own})
    return run, data


def _compression(run: Any) -> Any:
    """Of the run's autoencoder, whose weights are not looked at."""
    from ..models.finding import open_part
    from ..pipelines.settings import with_companions

    name = run.model.vae or with_companions(run.model).vae or "tiny"
    return open_part("vae", str(name)).spec.compression


def _table(found: Any) -> Any:
    from .tables import Table

    table = Table("", "rows")
    for shape, count in found.buckets.items() if found.epoch is None else ():
        table.add_row(f"trained at {shape}", str(count))
    for kind, count in found.counts().items():
        table.add_row(kind, str(count), style="red")
    return table


def _epoch(epoch: Any) -> Any:
    from .tables import Table

    table = Table("bucket", "frames", "clips", "batches", "batch size")
    for count in epoch.buckets:
        cells = (count.resolution, count.frames, count.clips, count.batches, count.batch_size or "-")
        table.add_row(*map(str, cells))
    return table


def _steps(epoch: Any) -> str:
    rest = f"{epoch.in_no_batch} fill no batch" if epoch.in_no_batch >= 0 else f"{-epoch.in_no_batch} come twice"
    return f"first epoch: {epoch.steps} steps; of the good rows {epoch.by_chance} are left out by chance, {rest}"
