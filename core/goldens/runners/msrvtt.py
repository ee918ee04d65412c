"""Family `msrvtt`: the captions of MSR-VTT by split; no backend is involved."""

from __future__ import annotations

from collections.abc import Iterator

from ...data.msrvtt import SPLITS, collate, ids_of, text_of
from ..case import Case, Comparison
from ..tables import same


def run(case: Case, backend: object | None = None) -> Iterator[Comparison]:
    """Compute every result of a table of this family."""
    raw = case.raw
    splits = raw.get("splits") or {split: ids_of(text) for split, text in raw["split_files"].items()}
    found = collate([(row["image_id"], row["caption"]) for row in raw["annotations"]], splits)
    for split in SPLITS:
        if "result" in raw:
            yield same(f"result.{split}", found.rows[split], raw["result"][split])
        if "annotation_texts" in raw:
            yield same(f"annotation_texts.{split}", text_of(found.rows[split]), raw["annotation_texts"][split])
        if "copied" in raw:
            yield same(f"copied.{split}", sorted(found.videos(split)), sorted(raw["copied"][split]))
    if "warnings" in raw:
        yield same("warnings", len(found.homeless), raw["warnings"])
