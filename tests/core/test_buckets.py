"""Training in buckets: the same batches for any number of readers and from any step on, every clip once an epoch."""

import sys
from collections import Counter, deque
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from duosora.core.bucketing.size_table import Resolution, SizeTable
from duosora.core.bucketing.table import BucketTable
from duosora.core.config.data import DataSettings
from duosora.core.config.loading import load
from duosora.core.config.settings import read, resolved
from duosora.core.config.training import TrainConfig
from duosora.core.data.batch import ClipBatch
from duosora.core.data.bucket_order import Bucketing
from duosora.core.data.check import Check, CheckReport
from duosora.core.data.loader import ClipLoader
from duosora.core.data.records import Record
from duosora.core.data.selection import RecordDraws, choose_window
from duosora.core.data.sources import FileSource, Frames, OpenedClip
from duosora.core.errors import ConfigError, MediaError, ShapeError
from duosora.core.io.video import write_video
from duosora.core.maths.cover import cover_picture, cover_video
from duosora.core.pipelines.following import trained
from duosora.core.seam.models import Given
from duosora.core.seam.ranks import ParallelPlan, Ranks
from duosora.core.seam.training import DiffusionBatch
from duosora.core.shapes import Causal, Compression, Grouped, Patch
from duosora.core.train.feeding import Fed, Feeding, MicroBatchFacts
from duosora.core.train.setup.readers import Readers

sys.path.append(str(Path(__file__).parent))
import thread_ranks

SIZES = SizeTable(
    {
        "8p": Resolution(8 * 8, {"0.50": (6, 12), "1.00": (8, 8)}),
        "17p": Resolution(17 * 17, {"0.50": (12, 24), "1.00": (17, 17)}),
    },
    {},
    {},
)
"""Sides that are whole neither in latents nor in patches, as in the published tables."""
COMPRESSION, PATCH = Grouped(3, 2, 2), Patch(1, 2)
TABLE = {"8p": {"1": [1.0, 3], "5": [1.0, 2]}, "17p": {"1": [0.5, 2], "3": [0.7, 3], "5": [[0.5, 0.6], 1]}}
CERTAIN = {"8p": {"1": [1.0, 3], "5": [1.0, 2]}, "17p": {"3": [1.0, 3]}}
WIDE = (12, 24)


class Clips:
    """Records of given frames, height and width; each file shows its number and how it goes on."""

    bad = ()

    def __init__(self, facts: list[tuple[int | None, int, int]], broken: tuple[int, ...] = (), **more: Any) -> None:
        self.facts, self.more = facts, more
        self.opener = Opener(broken)

    def __len__(self) -> int:
        return len(self.facts)

    def record(self, number: int) -> Record:
        frames, height, width = self.facts[number]
        name = f"{number}.{'png' if frames == 1 else 'mp4'}"
        facts = {"num_frames": frames, "height": height, "width": width, "captions": (f"clip {number}",)}
        return Record(path=Path(name), name=name, **(facts | self.more))


class Opener:
    def __init__(self, broken: tuple[int, ...]) -> None:
        self.broken = broken

    def __call__(self, record: Record, draw: np.random.Generator) -> OpenedClip:
        number = int(record.path.stem)
        if number in self.broken:
            raise MediaError(f"{record.path}: is damaged")
        return Frames(pixels(number, record))


def pixels(number: int, record: Record) -> np.ndarray:
    """Frames that go up by one each, with a slope along both sides."""
    frames = np.zeros((record.num_frames, record.height, record.width, 3), np.uint8)  # type: ignore[arg-type]
    frames += np.arange(len(frames), dtype=np.uint8)[:, None, None, None]
    frames += np.arange(frames.shape[1], dtype=np.uint8)[:, None, None] * 3
    frames += np.arange(frames.shape[2], dtype=np.uint8)[:, None] * 2
    frames[..., 0] = number
    return frames


MORE = ("frame_interval", "drop_last", "fps", "height", "tells_file_rate")
"""Options of `loader` that are settings."""


