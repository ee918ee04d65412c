"""Looking over annotations before training: every row that would not be trained on, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from ..bucketing.table import BucketTable
from ..config.data import DataSettings
from ..errors import ConfigError, MediaError
from ..shapes import Compression, VideoShape
from .annotations import Annotations, read_annotations
from .bucket_check import BucketEpoch, first_buckets, first_epoch
from .bucket_plan import check_buckets
from .class_folders import ClassFolders
from .embedding_folder import embedding_path
from .plan import RARE, is_rare, rare_detail
from .pool import make_runner
from .probing import complete, probe
from .reading import Facts
from .records import BadRow, Record
from .selection import RecordDraws, Unusable, check_settings, plan_shape
from .sources import FileSource, fitted, labelled_folder
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


class CheckedRow(NamedTuple):
    """A record, the shape it would be trained at (None: it is left out), and what was found about it.

    In buckets the shape is that of the first bucket that it can be in; chance decides.
    """

    record: Record
    shape: VideoShape | None
    findings: tuple[Finding, ...]

    @property
    def is_good(self) -> bool:
        return self.shape is not None and all(finding.is_note for finding in self.findings)


@dataclass(frozen=True)
class CheckReport:
    """What became of every row."""

    checked: tuple[CheckedRow, ...]
    unread: tuple[BadRow, ...]
    """Rows that make no record."""
    epoch: BucketEpoch | None = None
    """The first in buckets, where there are buckets and clips for a batch."""

    @property
    def rows(self) -> int:
        return len(self.checked) + len(self.unread)

    @property
    def num_good(self) -> int:
        return sum(row.is_good for row in self.checked)

    @property
    def num_bad(self) -> int:
        """Rows that would not be trained on, or are not as their annotation says."""
        return self.rows - self.num_good

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """Of the rows that make no record, and then of all others."""
        unread = (Finding(bad.name, bad.origin, "bad row", bad.reason) for bad in self.unread)
        return (*unread, *(finding for row in self.checked for finding in row.findings))

    @property
    def buckets(self) -> dict[str, int]:
        """Good rows by the shape they are trained at, "frames x height x width"; the most frequent first."""
        shapes = Counter(row.shape for row in self.checked if row.is_good)
        return {" x ".join(map(str, shape)): count for shape, count in shapes.most_common() if shape}

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
            **({"epoch": self.epoch.as_json()} if self.epoch else {}),
            "findings": [finding._asdict() for finding in self.findings],
        }


Buckets = Mapping[str, Mapping[str, Any]]
Known = dict[tuple[Path, int, int | None], Facts | Failed]
"""What files said when they were opened, by path, first frame and number of frames."""


class Check:
    """Looks a training set over, once or again with other settings."""

    def __init__(
        self,
        files: Sequence[Path],
        compression: Compression,
        decodes_all: bool = False,
        seed: int = 0,
        total_batch: int | None = None,
        table_of: Callable[[Buckets], BucketTable] | None = None,
        accumulate: int = 1,
    ) -> None:
        """decodes_all: decode every frame of every clip, which finds damage in the middle.

        seed: short clips are dropped by chance where settings say so. total_batch: clips of an optimiser step, on which
        it depends how many a size needs; None: rare sizes count as good. table_of: makes one of the setting
        `data.buckets`, with which no file is opened but to fill in what annotations lack, or to decode all. accumulate:
        batches of a step.
        """
        self.files, self.compression, self.decodes_all = tuple(files), compression, decodes_all
        self.seed, self.total_batch = seed, total_batch
        self.table_of, self.accumulate = table_of, accumulate
        self._known: Known = {}

    def __call__(self, settings: DataSettings) -> CheckReport:
        """Read annotations, open every file they name, and apply the rules by which training chooses.

        Each file is opened once, however often this is called.
        Raises: MediaError when an annotation cannot be read at all; ConfigError and ShapeError for unfit settings.
        """
        settings = fitted(settings, self.compression)
        check_settings(settings, self.compression)
        found = self._read(settings)
        if not found.records and not found.bad:
            raise MediaError(f"{', '.join(map(str, self.files))}: holds no record of a clip")
        if settings.buckets is not None:
            return self._in_buckets(found.records, found.bad, settings)
        self._open(found.records, settings)
        rows = [self._row(number, record, settings) for number, record in enumerate(found.records)]
        rows = self._without_rare(rows, settings)
        return CheckReport(tuple(rows), tuple(found.bad))

    def _read(self, settings: DataSettings) -> Annotations:
        if settings.kind == "features":
            raise ConfigError("data.kind = features: every run looks over these before it begins; train with --dry-run")
        if settings.kind == "class_folders":
            of_classes = ClassFolders(labelled_folder(settings.model_copy(update={"files": self.files})))
            return Annotations([of_classes[number] for number in range(len(of_classes))], [])
        return read_annotations(self.files, settings.root)

    def _in_buckets(self, records: Sequence[Record], bad: Sequence[BadRow], settings: DataSettings) -> CheckReport:
        assert self.table_of is not None, "buckets need the sizes of a recipe"
        table = self.table_of(settings.buckets or {})
        check_buckets(table, self.compression)
        if settings.probe or self.decodes_all:
            self._open(records, settings)
        known = [self._findings(record, settings) for record in records]
        rows = []
        for (record, findings), bucket in zip(
            known, first_buckets([record for record, _ in known], settings, table), strict=True
        ):
            if isinstance(bucket, Unusable):
                why = Finding(record.name, record.origin, bucket.kind, bucket.detail)
                rows.append(CheckedRow(record, None, (*findings, why)))
            else:
                rows.append(CheckedRow(record, table.video(bucket), findings))
        of_run = [row.record for row in rows]  # those that are left out too: draws go by the number of a record
        epoch = first_epoch(of_run, settings, table, self.compression, self.seed, self.accumulate)
        return CheckReport(tuple(rows), tuple(bad), epoch)

    def _open(self, records: Sequence[Record], settings: DataSettings) -> None:
        """Find out what the files of records say about themselves."""
        as_far_as_possible = settings.media.model_copy(update={"hdr": "tone_map"})
        source = FileSource(records, settings.reader, media=as_far_as_possible)
        unknown = [number for number, record in enumerate(records) if _key(record) not in self._known]
        if not unknown:
            return
        runner = make_runner(settings.workers, settings.timeout_seconds)
        try:
            for number, facts in probe(source, unknown, runner, self.decodes_all):
                self._known[_key(records[number])] = facts
        finally:
            runner.close()

    def _findings(self, record: Record, settings: DataSettings) -> tuple[Record, tuple[Finding, ...]]:
        """A record with what is known of it, and what was found about it."""
        findings = [*_embedding_findings(record)]
        if (facts := self._known.get(_key(record))) is not None:
            findings = [*_file_findings(record, facts), *findings]
            findings += _notes(record, facts, refuses_hdr=settings.media.hdr == "refuse")
        if isinstance(facts, Facts) and settings.probe:
            record = complete(record, facts)
        return record, tuple(findings)

    def _row(self, number: int, record: Record, settings: DataSettings) -> CheckedRow:
        record, found = self._findings(record, settings)
        findings = list(found)
        shape = None
        try:
            shape = plan_shape(record, settings, self.compression, 1, RecordDraws(self.seed, number))
        except Unusable as unusable:
            findings.append(Finding(record.name, record.origin, unusable.kind, unusable.detail))
        return CheckedRow(record, shape, tuple(findings))

    def _without_rare(self, rows: Sequence[CheckedRow], settings: DataSettings) -> list[CheckedRow]:
        """Good rows of a size that has too few get a finding that says so."""
        planned = Counter(row.shape for row in rows)
        return [self._unless_rare(row, planned[row.shape], settings) for row in rows]

    def _unless_rare(self, row: CheckedRow, count: int, settings: DataSettings) -> CheckedRow:
        if not row.is_good or self.total_batch is None or row.shape is None:
            return row
        if not is_rare(count, self.total_batch, settings.min_bucket_batches):
            return row
        detail = rare_detail(row.shape, count, self.total_batch, settings)
        rare = Finding(row.record.name, row.record.origin, RARE, detail)
        return CheckedRow(row.record, row.shape, (*row.findings, rare))


def _key(record: Record) -> tuple[Path, int, int | None]:
    return record.path, record.start, record.num_frames


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
