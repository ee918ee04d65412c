"""`duosora reconstruct`: a video or image through the autoencoder and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def reconstruct(
    source: Annotated[Path, typer.Argument(help="A video or an image.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The .mp4 (or, for an image, .png) to write; a .json goes beside it.")
    ],
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="A YAML file, such as configs/reconstruct/*.yaml.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY=VALUE", help="Change one setting: --set vae=path/to/vae"),
    ] = None,
    backend: Annotated[str | None, typer.Option(help="torch or mindspore; short for --set backend=...")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace outputs that exist; they are kept otherwise.")
    ] = False,
) -> None:
    """Pass a video or image through the WFVAE.

    Reports PSNR and SSIM: how much the latents keep.
    """
    import json

    from tqdm import tqdm

    from ..config.loading import load
    from ..config.schema import ReconstructConfig
    from ..config.settings import resolved
    from ..io.files import atomic_write, refuse_unwritable
    from ..io.images import image_format, write_image
    from ..io.video import check_ending, write_video
    from ..pipelines.reconstruct import prepare
    from ..printable import say

    overrides = list(settings or [])
    if backend is not None:
        overrides.append(f"backend={backend}")
    settled = load(config, ReconstructConfig, overrides)
    report_file = out.with_suffix(".json")
    for path in (out, report_file):
        refuse_unwritable(path, overwrite)
    run = prepare(source, settled)
    settled = settled.model_copy(update={"vae": run.part.source})  # a run may have gone on when this is made again
    (image_format if run.clip.is_image else check_ending)(out)
    say(*run.plan())
    frames = tqdm(run.frames(), total=run.clip.shape.frames, unit="frame", dynamic_ncols=True)
    if run.clip.is_image:
        write_image(out, next(iter(frames)), overwrite)
    else:
        write_video(out, frames, run.clip.fps, settled.crf, overwrite)
    report: dict[str, Any] = run.quality.summary() | {"frames": list(run.clip.shape), "source": str(source)}
    with atomic_write(report_file, overwrite=True) as temporary:
        temporary.write_text(json.dumps(report | {"config": resolved(settled)}, indent=1), encoding="utf-8")
    say(
        "PSNR {psnr_mean:.2f} dB (lowest frame {psnr_min:.2f}), SSIM {ssim_mean:.4f} (lowest {ssim_min:.4f})".format(
            **report
        )
    )
    say(f"wrote {out}")
