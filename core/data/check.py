"""Looking over annotations before training: every row that would not be trained on, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..config.data import DataSettings
from ..errors import MediaError
from ..shapes import Compression, VideoShape
from .annotations import read_annotations
from .embedding_folder import embedding_path
from .plan import RARE, is_rare, rare_detail
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
    is_note: bool = False
    """The row is trained on all the same."""


@dataclass(frozen=True)
class CheckReport:
    """What became of every row."""

    rows: int
    findings: tuple[Finding, ...]
    buckets: dict[str, int]
    """Good records by the shape they are trained at, "frames x height x width"; the most frequent first."""

    @property
    def num_bad(self) -> int:
        """Rows that would not be trained on, or are not as their annotation says."""
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
    files: Sequence[Path],
    settings: DataSettings,
    compression: Compression,
    decodes_all: bool = False,
    seed: int = 0,
    total_batch: int | None = None,
) -> CheckReport:
    """Read annotations, open every file they name, and apply the rules by which training chooses.

    decodes_all: decode every frame of every clip, which finds damage in the middle. seed: short clips are dropped by
    chance where settings say so. total_batch: clips of an optimiser step, on which it depends how many a size needs;
    None: rare sizes count as good.
    Raises: MediaError when an annotation cannot be read at all; ConfigError and ShapeError for unfit settings.
    """
    check_settings(settings, compression)
    found = read_annotations(files, settings.root)
    if not found.records and not found.bad:
        raise MediaError(f"{', '.join(map(str, files))}: holds no record of a clip")
    findings = [Finding(bad.name, bad.origin, "bad row", bad.reason) for bad in found.bad]
    as_far_as_possible = settings.media.model_copy(update={"hdr": "tone_map"})
    source = FileSource(found.records, settings.reader, media=as_far_as_possible)
    planned: Counter[VideoShape] = Counter()
    good: list[tuple[Record, VideoShape]] = []
    runner = make_runner(settings.workers, settings.timeout_seconds)
    try:
        for number, facts in probe(source, range(len(source)), runner, decodes_all):
            record = source.record(number)
            of_file = [*_file_findings(record, facts), *_embedding_findings(record)]
            of_file += _notes(record, facts, refuses_hdr=settings.media.hdr == "refuse")
            if isinstance(facts, Facts) and settings.probe:
                record = complete(record, facts)
            try:
                shape = plan_shape(record, settings, compression, 1, RecordDraws(seed, number))
                planned[shape] += 1
                if all(finding.is_note for finding in of_file):
                    good.append((record, shape))
            except Unusable as unusable:
                of_file.append(Finding(record.name, record.origin, unusable.kind, unusable.detail))
            findings += of_file
    finally:
        runner.close()
    buckets: Counter[str] = Counter()
    for record, shape in good:
        if total_batch is not None and is_rare(planned[shape], total_batch, settings.min_bucket_batches):
            detail = rare_detail(shape, planned[shape], total_batch, settings)
            findings.append(Finding(record.name, record.origin, RARE, detail))
        else:
            buckets[f"{shape.frames} x {shape.height} x {shape.width}"] += 1
    return CheckReport(len(source) + len(found.bad), tuple(findings), dict(buckets.most_common()))


def _file_findings(record: Record, facts: Facts | Failed) -> Iterator[Finding]:
    """What is wrong with a file, and where the annotation says something else than the file."""

    def finding(kind: str, reason: str) -> Finding:
        return Finding(record.name, record.origin, kind, reason)

    if isinstance(facts, Failed):
        reason = facts.reason.removeprefix(f"{record.path}: ")
        yield finding("unreadable" if record.path.exists() else "missing", reason)
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


def _notes(record: Record, facts: Facts | Failed, refuses_hdr: bool) -> Iterator[Finding]:
    """What is unusual about a file and, as a rule, read all the same."""
    if isinstance(facts, Failed):
        return
    for kind, detail in facts.notes:
        is_refused = kind == "HDR" and refuses_hdr
        reason = f"{detail.partition(';')[0]}; set data.media.hdr to tone_map to train on it" if is_refused else detail
        yield Finding(record.name, record.origin, kind, reason, is_note=not is_refused)


def _embedding_findings(record: Record) -> Iterator[Finding]:
    """The first caption without its text states, where the annotation names a folder of them."""
    if record.embeddings is None:
        return
    for number in range(len(record.captions)):
        path = embedding_path(record.embeddings, record.name, number)
        if not path.is_file():
            yield Finding(record.name, record.origin, "no embedding", f"its text states are missing: {path}")
            return
