"""Filling in what annotations lack (size, length, rate) from the files themselves."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from ..progress import progress
from .pool import JobRunner
from .reading import Facts, ProbeJob
from .records import Record
from .sources import RecordSource

AT_ONCE = 64
"""Jobs that wait or run."""


class ProbedSource:
    """A source whose records were completed."""

    def __init__(self, source: RecordSource, completed: dict[int, Record]) -> None:
        self.opener, self.bad = source.opener, source.bad
        self._source, self._completed = source, completed

    def __len__(self) -> int:
        return len(self._source)

    def record(self, number: int) -> Record:
        return self._completed.get(number) or self._source.record(number)


def probed(source: RecordSource, runner: JobRunner) -> RecordSource:
    """The source with records completed where they lack something and their files can be opened."""
    lacking = [number for number in range(len(source)) if lacks_something(source.record(number))]
    completed = {}
    for number, facts in probe(source, lacking, runner):
        if isinstance(facts, Facts):
            completed[number] = complete(source.record(number), facts)
    return ProbedSource(source, completed)


def probe(
    source: RecordSource, numbers: Sequence[int], runner: JobRunner, decodes_all: bool = False
) -> Iterator[tuple[int, Any]]:
    """What each of these records' files says about itself, Facts or Failed, in their order."""
    waiting: deque[int] = deque()
    for number in progress(numbers, "opening clips", "clip"):
        runner.submit(("probe", number), ProbeJob(source.opener, source.record(number), decodes_all))
        waiting.append(number)
        if len(waiting) >= AT_ONCE:
            yield waiting[0], runner.result(("probe", waiting.popleft()))
    while waiting:
        yield waiting[0], runner.result(("probe", waiting.popleft()))


def lacks_something(record: Record) -> bool:
    """Whether an annotation left out what the choice of frames and size needs."""
    lacks_size = record.height is None or record.width is None
    return lacks_size or (record.is_video and (record.num_frames is None or record.fps is None))


def complete(record: Record, facts: Facts) -> Record:
    """A record with what its annotation lacks; what that says stays."""
    has_size = record.height is not None and record.width is not None
    return replace(
        record,
        height=record.height if has_size else facts.height,
        width=record.width if has_size else facts.width,
        num_frames=max(facts.num_frames - record.start, 1) if record.num_frames is None else record.num_frames,
        fps=record.fps or facts.fps,
    )