def mixed_clips(count: int) -> Clips:
    """Pictures, short and long clips, some too small for anything."""
    sizes = [(12, 24), (17, 17), (8, 9), (30, 20), (3, 3)]
    lengths = [1, 4, 6, 20, 5]
    draw = np.random.default_rng(0)
    return Clips([(lengths[draw.integers(5)], *sizes[draw.integers(5)]) for _ in range(count)], fps=29.97)


def loader(source: Any, table: Any = TABLE, compression: Compression = COMPRESSION, **options: Any) -> ClipLoader:
    more = {name: options.pop(name) for name in MORE if name in options}
    settings = DataSettings(buckets=table, workers=0, caption_dropout=0.0, **more)
    options.setdefault("bucketing", Bucketing((BucketTable(table, SIZES),)))
    return ClipLoader(source, settings, 7, compression, PATCH, **options)


def steps(made: ClipLoader, count: int, start: int = 0) -> list[list[ClipBatch]]:
    with made:
        return list(islice(made.batches(start), count))


def assert_equal(one: list[list[ClipBatch]], other: list[list[ClipBatch]]) -> None:
    for mine, theirs in zip(one, other, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            np.testing.assert_array_equal(a.pixels, b.pixels)
            assert (a.captions, a.samples, a.sources, a.bucket) == (b.captions, b.samples, b.sources, b.bucket)
            assert (a.fps, a.failures) == (b.fps, b.failures)


def flat(many: list[list[ClipBatch]]) -> list[ClipBatch]:
    return [batch for step in many for batch in step]


def test_a_batch_is_of_one_bucket_and_as_large_as_that_says() -> None:
    for batch in flat(steps(loader(mixed_clips(200), accumulation=2), 40)):
        assert batch.bucket is not None
        assert batch.pixels is not None
        assert batch.mask is None
        name, frames = batch.bucket.split()
        assert len(batch.samples) == len(batch.captions) == len(batch.pixels) == TABLE[name][frames][1]
        assert batch.pixels.shape[2] == int(frames)
        assert batch.pixels.shape[3:] in SIZES.resolution(name).sizes.values()
        assert batch.pixels.dtype == np.float32


@pytest.mark.parametrize("readers", [2, 4])
def test_readers_have_together_what_one_has_in_its_order(readers: int) -> None:
    make = lambda **options: loader(mixed_clips(90), accumulation=4, **options)  # noqa: E731
    count = 2 * make().steps_per_epoch + 3
    alone = steps(make(), count)
    shares = [steps(make(readers=readers, reader=reader), count) for reader in range(readers)]
    together = [[share[step][i] for i in range(4 // readers) for share in shares] for step in range(count)]
    assert len({batch.bucket for step in alone for batch in step}) > 3
    assert any(len({len(batch.samples) for batch in step}) > 1 for step in alone), "sizes are to differ within a step"
    assert_equal(together, alone)


def test_accumulation_changes_neither_batches_nor_their_samples() -> None:
    one, three = (flat(steps(loader(mixed_clips(90), accumulation=n), 60 // n)) for n in (1, 3))
    assert_equal([one], [three])


def test_any_step_is_the_same_whether_or_not_the_steps_before_were_read() -> None:
    make = lambda: loader(mixed_clips(90), accumulation=3)  # noqa: E731
    count = 3 * make().steps_per_epoch
    whole = steps(make(), count)
    for start in range(1, count, 4):
        assert_equal(steps(make(), count - start, start), whole[start:])


def test_every_sample_has_a_number_of_its_own() -> None:
    made = loader(mixed_clips(90), accumulation=2)
    numbers = [number for batch in flat(steps(made, 3 * made.steps_per_epoch)) for number in batch.samples]
    assert numbers == list(range(len(numbers)))


def epoch_of(made: ClipLoader) -> list[ClipBatch]:
    return flat(steps(made, made.steps_per_epoch))


def test_an_epoch_has_every_clip_of_a_bucket_once_but_for_the_rest() -> None:
    source = Clips([(6, 17, 17)] * 7 + [(20, 8, 9)] * 5 + [(1, 12, 24)] * 9)
    batches = epoch_of(loader(source, CERTAIN))
    assert Counter(batch.bucket for batch in batches) == {"17p 3": 2, "8p 5": 2, "8p 1": 3}
    assert max(Counter(name for batch in batches for name in batch.sources).values()) == 1


def test_what_fills_no_batch_changes_from_epoch_to_epoch_or_is_filled_up() -> None:
    source = Clips([(6, 17, 17)] * 7)
    seen = {name for batch in flat(steps(loader(source, CERTAIN), 20)) for name in batch.sources}
    assert len(seen) == 7
    batches = epoch_of(loader(source, CERTAIN, drop_last=False))
    assert [len(batch.samples) for batch in batches] == [3, 3, 3]
    assert len({name for batch in batches for name in batch.sources}) == 7


def test_chance_sends_a_clip_elsewhere_in_another_epoch_as_often_as_the_table_says() -> None:
    made = loader(Clips([(20, 17, 17)] * 1000))
    with made:
        assigned = [made.plan.name(place, epoch) for epoch in range(4) for place in range(1000)]  # type: ignore[call-arg]
    shares = {name: count / 4000 for name, count in Counter(assigned).items()}
    expected = {"17p 5": 0.6 * 0.5, "17p 3": 0.4 * 0.7, "8p 5": 0.6 * 0.5 + 0.4 * 0.3}
    assert shares.keys() == expected.keys()
    assert all(abs(shares[name] - share) < 0.03 for name, share in expected.items())
    assert assigned[:1000] != assigned[1000:2000]


def test_a_clip_is_covered_and_cut_in_time_as_upstream_does() -> None:
    (batch,) = epoch_of(loader(Clips([(20, 16, 21)] * 2), {"8p": {"5": [1.0, 2]}}, frame_interval=3))
    assert batch.pixels is not None
    for row, source in enumerate(batch.sources):
        record = Clips([(20, 16, 21)] * 2).record(int(source.partition(".")[0]))
        levels = pixels(int(source.partition(".")[0]), record)
        fitting = [
            start
            for start in range(20 - 15)
            if np.array_equal(
                batch.pixels[row],
                2 * cover_video(levels[np.linspace(start, start + 14, 5).astype(int)], 8, 8).transpose(3, 0, 1, 2) - 1,
            )
        ]
        assert len(fitting) == 1


def test_a_picture_is_covered_as_upstream_does() -> None:
    source = Clips([(1, 13, 22)] * 2)
    (batch,) = epoch_of(loader(source, {"8p": {"1": [1.0, 2]}}))
    assert batch.pixels is not None
    number = int(batch.sources[0].partition(".")[0])
    expected = cover_picture(pixels(number, source.record(number))[0], 6, 12).transpose(2, 0, 1)
    np.testing.assert_allclose(batch.pixels[0, :, 0], expected / np.float32(127.5) - 1, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("fps", "interval", "told"), [(29.97, 1, 29.0), (29.97, 2, 14.0), (None, 1, 24.0), (None, 3, 8.0)]
)
def test_the_rate_told_is_the_files_rounded_down(fps: float | None, interval: int, told: float) -> None:
    made = loader(Clips([(20, 8, 8)] * 2, fps=fps), CERTAIN, frame_interval=interval)
    assert epoch_of(made)[0].fps == (told, told)


@pytest.mark.parametrize(("fps", "told"), [(29.97, 29.97), (None, 24.0)])
def test_the_files_own_rate_is_told_where_asked(fps: float | None, told: float) -> None:
    made = loader(Clips([(20, 8, 8)] * 2, fps=fps), CERTAIN, frame_interval=3, tells_file_rate=True)
    assert epoch_of(made)[0].fps == (told, told)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_says_its_rate_where_the_annotation_does_not(tmp_path: Path, workers: int) -> None:
    for number, fps in enumerate((30, 12.5)):
        write_video(tmp_path / f"{number}.mp4", np.zeros((8, 16, 16, 3), np.uint8), fps)
    facts = {"num_frames": 8, "height": 16, "width": 16, "captions": ("a clip",)}
    records = [Record(path=tmp_path / f"{number}.mp4", name=f"{number}.mp4", **facts) for number in (0, 1)]
    settings = DataSettings(buckets={"8p": {"5": [1.0, 2]}}, workers=workers, caption_dropout=0.0)
    bucketing = Bucketing((BucketTable({"8p": {"5": [1.0, 2]}}, SIZES),))
    with ClipLoader(FileSource(records), settings, 0, COMPRESSION, PATCH, bucketing=bucketing) as made:
        (batch,) = next(made.batches())
    assert dict(zip((Path(source).name for source in batch.sources), batch.fps, strict=True)) == {
        "0.mp4": 30.0,
        "1.mp4": 12.0,
    }


def test_a_clip_that_fails_is_replaced_by_one_of_its_bucket_in_that_epoch() -> None:
    source = mixed_clips(90)
    source.opener = Opener(tuple(range(0, 90, 4)))
    made = loader(source)
    batches = flat(steps(made, 4 * made.steps_per_epoch))
    failures = [failure for batch in batches for failure in batch.failures]
    assert {failure.reason for failure in failures} == {"is damaged"}
    places = {f"{made.record(place).path}": place for place in range(len(made.plan))}
    num_moved = 0
    for number, batch in enumerate(batches):
        assert batch.pixels is not None
        assert batch.bucket is not None
        epoch = made.order.micro_batch(number, 0).epochs[0]
        stand_ins = [places[str(failure.replaced_by)] for failure in batch.failures]
        num_moved += sum(made.plan.name(place, epoch) != batch.bucket for place in stand_ins)
        assert batch.pixels.shape[2] == int(batch.bucket.split()[1])
        shown = np.rint((batch.pixels[:, 0, 0, 0, 0] + 1) * 127.5).astype(int).tolist()
        assert [int(name.partition(".")[0]) for name in batch.sources] == shown
    assert num_moved < len(failures) / 10, "of a bucket with no good clip left"
    assert_equal([batches[9:]], [flat(steps(loader(source), len(batches) - 9, 9))])


def test_a_bucket_whose_every_clip_fails_takes_others_that_fit_there() -> None:
    source = Clips([(20, 12, 24)] + [(20, 17, 17)] * 4 + [(20, 8, 8)] * 3, broken=(0,))
    batches = epoch_of(loader(source, {"17p": {"3": [1.0, 1]}, "8p": {"3": [1.0, 1]}}))
    (replaced,) = (batch for batch in batches if batch.failures)
    assert replaced.pixels is not None
    assert (replaced.pixels.shape, replaced.bucket) == ((1, 3, 3, 12, 24), "17p 3")
    assert replaced.sources[0] in ("1.mp4", "2.mp4", "3.mp4", "4.mp4"), "as large as the bucket needs"
    table = {"17p": {"3": [1.0, 1]}, "8p": {"5": [1.0, 1]}}
    batches = epoch_of(loader(Clips([(20, 8, 8)] + [(20, 17, 17)] * 4, broken=(0,)), table))
    assert [batch.bucket for batch in batches if batch.failures] == ["8p 5"]
    with pytest.raises(MediaError, match="all 5 clips of 3 x .* failed"):
        epoch_of(loader(Clips(source.facts, broken=(0, 1, 2, 3, 4)), {"17p": {"3": [1.0, 1]}, "8p": {"3": [1.0, 1]}}))


@pytest.mark.parametrize(("workers", "ahead"), [(0, 0), (1, 2), (8, 2), (12, 3), (40, 10)])
def test_no_more_is_read_ahead_than_keeps_the_processes_busy(workers: int, ahead: int) -> None:
    with loader(Clips([(20, 8, 8)] * 80), {"8p": {"5": [1.0, 4]}}) as made:
        made.settings = made.settings.model_copy(update={"workers": workers})
        numbers = iter(range(99))
        source = (number for number in numbers)
        made._next(deque(), (made.order.micro_batch(number, 0) for number in source))
        assert next(numbers) == 1 + ahead


def test_a_window_begins_where_the_record_does() -> None:
    record = Record(path=Path("a.mp4"), name="a.mp4", num_frames=20, start=100)
    moments = choose_window(record, 5, 3, RecordDraws(0, 0))
    assert set(np.diff(moments)) <= {3.0, 4.0}
    assert 100 <= moments[0] <= 104


def test_what_is_left_out_does_not_change_the_chances_of_others() -> None:
    facts: list[tuple[int | None, int, int]] = [(20, 17, 17)] * 60
    with loader(Clips(facts)) as whole, loader(Clips([(None, 3, 3)] * 20 + facts[20:])) as part:
        later = {place + 20: part.plan.name(place, 1) for place in range(40)}
        assert later == {place: whole.plan.name(place, 1) for place in later}


def test_what_has_no_size_length_caption_or_bucket_is_left_out_and_counted() -> None:
    source = Clips([(20, 17, 17)] * 4 + [(None, 17, 17), (20, 3, 3), (2, 17, 17), (1, 3, 30)])
    with loader(source, CERTAIN) as made:
        assert made.plan.counts() == {"used": 5, "in no bucket": 2, "no length": 1}
        assert "5 clips of 2 resolutions in buckets, 1 steps an epoch; left out: 2 in no bucket" in made.describe()


def test_without_a_clip_or_a_whole_batch_nothing_is_trained() -> None:
    with pytest.raises(MediaError, match="no clip can be trained on: 3 in no bucket"):
        loader(Clips([(20, 3, 3)] * 3), CERTAIN)
    with pytest.raises(MediaError, match=r"no bucket has enough of the 2 clips .* or set data.drop_last=false"):
        loader(Clips([(6, 17, 17)] * 2), CERTAIN)


@pytest.mark.parametrize(("name", "value"), [("fps", 24.0), ("height", 64)])
def test_what_buckets_have_no_use_for_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"data.{name}: data.buckets have no use for it"):
        loader(mixed_clips(20), **{name: value})


def test_buckets_that_the_autoencoder_cannot_encode_are_refused() -> None:
    with pytest.raises(ShapeError, match="data.buckets.17p.3: num_frames = 3: needs 1 \\+ a multiple of 4"):
        loader(mixed_clips(20), CERTAIN, Causal(4, 1))


def test_each_bucket_is_measured_by_itself_on_the_same_few_batches() -> None:
    source = Clips([(6, 17, 17)] * 7 + [(20, 8, 9)] + [(20, 30, 30)] * 4)
    table = {"8p": {"1": [1.0, 3], "5": [0.1, 2]}, "17p": {"3": [[0.2, 0.3], 3], "5": [0.0, None]}}
    made = loader(source, table, bucketing=Bucketing.to_measure(BucketTable(table, SIZES), 2))
    with made:
        batches = [batch for (batch,) in made.of_steps(range(made.steps_per_epoch))]
        again = [batch for (batch,) in made.of_steps(range(made.steps_per_epoch))]
    assert [(batch.bucket, len(batch.samples)) for batch in batches] == [
        ("17p 3", 3),
        ("17p 3", 3),
        ("8p 5", 2),
        ("8p 5", 2),
    ]
    assert_equal([batches], [again])


def test_clips_too_few_for_a_batch_are_measured_in_a_smaller_one() -> None:
    source = Clips([(20, 17, 17)] * 2 + [(20, 12, 24)] * 4)
    made = loader(source, CERTAIN, bucketing=Bucketing.to_measure(BucketTable({"17p": {"3": [1.0, 3]}}, SIZES), 9))
    with made:
        found = [len(batch.samples) for (batch,) in made.of_steps(range(made.steps_per_epoch))]
    assert sorted(found) == [2, 3]


def written(folder: Path, rows: list[tuple[Any, ...]]) -> Path:
    """A table as upstream's tools write it."""
    lines = ["path,text,num_frames,height,width,aspect_ratio,resolution,fps,text_len"]
    for number, (frames, height, width) in enumerate(rows):
        name = f"{number}.{'jpg' if frames == 1 else 'mp4'}"
        size = f"{height},{width},{height / width},{height * width}" if height else ",,,"
        lines.append(f"{name},clip {number},{frames},{size},29.97,2")
    (folder / "meta.csv").write_text("\n".join(lines) + "\n")
    return folder / "meta.csv"


def checked(file: Path, table: Any, accumulate: int = 1, **settings: Any) -> CheckReport:
    table_of = lambda buckets: BucketTable(buckets, SIZES)  # noqa: E731
    check = Check([file], COMPRESSION, seed=7, table_of=table_of, accumulate=accumulate)
    return check(DataSettings(buckets=table, workers=0, **settings))


def test_a_check_tells_the_first_epoch_of_a_run_without_opening_a_file(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    rows = [((1, 4, 6, 20)[draw.integers(4)], *((12, 24), (17, 17), (3, 3))[draw.integers(3)]) for _ in range(150)]
    report = checked(written(tmp_path, rows), TABLE, accumulate=2)
    with loader(Clips(rows), accumulation=2) as made:
        assert report.epoch is not None
        assert report.epoch.steps == made.steps_per_epoch
        order = made.order
        epoch = [order.micro_batch(step, part) for step in range(report.epoch.steps) for part in range(2)]
        names = Counter(made.plan.name(batch.places[0], 0) for batch in epoch if batch.epochs[0] == 0)
    assert {f"{each.resolution} {each.frames}": each.batches for each in report.epoch.buckets if each.batches} == names
    read = sum(each.batches * (each.batch_size or 0) for each in report.epoch.buckets)
    assert report.num_good == read + report.epoch.in_no_batch + report.epoch.by_chance
    assert report.counts() == {"in no bucket": sum(height == 3 for _, height, _ in rows)}


def test_a_check_says_why_a_row_is_in_no_bucket(tmp_path: Path) -> None:
    report = checked(written(tmp_path, [(20, 17, 17)] * 3 + [(5, 8, 8), (20, 7, 7), (6, "", "")]), CERTAIN)
    assert [(finding.path, finding.kind) for finding in report.findings] == [
        ("3.mp4", "in no bucket"),
        ("4.mp4", "in no bucket"),
        ("5.mp4", "no size"),
    ]
    assert report.findings[0].reason == (
        "fits no bucket: 5 frames of 8 x 8 pixels; it needs 80% of the pixels of a resolution, and a clip more frames "
        "than the bucket has"
    )
    assert report.as_json()["epoch"]["buckets"][0] == {
        "resolution": "17p",
        "frames": 3,
        "clips": 3,
        "batches": 1,
        "batch_size": 3,
    }


def test_a_bucket_of_probability_zero_keeps_longer_clips_from_shorter_ones_of_its_resolution(tmp_path: Path) -> None:
    table = {"8p": {"3": [1.0, 1], "5": [0.0, None]}}
    report = checked(written(tmp_path, [(20, 8, 8), (5, 8, 8)]), table)
    assert [finding.path for finding in report.findings] == ["0.mp4"]


def test_clips_that_fill_no_batch_may_come_twice(tmp_path: Path) -> None:
    report = checked(written(tmp_path, [(20, 17, 17)] * 4), CERTAIN, drop_last=False)
    assert report.epoch is not None
    assert (report.epoch.steps, report.epoch.in_no_batch) == (2, -2)
    assert checked(written(tmp_path, [(20, 17, 17)] * 2), CERTAIN).epoch is None


IN_BUCKETS = {"144p": {51: [1.0, 2], 102: [[1.0, 0.3], 1]}}
RUN = {"model": {"recipe": "opensora_v1_2"}, "data": {"files": ["a.csv"], "buckets": IN_BUCKETS}}


def run_with(**changes: Any) -> TrainConfig:
    groups = {name: {**RUN.get(name, {}), **change} for name, change in changes.items() if isinstance(change, dict)}
    return read(TrainConfig, {**RUN, **changes, **groups})


def test_a_run_in_buckets_has_no_lengths_and_rates_and_held_out_clips_are_in_the_same_buckets() -> None:
    config = trained(run_with(validation={"every": 1, "data": {"files": ["b.csv"]}}, data={"frame_interval": 2})).config
    for data in (config.data, config.validation.data):
        assert data is not None
        assert (data.frames, data.min_frames, data.fps) == (None, None, None)
        assert data.buckets == {"144p": {"51": [1.0, 2], "102": [[1.0, 0.3], 1]}}
        assert data.frame_interval == 2
    assert trained(read(TrainConfig, resolved(config))).config == config
    other = trained(run_with(validation={"data": {"files": ["b.csv"], "buckets": None}})).config.validation.data
    assert other is not None
    assert (other.buckets, other.frames, other.fps) == (None, 51, 24.0)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"batch_size": 2}, "batch_size = 2: data.buckets say how large each batch is"),
        ({"caches": {"latents": "cache"}}, "caches.latents: in data.buckets a clip has other latents in each epoch"),
        ({"objective": {"timesteps": {"kind": "stratified"}}}, "objective.timesteps.kind = stratified: the steps of"),
        ({"autoencoder": {}}, "data.buckets: an autoencoder's clips have one size"),
        ({"data": {"frames": 29, "grouped": False}}, "data.frames, data.grouped: data.buckets have no use for it"),
        ({"data": {"upstream": {"mixed_groups": True}}}, "data.upstream.mixed_groups: data.buckets have no use for it"),
        ({"data": {"kind": "moving_shapes"}}, "data.buckets: are for clips of files, not for moving_shapes"),
        ({"data": {"buckets": {}}}, "data.buckets: expected a resolution with its buckets"),
        (
            {"data": {"buckets": {"150p": {1: [1.0, 2]}}}},
            "data.buckets: resolution = '150p': expected one of 144p, 256",
        ),
        ({"model": {"recipe": "tiny"}}, "data.buckets: the recipe tiny has no table of sizes"),
        ({"validation": {"data": {"fps": 8.0}}}, "validation.data.fps: validation.data.buckets have no use for it"),
    ],
)
def test_a_run_whose_buckets_do_not_fit_the_rest_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        trained(run_with(**changes))
    assert str(refused.value).startswith(told)


@pytest.mark.parametrize("name", ["frame_interval", "drop_last"])
def test_what_is_for_buckets_alone_is_refused_without_them(name: str) -> None:
    values = {"frame_interval": 2, "drop_last": False}
    settings = DataSettings(frames=5, fps=24.0, height=16, width=16, **{name: values[name]})
    with pytest.raises(ConfigError, match=f"data.{name} = {str(values[name]).lower()}: is for data.buckets"):
        ClipLoader(Clips([(20, 17, 17)] * 4), settings, 7, Causal(4, 8), PATCH)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("51: 1.0", "data.buckets.240p.51: expected [probability, batch size], got 1.0"),
        ("51: [1.5, 2]", "data.buckets.240p.51: expected probabilities from 0 to 1, got 1.5"),
        ("51: [[0.5], 2]", "data.buckets.240p.51: expected probabilities from 0 to 1, got [0.5]"),
        ("51: [0.5, 0]", "data.buckets.240p.51: expected a batch size of at least 1, got 0"),
        ("51: [0.5, null]", "data.buckets.240p.51: expected a batch size of at least 1, got None"),
        ("2s: [0.5, 1]", "data.buckets.240p.2s: expected a number of frames, got '2s'"),
        ("0: [0.5, 1]", "data.buckets.240p.0: expected a number of frames, got '0'"),
        ("51: [0.5, 1], '051': [0.1, 9]", "data.buckets.240p.051: expected a number of frames, got '051'"),
    ],
)
def test_a_table_in_a_file_that_cannot_be_names_its_place(tmp_path: Path, row: str, told: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"data:\n  buckets:\n    240p: {{{row}}}\n")
    with pytest.raises(ConfigError) as refused:
        load(file, TrainConfig)
    assert str(refused.value) == f"{file}: {told}"


def test_a_bucket_can_be_changed_on_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("data:\n  buckets:\n    240p: {51: [0.5, 4]}\n")
    config = load(file, TrainConfig, ["data.buckets.240p.51=[1.0,8]", "data.buckets.144p.1=[0.1,9]"])
    assert config.data.buckets == {"240p": {"51": [1.0, 8]}, "144p": {"1": [0.1, 9]}}


@pytest.mark.parametrize("plan", [ParallelPlan(), ParallelPlan(data=2, sequence=2)], ids=str)
def test_all_ranks_know_how_many_batches_are_measured(tmp_path: Path, plan: ParallelPlan) -> None:
    settings = {"files": [str(written(tmp_path, [(200, 144, 256)] * 5))], "workers": 0}
    config = trained(run_with(validation={"every": 1, "batches": 2, "data": settings})).config
    readers = Readers(seed=0, batch_size=1, accumulate=1, compression=Grouped(17, 4, 8), recipe=config.model.recipe)
    found = thread_ranks.run(plan, lambda ranks: readers.held_out(config.validation, config.data, ranks).count)  # type: ignore[union-attr]
    assert found == [4] * plan.world, "two batches of each of two buckets"


class Copies:
    """Batches that are the clips themselves."""

    def prepare(self, clips: Sequence[ClipBatch]) -> None:
        pass

    def make(self, clips: ClipBatch, step: int) -> DiffusionBatch:
        assert clips.pixels is not None
        numbers = np.array(clips.samples, np.float64)
        arrays = dict.fromkeys(("timesteps", "signal", "spread", "of_clean", "of_noise", "weights"), numbers)
        given = Given(text=numbers[:, None, None].astype(np.float32), fps=np.array(clips.fps))
        return DiffusionBatch(latents=clips.pixels, noise=clips.pixels, given=given, **arrays)

    def work(self, batch: DiffusionBatch) -> int:
        return batch.latents.size


def fed(ranks: Ranks, count: int) -> list[Fed]:
    """What a rank is fed in the first steps."""
    feeding = Feeding(ranks, Copies())
    if not ranks.leads_team:
        return [feeding.feed(tuple, step) for step in range(count)]
    plan = ranks.plan
    made = loader(mixed_clips(90), accumulation=4, readers=plan.data, reader=plan.place(ranks.rank).data)
    with made:
        source = made.batches()
        return [feeding.feed(lambda: next(source), step) for step in range(count)]


def told(facts: MicroBatchFacts) -> tuple[Any, ...]:
    return facts.samples, facts.work, facts.size, tuple(facts.sources)


@pytest.mark.parametrize("plan", [ParallelPlan(2), ParallelPlan(4), ParallelPlan(data=2, sequence=2)], ids=str)
def test_ranks_with_batches_of_unequal_sizes_have_together_what_one_process_has(plan: ParallelPlan) -> None:
    count = 12
    alone = fed(Ranks(), count)
    of_ranks = thread_ranks.run(plan, lambda ranks: fed(ranks, count))
    assert any(len({facts.samples for facts in step.facts}) > 1 for step in alone)
    for rank, steps_of_rank in enumerate(of_ranks):
        first = plan.place(rank).data
        for mine, whole in zip(steps_of_rank, alone, strict=True):
            assert [told(facts) for facts in mine.facts] == [told(facts) for facts in whole.facts]
            for batch, expected in zip(mine.batches, whole.batches[first :: plan.data], strict=True):
                np.testing.assert_array_equal(batch.latents, expected.latents)
                np.testing.assert_array_equal(batch.given.fps, expected.given.fps)
