"""Which frames of a file are trained on where its rate varies: those that a player shows at each moment."""

import re
from pathlib import Path

import numpy as np
import pytest

from duosora.core import random
from duosora.core.config.data import DataSettings
from duosora.core.data.probing import complete
from duosora.core.data.reading import ProbeJob, ReadJob
from duosora.core.data.records import Record
from duosora.core.data.selection import RecordDraws, choose_frames, choose_moments
from duosora.core.data.sources import Frames, OpenedClip
from duosora.core.errors import MediaError
from duosora.core.io.timeline import Timeline
from duosora.core.shapes import Causal, VideoShape

SIDE = 8
STARTS = np.array([number / 60 for number in range(16)] + [16 / 60 + 0.095 * number for number in range(17)])
"""33 frames, of which 16 come at 60 a second; 1.88 s in all."""
DURATION = float(STARTS[-1]) + 0.095


class Timed(Frames):
    """A clip whose frames show their number."""

    def __init__(self, timeline: Timeline) -> None:
        numbers = np.arange(len(timeline.starts), dtype=np.uint8)[:, None, None, None]
        super().__init__(np.broadcast_to(numbers, (len(numbers), SIDE, SIDE, 3)))
        self.timeline = timeline  # type: ignore[assignment]


def opener(record: Record, draw: np.random.Generator) -> OpenedClip:
    return Timed(Timeline.of(STARTS, 0.095, stated=60.0))


def settings(fps: float, frames: int) -> DataSettings:
    return DataSettings(fps=fps, frames=frames, min_frames=1, height=SIDE, width=SIDE, drop_short=0.0)


def record(**said: object) -> Record:
    return Record(path=Path("a.mp4"), name="a.mp4", captions=("a",), height=SIDE, width=SIDE, **said)  # type: ignore[arg-type]


def frames_read(known: Record, chosen: DataSettings) -> list[int]:
    """The numbers of the frames that a sample shows."""
    moments = choose_moments(known, chosen, Causal(1, 1), 1, RecordDraws(0, 0))
    shape = VideoShape(len(moments), SIDE, SIDE)
    pixels = ReadJob(opener, known, tuple(moments.tolist()), chosen, shape, (0, 0, 0))()
    return np.rint((pixels[0, :, 0, 0] + 1) * 127.5).astype(int).tolist()


def shown_at(seconds: np.ndarray) -> list[int]:
    return (np.searchsorted(STARTS, seconds + 1e-3, "right") - 1).tolist()


@pytest.mark.parametrize("fps", [6, 10, 18, 24, 30, 60])
def test_frames_are_those_shown_at_the_rate_of_the_settings(fps: int) -> None:
    known = complete(record(), ProbeJob(opener, record())())
    assert known.fps == pytest.approx(33 / DURATION)
    count = int(np.ceil(DURATION * fps - 1e-6))
    assert frames_read(known, settings(fps, count)) == shown_at(np.arange(count) / fps)


@pytest.mark.parametrize(("start", "length"), [(0, 16), (4, 20), (20, 13)])
def test_a_part_of_a_file_has_a_rate_of_its_own(start: int, length: int) -> None:
    known = complete(record(start=start, num_frames=length), ProbeJob(opener, record(start=start, num_frames=length))())
    ends = np.append(STARTS, DURATION)
    lasts = ends[start + length] - ends[start]
    assert known.fps == pytest.approx(length / lasts)
    count = int(np.ceil(lasts * 30 - 1e-6))
    found = frames_read(known, settings(30, count))
    assert found == shown_at(STARTS[start] + np.arange(count) / 30)
    assert max(found) < start + length


def test_a_rate_that_promises_more_than_there_is_names_the_right_one() -> None:
    words = "its rate varies, and frames 0 to 15 last 0.267 s, not the 0.889 s that follow from its fps; set that to 60"
    with pytest.raises(MediaError, match=re.escape(words)):
        frames_read(record(num_frames=16, fps=18.0), settings(18, 16))


def test_a_constant_rate_is_counted_as_before() -> None:
    def steady(known: Record, draw: np.random.Generator) -> OpenedClip:
        return Timed(Timeline.of(np.round(np.arange(50) / 24, 3), 0.042, stated=24.0))

    known, chosen = record(num_frames=50, fps=24.0), settings(18, 30)
    moments = choose_moments(known, chosen, Causal(1, 1), 1, RecordDraws(0, 0))
    numbers = choose_frames(known, chosen, Causal(1, 1), 1, RecordDraws(0, 0))
    assert numbers.dtype == np.int64
    job = ReadJob(steady, known, tuple(moments.tolist()), chosen, VideoShape(30, SIDE, SIDE), (0, 0, 0))
    assert np.rint((job()[0, :, 0, 0] + 1) * 127.5).astype(int).tolist() == numbers.tolist()
    assert ProbeJob(steady, known)().fps == 24.0


def test_time_stamps_that_a_container_rounds_are_of_constant_rate() -> None:
    draw = random.stream(0, "jitter")
    for fps in (23.976, 24, 25, 29.97, 50, 59.94, 120):
        exact = np.arange(300) / fps
        for starts in (np.round(exact, 3), exact + draw.uniform(-0.1, 0.1, 300) / fps, exact + 17):
            line = Timeline.of(np.sort(starts), 1 / fps, stated=fps)
            assert not line.is_variable
            assert line.fps == fps
            assert Timeline.of(np.sort(starts), 0, stated=None).fps == pytest.approx(fps, rel=0.01)


@pytest.mark.parametrize(
    "gaps",
    [
        [0.1, 0.3, 0.1],
        [0.04] * 20 + [0.02] * 20,
        [0.04] * 20 + [0.2] + [0.04] * 20,
        [0.1, 0.2, 0.05],
        [0.04] * 10 + [1.0],
    ],
)
def test_other_time_stamps_are_of_variable_rate_and_keep_their_duration(gaps: list[float]) -> None:
    line = Timeline.of(np.cumsum([0.0, *gaps[:-1]]), gaps[-1], stated=25.0)
    assert line.is_variable
    assert line.duration == pytest.approx(sum(gaps))
    assert line.fps == pytest.approx(len(gaps) / sum(gaps))
    for fps in (5, 24, 60, line.fps):
        numbers = line.resampled(fps)
        assert len(numbers) / fps == pytest.approx(line.duration, abs=1 / fps)
        assert (np.diff(numbers) >= 0).all()
    assert len(line.resampled(line.fps)) == len(gaps)
