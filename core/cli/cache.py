"""`duosora cache`: compute once what the frozen models of a training run make of captions and clips."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

cache = typer.Typer(
    name="cache", help="Compute text states and latents once.", no_args_is_help=True, rich_markup_mode=None
)

Config = Annotated[Path | None, typer.Option("--config", "-c", help="The YAML file of the training run.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="KEY=VALUE", help="Change one setting: --set caches.text=caches/text"),
]
Backend = Annotated[str | None, typer.Option(help="torch or mindspore; short for --set compute.name=...")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")]


@cache.callback()
def _group() -> None:
    """Compute once what the frozen models of a training run make of captions and clips. See docs/caches.md."""


@cache.command()
def text(config: Config = None, settings: Overrides = None, backend: Backend = None, dry_run: DryRun = False) -> None:
    """Store the text encoder's states of every caption in caches.text.

    The same command goes on where it was ended, and adds captions that are new.
    """
    from ..train.cache_run import TextCacheRun

    _fill(TextCacheRun, config, settings, backend, dry_run)


@cache.command()
def latents(
    config: Config = None, settings: Overrides = None, backend: Backend = None, dry_run: DryRun = False
) -> None:
    """Store the autoencoder's moments of every clip in caches.latents.

    The same command goes on where it was ended, and adds clips that are new. Clips that cannot be read are named.
    """
    from ..train.cache_run import LatentCacheRun

    _fill(LatentCacheRun, config, settings, backend, dry_run)


def _fill(kind: Any, config: Path | None, settings: list[str] | None, backend: str | None, dry_run: bool) -> None:
    from ..config.loading import load
    from ..config.training import TrainConfig
    from ..parallel.launched import told_once
    from ..printable import say

    overrides = [*(settings or []), *([] if backend is None else [f"compute.name={backend}"])]
    with told_once():
        loaded = load(config, TrainConfig, overrides)
    run = kind(loaded, dry_run)
    is_first = run.ranks.is_first
    if is_first:
        say(*run.plan())
    if not dry_run:
        outcome = run.run()
        if is_first:
            say(outcome)
