"""`duosora settings`: what can be set, with types and defaults."""

from __future__ import annotations

from typing import Annotated

import typer


def settings(
    path: Annotated[
        str,
        typer.Argument(help="A setting or a group, such as sampler.steps or train.optimizer; default: all."),
    ] = "",
    markdown: Annotated[bool, typer.Option("--markdown", help="Print docs/settings.md.")] = False,
) -> None:
    """List settings with their types, defaults and meaning."""
    from ..config import reference
    from ..errors import ConfigError
    from ..printable import say

    if markdown and path:
        raise ConfigError("--markdown prints the whole page; leave out the path")
    say(*(reference.markdown() if markdown else reference.text(path)))
