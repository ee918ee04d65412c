"""`duosora convert`: checkpoints of torch and MindSpore to safetensors and back."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class DType(StrEnum):
    """What floating-point tensors become."""

    BF16 = "bf16"
    FP16 = "fp16"
    FP32 = "fp32"
    KEEP = "keep"


def convert(
    source: Annotated[Path, typer.Argument(help="A file (.bin .pth .pt .ckpt .safetensors), an index, or a folder.")],
    to: Annotated[
        Path | None,
        typer.Option(help="A .safetensors, a .ckpt (MindSpore), a .pth (torch), or a folder of safetensors."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Whose names: a family such as t5 or wfvae, or none to keep them. Guessed when left out."),
    ] = None,
    dtype: Annotated[DType, typer.Option(help="What floating-point tensors become.")] = DType.KEEP,
    shard_size: Annotated[str, typer.Option(help="Largest file of a folder, as 5GB or 500MB.")] = "5GB",
    ema: Annotated[
        bool | None,
        typer.Option("--ema/--no-ema", help="Take the moving average, or not; by default where there is one."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(help="Where the weights are inside the file, as state_dict.gen_model. Found when left out."),
    ] = None,
    strip: Annotated[
        str | None,
        typer.Option(
            help="What stands before the names, as transformer; other names are left out. Found when left out."
        ),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(help="The model's config.json, or a preset. Found beside SOURCE or by shapes when left out."),
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE[:SCALE]", help="Merge LoRA into SOURCE, a denoiser; several times for several."),
    ] = None,
    spelling: Annotated[
        str | None, typer.Option(help="SOURCE is LoRA: write it as peft, diffusers or kohya spell it.")
    ] = None,
    minus: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Write the LoRA that makes SOURCE of this folder or preset.")
    ] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="Of that LoRA; 16 when left out.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be written and leave.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Without --to: compare what was converted earlier with its sums.")
    ] = False,
) -> None:
    """Convert a checkpoint, without a framework and without running anything from the file.

    The result is read again and compared; a sum for each tensor stays beside it.
    """
    from .. import converting
    from ..config.schema import split_lora
    from ..errors import ConfigError
    from ..io.paths import given_path
    from ..printable import say

    if verify == (to is not None):
        raise ConfigError("convert: either --to says where to write, or --verify that SOURCE is compared with its sums")
    converter = converting.get()
    if to is None:
        lines = converter.verify(source)
    else:
        request = converting.Conversion(
            source=source,
            target=to,
            model=model,
            dtype=dtype.value,
            shard_size=_num_bytes(shard_size),
            ema=ema,
            key=key,
            strip=strip,
            config=config,
            loras=tuple((given_path(file), scale) for file, scale in map(split_lora, lora or ())),
            spelling=spelling,
            minus=minus,
            rank=rank,
            overwrite=overwrite,
            dry_run=dry_run,
        )
        lines = converter.convert(request)
    say(*lines)


def _num_bytes(text: str) -> int:
    """A size like 5GB, 500MB or 4GiB in bytes."""
    import re

    from ..errors import ConfigError
    from ..printable import short_name

    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?)\s*([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    size = 0.0
    if found:
        size = float(found[1]) * (1024 if found[3] else 1000) ** " KMGT".index(found[2].upper() or " ")
    if not 1 <= size < 2**63:
        raise ConfigError(f"--shard-size {short_name(text)}: expected a size like 5GB or 500MB")
    return int(size)
