"""The way from the command line to the converters, which core does not import: as to a backend, by name.

Other people's file formats are a room of their own, so that core knows one format of weights only.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """One conversion."""

    source: Path
    target: Path
    """A file whose ending says the format, or a folder of safetensors."""
    model: str | None = None
    """A family of names, "none" for names as they are; None guesses."""
    dtype: str = "keep"
    """bf16, fp16, fp32 or keep: what floating-point tensors become."""
    shard_size: int | None = None
    """Bytes at which a new shard of a folder begins."""
    ema: bool | None = None
    """Whether the moving average is taken; None takes it where there is one."""
    key: str | None = None
    """The way to the weights inside the file, its parts joined by dots; None looks for them."""
    strip: str | None = None
    """What stands before the names; None compares with the names of the models."""
    config: str | None = None
    """The model's config.json or preset, where none lies beside the source; None takes what the shapes tell."""
    loras: tuple[tuple[Path, float], ...] = ()
    """LoRA that is merged into the denoiser of `source`, with scales."""
    spelling: str | None = None
    """`source` is LoRA, to be written as peft, diffusers or kohya spell it."""
    minus: str | None = None
    """A folder or preset: the LoRA that makes `source` of it is written."""
    rank: int | None = None
    """Of that one; None: 16."""
    overwrite: bool = False
    dry_run: bool = False
    """Say what would be written, and write nothing."""


class Converter(Protocol):
    """What the room of converters offers to the command line."""

    def convert(self, request: Conversion) -> list[str]:
        """Convert and read the result again; returns what there is to say, in lines.

        Raises: CheckpointError for damaged, unknown or dangerous files, for tensors without a rule, an existing target,
        a full disk; LayoutError when config.json beside the source says that the weights are not all of the model.
        """

    def verify(self, path: Path) -> list[str]:
        """Compare converted weights with their sums; returns what there is to say. Raises CheckpointError."""

    def is_foreign(self, path: Path) -> bool:
        """Whether the weights there are in another format than safetensors. Raises CheckpointError without any."""

    def describe(self, path: Path, list_tensors: bool) -> list[str]:
        """What a file of another format holds, in lines; no tensor is read. Raises CheckpointError."""

    def likely_models(self, names: Iterable[str]) -> list[str]:
        """The models whose names these are, below which prefix, in words for each."""


def get() -> Converter:
    """The converters."""
    return cast(Converter, importlib.import_module("duosora.convert.commands"))
