"""Training in buckets: the same batches for any number of readers and from any step on, every clip once an epoch."""

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from duosora.core.bucketing.size_table import Resolution, SizeTable
from duosora.core.bucketing.table import BucketTable
from duosora.core.config.data import DataSettings
from duosora.core.data.batch import ClipBatch
from duosora.core.data.bucket_order import Bucketing
from duosora.core.data.loader import ClipLoader
from duosora.core.data.records import Record
from duosora.core.data.sources import Frames, OpenedClip
from duosora.core.errors import ConfigError, MediaError, ShapeError
from duosora.core.maths.cover import cover_picture, cover_video
from duosora.core.shapes import Causal, Compression, Grouped, Patch

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


def mixed_clips(count: int) -> Clips:
    """Pictures, short and long clips, some too small for anything."""
    sizes = [(12, 24), (17, 17), (8, 9), (30, 20), (3, 3)]
    lengths = [1, 4, 6, 20, 5]
    draw = np.random.default_rng(0)
    return Clips([(lengths[draw.integers(5)], *sizes[draw.integers(5)]) for _ in range(count)], fps=29.97)


def loader(source: Any, table: Any = TABLE, compression: Compression = COMPRESSION, **options: Any) -> ClipLoader:
    more = {name: options.pop(name) for name in ("frame_interval", "drop_last", "fps", "height") if name in options}
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


def test_a_clip_that_fails_is_replaced_by_one_of_its_bucket_in_that_epoch() -> None:
    source = mixed_clips(90)
    source.opener = Opener((3, 10, 11, 12, 40, 41))
    made = loader(source)
    batches = flat(steps(made, 2 * made.steps_per_epoch))
    failures = [failure for batch in batches for failure in batch.failures]
    assert {failure.reason for failure in failures} == {"is damaged"}
    for batch in batches:
        assert batch.pixels is not None
        assert batch.bucket is not None
        assert batch.pixels.shape[2] == int(batch.bucket.split()[1])
        shown = np.rint((batch.pixels[:, 0, 0, 0, 0] + 1) * 127.5).astype(int).tolist()
        assert [int(name.partition(".")[0]) for name in batch.sources] == shown
    assert_equal([batches[9:]], [flat(steps(loader(source), len(batches) - 9, 9))])


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
        names = made.order.buckets  # type: ignore[attr-defined]
        batches = [batch for (batch,) in made.of_steps(range(len(names)))]
        again = [batch for (batch,) in made.of_steps(range(len(names)))]
    assert [(batch.bucket, len(batch.samples)) for batch in batches] == [
        ("17p 3", 3),
        ("17p 3", 3),
        ("8p 5", 2),
        ("8p 5", 2),
    ]
    assert names == [batch.bucket for batch in batches]
    assert_equal([batches], [again])
