"""What `duosora inspect` says of LoRA."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def describe(path: Path, list_tensors: bool) -> tuple[list[str], bool]:
    """In lines, and whether it fits the model that its run says, where one does.

    Raises: CheckpointError for what cannot be read, or holds something beside.
    """
    from ..errors import DuosoraError
    from ..models.finding import recognise
    from ..models.lora.files import lora_file, open_lora
    from ..models.run_folders import record_of
    from ..printable import one_line, short_name

    lora = open_lora(path)
    count = sum(pair.down.size + pair.up.size for pair in lora.pairs.values())
    ranks = Counter(pair.rank for pair in lora.pairs.values())
    scales = sorted({round(pair.scale, 6) for pair in lora.pairs.values()})
    lines = [
        f"{lora_file(path)}: LoRA in the spelling of {lora.spelling}, {len(lora.pairs)} layers, {count:,} numbers",
        f"  ranks: {', '.join(f'{number} of {rank}' for rank, number in ranks.most_common())}",
        f"  scale (alpha / rank): {' to '.join(f'{scale:g}' for scale in dict.fromkeys((scales[0], scales[-1])))}",
    ]
    if list_tensors:
        lines += [
            f"  {short_name(layer)}  {list(each.down.shape)}  {list(each.up.shape)}"
            for layer, each in lora.pairs.items()
        ]
    if source := lora.base.get("source"):
        lines.append(f"  made for: {one_line(source)}")
    if record_of(lora_file(path).parent) is None:
        return [*lines, *_fitting(lora)], True
    try:
        part = recognise(lora_file(path).parent)
    except DuosoraError as error:
        return [*lines, f"  DOES NOT FIT: {one_line(error)}"], False
    return [
        *lines,
        f"  its model: {part.layout.model}, as its run says; where a model is asked for, that with it",
    ], True


def _fitting(lora: Any) -> Iterator[str]:
    """The presets that it fits."""
    from ..errors import LayoutError
    from ..models import FAMILIES

    found = []
    for family in FAMILIES:
        for name, spec in family.presets.items() if family.kind == "denoiser" else ():
            try:
                lora.fitted(spec.layout())
            except LayoutError:
                continue
            found.append(f"{name} ({family.title})")
    told = ", ".join(found) if found else "no preset; `duosora sample --lora` says how it differs from a model"
    yield f"  fits: {told}"
