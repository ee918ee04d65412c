"""`duosora reconstruct`: a video or image, or a folder of them, through the autoencoder and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..config.schema import ReconstructConfig


def reconstruct(
    source: Annotated[Path, typer.Argument(help="A video or an image, or a folder of them.")],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="The .mp4 (or, for an image, .png) to write, or the folder; .json beside."),
    ],
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="A YAML file, or one that comes with duosora: reconstruct/tiny."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY=VALUE", help="Change one setting: --set vae=path/to/vae"),
    ] = None,
    grid: Annotated[
        bool, typer.Option("--grid", help="Write the original on the left and the reconstruction on the right.")
    ] = False,
    backend: Annotated[str | None, typer.Option(help="torch or mindspore; short for --set backend=...")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace outputs that exist; they are kept otherwise.")
    ] = False,
) -> None:
    """Pass a video or image, or all of a folder, through an autoencoder.

    Reports PSNR and SSIM: how much the latents keep. Of a folder, results that are there are kept and counted; exit
    code 2 when one of its files could not be reconstructed.
    """
    from ..config.loading import load
    from ..config.schema import ReconstructConfig

    overrides = list(settings or [])
    if backend is not None:
        overrides.append(f"backend={backend}")
    settled = load(config, ReconstructConfig, overrides)
    (_reconstruct_folder if source.is_dir() else _reconstruct_file)(source, out, settled, grid, overwrite)


def _reconstruct_file(source: Path, out: Path, config: ReconstructConfig, grid: bool, overwrite: bool) -> None:
    from ..io.files import refuse_unwritable
    from ..pipelines.reconstruct import prepare
    from ..pipelines.reconstruct_folder import check_result, told_figures, write_result
    from ..printable import say

    for path in (out, out.with_suffix(".json")):
        refuse_unwritable(path, overwrite)
    run = prepare(source, config)
    check_result(run, out)
    say(*run.plan())
    say(told_figures(write_result(run, out, config, grid, overwrite)))
    say(f"wrote {out}")


def _reconstruct_folder(folder: Path, out: Path, config: ReconstructConfig, grid: bool, overwrite: bool) -> None:
    from ..errors import MediaError
    from ..pipelines.reconstruct_folder import SUMMARY, FolderReconstruction
    from ..printable import say

    run = FolderReconstruction(folder, out, config, grid, overwrite)
    say(*run.plan())
    outcomes = []
    for outcome in run.outcomes():
        outcomes.append(outcome)
        say(f"{len(outcomes)}/{len(run.items)} {outcome}")
    mean = run.write_summary(outcomes)
    bad = [outcome for outcome in outcomes if outcome.problem]
    if mean:
        clips = len(outcomes) - len(bad)
        say(f"mean over {clips} clips: PSNR {mean['psnr_mean']:.2f} dB, SSIM {mean['ssim_mean']:.4f}")
    say(f"wrote {out / SUMMARY}")
    if bad:
        raise MediaError(f"{len(bad)} of {len(outcomes)} files were not reconstructed; the first: {bad[0]}")
