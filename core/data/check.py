"""Looking over annotations before training: every row that would not be trained on, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..config.data import DataSettings
from ..shapes import Compression
from .annotations import read_annotations
from .pool import make_runner
from .probing import complete, probe
from .reading import Facts
from .records import Record
from .selection import RecordDraws, Unusable, check_settings, plan_shape
from .sources import FileSource
from .worker import Failed

FPS_TOLERANCE = 0.01
"""Part by which an annotation's rate may be off."""


class Finding(NamedTuple):
    """Something about a row that keeps it from being trained on, or that is not as the annotation says."""

    path: str
    """As the annotation gives it, or where the row stands."""
    origin: str
    kind: str
    """One of few words, to be counted."""
    reason: str


@dataclass(frozen=True)
class CheckReport:
    """What became of every row."""

    rows: int
    findings: tuple[Finding, ...]
    buckets: dict[str, int]
    """Good records by the shape they are trained at, "frames x height x width"; the most frequent first."""

    @property
    def num_bad(self) -> int:
        """Rows with a finding."""
        return self.rows - sum(self.buckets.values())

    def counts(self) -> dict[str, int]:
        """Findings by their kind."""
        return dict(Counter(finding.kind for finding in self.findings).most_common())

    def as_json(self) -> dict[str, Any]:
        """Plain values, for a file."""
        return {
            "rows": self.rows,
            "bad": self.num_bad,
            "counts": self.counts(),
            "buckets": self.buckets,
            "findings": [finding._asdict() for finding in self.findings],
        }


def check_annotations(
    files: Sequence[Path], settings: DataSettings, compression: Compression, decodes_all: bool = False, seed: int = 0
) -> CheckReport:
    """Read annotations, open every file they name, and apply the rules by which training chooses.

    decodes_all: decode every frame of every clip, which finds damage in the middle. seed: short clips are dropped by
    chance where settings say so. How many clips a size needs is not looked at, as it depends on the batch.
    Raises: MediaError when an annotation cannot be read at all; ConfigError and ShapeError for unfit settings.
    """
    check_settings(settings, compression)
    found = read_annotations(files, settings.root)
    findings = [Finding(bad.name, bad.origin, "bad row", bad.reason) for bad in found.bad]
    source = FileSource(found.records, settings.reader)
    buckets: Counter[str] = Counter()
    runner = make_runner(settings.workers, settings.timeout_seconds)
    try:
        for number, facts in probe(source, range(len(source)), runner, decodes_all):
            record = source.record(number)
            of_file = list(_file_findings(record, facts))
            if isinstance(facts, Facts) and settings.probe:
                record = complete(record, facts)
            try:
                shape = plan_shape(record, settings, compression, 1, RecordDraws(seed, number))
                if not of_file:
                    buckets[f"{shape.frames} x {shape.height} x {shape.width}"] += 1
            except Unusable as unusable:
                of_file.append(Finding(record.name, record.origin, unusable.kind, unusable.detail))
            findings += of_file
    finally:
        runner.close()
    return CheckReport(len(source) + len(found.bad), tuple(findings), dict(buckets.most_common()))


def _file_findings(record: Record, facts: Facts | Failed) -> Iterator[Finding]:
    """What is wrong with a file, and where the annotation says something else than the file."""

    def finding(kind: str, reason: str) -> Finding:
        return Finding(record.name, record.origin, kind, reason)

    if isinstance(facts, Failed):
        yield finding("unreadable" if record.path.exists() else "missing", facts.reason)
        return
    said = (record.height, record.width)
    if None not in said and said != (facts.height, facts.width):
        yield finding(
            "other size", f"has {facts.height} x {facts.width} pixels, its annotation says {said[0]} x {said[1]}"
        )
    if record.crop is not None and (record.crop.x1 > facts.width or record.crop.y1 > facts.height):
        yield finding("other size", f"has {facts.height} x {facts.width} pixels, its crop goes beyond them")
    if not record.is_video:
        return
    if record.num_frames is not None and record.start + record.num_frames > facts.num_frames:
        yield finding(
            "fewer frames",
            f"has {facts.num_frames} frames, its annotation says {record.start} to {record.start + record.num_frames}",
        )
    if record.fps is not None and facts.fps and abs(record.fps / facts.fps - 1) > FPS_TOLERANCE:
        yield finding("other rate", f"has {facts.fps:g} frames per second, its annotation says {record.fps:g}")
