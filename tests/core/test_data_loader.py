"""The loader: what a step holds, whoever reads it; what fails is replaced; no process outlives its loader."""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from duosora.core.config.data import DataSettings, MaskSettings, StrideSettings
from duosora.core.config.training import ValidationSettings
from duosora.core.data.annotations import read_annotations
from duosora.core.data.batch import ClipBatch
from duosora.core.data.collate import collate, collate_moments
from duosora.core.data.loader import ClipLoader
from duosora.core.data.pool import WorkerPool
from duosora.core.data.selection import check_settings, usable_length
from duosora.core.data.sources import FileSource, RecordSource, open_source
from duosora.core.errors import ConfigError, MediaError
from duosora.core.io.images import write_image
from duosora.core.io.video import open_video, write_video
from duosora.core.maths.cover import centre_video_rounded_up
from duosora.core.shapes import Causal, Compression, Even, Grouped, Patch, VideoShape, latent_frames
from duosora.core.train.setup.readers import Readers

sys.path.append(str(Path(__file__).parent))  # the reading processes get this path too
from reading_sources import FRAMES, SIDE, NumberedSource

COMPRESSION, PATCH = Causal(4, 8), Patch(1, 1)
SETTINGS = DataSettings(
    frames=FRAMES, fps=24.0, height=SIDE, width=SIDE, min_bucket_batches=0, workers=0, caption_dropout=0.0
)


def loader(source: RecordSource, settings: DataSettings = SETTINGS, **options: object) -> ClipLoader:
    return ClipLoader(source, settings, 3, COMPRESSION, PATCH, **options)  # type: ignore[arg-type]


def steps(made: ClipLoader, count: int, start: int = 0) -> list[list[ClipBatch]]:
    with made:
        return list(islice(made.batches(start), count))


def shown(batch: ClipBatch) -> list[int]:
    """The numbers that the clips of a batch show."""
    assert batch.pixels is not None
    return np.rint((batch.pixels[:, 0, 0, 0, 0] + 1) * 127.5).astype(int).tolist()


def assert_equal(one: list[list[ClipBatch]], other: list[list[ClipBatch]]) -> None:
    for mine, theirs in zip(one, other, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            np.testing.assert_array_equal(a.pixels, b.pixels)
            assert (a.captions, a.samples, a.sources) == (b.captions, b.samples, b.sources)
            assert a.failures == b.failures


def test_a_step_has_its_micro_batches_with_pixels_captions_and_sources() -> None:
    source = NumberedSource(10)
    for step, batches in enumerate(steps(loader(source, micro_batch=2, accumulation=3), 4)):
        assert len(batches) == 3
        assert [number for batch in batches for number in batch.samples] == list(range(6 * step, 6 * step + 6))
        for batch in batches:
            assert batch.pixels is not None
            assert batch.pixels.shape == (2, 3, FRAMES, SIDE, SIDE)
            assert batch.pixels.dtype == np.float32
            assert batch.mask is batch.frame_mask is None
            assert batch.captions == tuple(f"clip {number}" for number in shown(batch))
            assert batch.sources == tuple(f"{number}.mp4" for number in shown(batch))


def test_dropped_captions_stay_where_the_denoiser_has_a_null_caption() -> None:
    settings = SETTINGS.model_copy(update={"caption_dropout": 0.5})
    source, options = NumberedSource(8), {"micro_batch": 4}
    empty = [batch for step in steps(loader(source, settings, **options), 4) for batch in step]
    kept = [batch for step in steps(loader(source, settings, keeps_dropped=True, **options), 4) for batch in step]
    for one, other in zip(empty, kept, strict=True):
        assert other.captions == tuple(f"clip {number}" for number in shown(other))
        assert one.is_null == ()
        assert other.is_null == tuple(caption == "" for caption in one.captions)
        assert other.sizes == ((FRAMES, SIDE, SIDE),) * 4
    assert 0 < sum(sum(batch.is_null) for batch in kept) < 16


def test_a_later_step_and_processes_give_the_same() -> None:
    source = NumberedSource(9, {4: "raises"})
    straight = steps(loader(source, micro_batch=2), 8)
    assert_equal(steps(loader(source, micro_batch=2), 3, start=5), straight[5:])
    with_processes = SETTINGS.model_copy(update={"workers": 2})
    assert_equal(steps(loader(source, with_processes, micro_batch=2), 8), straight)


@pytest.mark.parametrize("mega_batch", [1, 2, 4])
@pytest.mark.parametrize("readers", [1, 2, 4])
def test_readers_have_together_what_one_has_in_its_order(readers: int, mega_batch: int) -> None:
    source = NumberedSource(13, {2: "raises"})
    settings = SETTINGS.model_copy(update={"mega_batch": mega_batch})
    alone = steps(loader(source, settings, micro_batch=2, accumulation=4), 5)
    shares = [
        steps(loader(source, settings, micro_batch=2, accumulation=4, readers=readers, reader=reader), 5)
        for reader in range(readers)
    ]
    assert [len(batches) for share in shares for batches in share] == [4 // readers] * 5 * readers
    together = [[share[step][i] for i in range(4 // readers) for share in shares] for step in range(5)]
    assert_equal(together, alone)


def clips(made: ClipLoader, count: int) -> list[tuple[object, ...]]:
    """Number, file, caption and first frame of each of the first clips."""
    found: list[tuple[object, ...]] = []
    with made:
        for batch in (batch for step in made.batches() for batch in step):
            assert batch.pixels is not None
            rows = zip(batch.samples, batch.sources, batch.captions, batch.pixels[:, 0, 0, 0, 0].tolist(), strict=True)
            found += rows
            if len(found) >= count:
                break
    return found[:count]


@pytest.mark.parametrize("is_grouped", [True, False])
def test_a_step_has_the_same_clips_however_it_is_split(is_grouped: bool) -> None:
    source = NumberedSource(9, {4: "raises"})
    settings = SETTINGS.model_copy(update={"caption_dropout": 0.3, "grouped": is_grouped})
    whole = clips(loader(source, settings, micro_batch=4), 40)
    for batch, accumulation in ((2, 2), (1, 4)):
        assert clips(loader(source, settings, micro_batch=batch, accumulation=accumulation), 40) == whole


def test_held_out_clips_are_the_same_whatever_is_read_at_once() -> None:
    settings = DataSettings(kind="moving_shapes", workers=0)
    found = []
    for batch in (4, 2, 1):
        readers = Readers(seed=3, batch_size=batch, accumulate=1, compression=COMPRESSION, patch=PATCH)
        made = readers.open_held_out(ValidationSettings(every=1), settings)
        assert made is not None
        found.append(clips(made, 8))
    assert found[0] == found[1] == found[2]


def test_a_later_step_of_a_share_is_the_same() -> None:
    source = NumberedSource(9)
    options = {"micro_batch": 2, "accumulation": 4, "readers": 2, "reader": 1}
    assert_equal(steps(loader(source, **options), 2, start=3), steps(loader(source, **options), 5)[3:])


def test_a_failed_record_is_named_replaced_and_not_read_again() -> None:
    made = loader(NumberedSource(6, {2: "raises"}))
    with made:
        batches = [batch for (batch,) in islice(made.batches(), 12)]
        failures = [failure for batch in batches for failure in batch.failures]
        assert [failure.path for failure in failures] == ["2.mp4", "2.mp4"]
        assert {failure.reason for failure in failures} == {"is damaged"}
        (replaced,) = {batch.sources[0] for batch in batches[:6] if batch.failures}
        assert failures[0].replaced_by == replaced
        assert not any(2 in shown(batch) for batch in batches)
        assert made.report() == (10, 2, {"2.mp4": "is damaged"})


def test_what_hangs_or_crashes_does_not_take_the_loader_down() -> None:
    source = NumberedSource(8, {1: "hangs", 3: "exits", 5: "slips"})
    settings = SETTINGS.model_copy(update={"workers": 2, "timeout_seconds": 1.0})
    made = loader(source, settings)
    with made:
        batches = [batch for (batch,) in islice(made.batches(), 8)]
        assert not any({1, 3, 5} & set(shown(batch)) for batch in batches)
        assert made.report().failed == {
            "1.mp4": "took longer than 1 seconds to read",
            "3.mp4": "ended the process that read it, 2 times (exit code 7)",
            "5.mp4": "ZeroDivisionError: a slip in a library",
        }
    again = steps(loader(source, settings), 3, start=5)
    assert [batch.sources for (batch,) in again] == [batch.sources for batch in batches[5:]]


@pytest.mark.parametrize("workers", [0, 2])
def test_some_steps_are_those_of_the_whole_run(workers: int) -> None:
    source = NumberedSource(9)
    with loader(source, SETTINGS.model_copy(update={"workers": workers}), accumulation=2) as made:
        some = list(made.of_steps([1, 4, 4]))
    whole = steps(loader(source, accumulation=2), 5)
    assert_equal(some, [whole[1], whole[4], whole[4]])


def test_a_bucket_without_a_good_clip_stops_the_run() -> None:
    bad = dict.fromkeys(range(3), "raises")
    with loader(NumberedSource(3, bad)) as made, pytest.raises(MediaError, match="all 3 clips of 5 x 16 x 16 failed"):
        next(made.batches())


def test_processes_end_with_the_loader_and_when_an_iterator_is_left() -> None:
    made = loader(NumberedSource(9), SETTINGS.model_copy(update={"workers": 2}))
    batches = made.batches()
    next(batches)
    assert isinstance(made._runner, WorkerPool)
    processes = made._runner.process_ids
    assert len(processes) == 2
    batches.close()
    assert len(list(islice(made.batches(4), 2))) == 2
    made.close()
    made.close()
    assert not any(map(psutil.pid_exists, processes))


ORPHANS = """
import sys, time
sys.path.append(sys.argv[1])
from test_data_loader import *
source = NumberedSource(8, {number: "hangs" for number in range(8)})
made = loader(source, SETTINGS.model_copy(update={"workers": 2, "timeout_seconds": 100.0}))
batches = made.batches()
import threading
threading.Thread(target=lambda: next(batches), daemon=True).start()
while not hasattr(made._runner, "process_ids") or len(made._runner.process_ids) < 2 or not made._runner._running:
    time.sleep(0.02)
print(*made._runner.process_ids, flush=True)
time.sleep(100)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_outlives_its_parent_even_while_it_hangs(how: signal.Signals) -> None:
    arguments = [sys.executable, "-c", ORPHANS, str(Path(__file__).parent)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as parent:
        assert parent.stdout is not None
        processes = [int(number) for number in parent.stdout.readline().split()]
        parent.send_signal(how)
    assert len(processes) == 2
    waited = time.monotonic() + 30
    while any(is_alive(process) for process in processes):
        assert time.monotonic() < waited, "a reading process is still there"
        time.sleep(0.05)


def is_alive(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_reading_processes_import_no_framework() -> None:
    code = "import sys, duosora.core.data.worker; print({'torch', 'mindspore'} & set(sys.modules) or 'none')"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "none"


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 7 good clips, 2 pictures and 4 files that are broken in different ways."""
    folder = tmp_path_factory.mktemp("media")
    for number in range(8):
        noise = np.random.default_rng(number).integers(0, 256, (14, 3, 4, 3), np.uint8)
        write_video(folder / f"{number}.mp4", noise.repeat(16, axis=1).repeat(16, axis=2), fps=24)
    for number in range(2):
        write_image(folder / f"{number}.png", np.full((60, 90, 3), 100 * number, np.uint8))
    whole = (folder / "7.mp4").read_bytes()
    (folder / "7.mp4").unlink()
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("this is not a video\n" * 50)
    (folder / "half.mp4").write_bytes(whole[: len(whole) // 2])
    rotten = np.frombuffer(whole, np.uint8).copy()
    media_data = whole.index(b"mdat") + 4
    rotten[media_data + 200 : media_data + 1500] ^= 0xA5
    (folder / "rotten.mp4").write_bytes(rotten.tobytes())
    rows = ["path,caption,height,width,num_frames,fps"]
    rows += [f"{file.name},a clip,48,64,14,24" for file in sorted(folder.glob("*.mp4"))]
    rows += [f"{file.name},a picture,60,90,," for file in sorted(folder.glob("*.png"))]
    (folder / "list.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_a_folder_with_a_third_of_it_broken_is_read_to_the_end(media: Path, workers: int) -> None:
    settings = SETTINGS.model_copy(
        update={"files": (media / "list.csv",), "frames": 13, "height": 32, "width": 32, "workers": workers}
    )
    made = loader(open_source(settings), settings)
    with made:
        assert len(made.plan) == 13
        assert made.steps_per_epoch == 13
        batches = [batch for (batch,) in islice(made.batches(), made.steps_per_epoch)]
        report = made.report()
    assert {Path(path).name for path in report.failed} == {"empty.mp4", "text.mp4", "half.mp4", "rotten.mp4"}
    assert (report.read, report.replaced) == (9, 4)
    assert all(reason.isprintable() for reason in report.failed.values())
    assert {Path(batch.sources[0]).name for batch in batches} >= {f"{number}.mp4" for number in range(7)}
    sizes = sorted({batch.pixels.shape[2:] for batch in batches if batch.pixels is not None})
    assert sizes == [(1, 32, 32), (13, 32, 32)]


def test_clips_of_files_equal_the_frames_of_the_file(media: Path) -> None:
    from duosora.core.io.video import read_video

    settings = SETTINGS.model_copy(
        update={
            "files": (media / "list.csv",),
            "frames": 9,
            "height": None,
            "width": None,
            "max_area": 48 * 64,
            "stride": 16,
        }
    )
    made = loader(open_source(settings), settings)
    with made:
        for (batch,) in islice(made.batches(), 13):
            if batch.sources[0].endswith(".mp4"):
                frames, _ = read_video(batch.sources[0])
                assert batch.pixels is not None
                clip = np.rint((batch.pixels[0].transpose(1, 2, 3, 0) + 1) * 127.5).astype(np.uint8)
                assert any(np.array_equal(clip, frames[start : start + 9]) for start in range(6))


def test_ungrouped_batches_are_padded_with_a_mask(media: Path) -> None:
    settings = SETTINGS.model_copy(
        update={"files": (media / "list.csv",), "frames": 9, "height": 32, "width": 32, "grouped": False}
    )
    (batch,) = steps(loader(open_source(settings), settings, micro_batch=9), 1)[0]
    assert batch.pixels is not None
    assert batch.mask is not None
    assert batch.pixels.shape == (9, 3, 9, 32, 32)
    assert batch.mask.shape == (9, 3, 4, 4)
    for source, pixels, mask in zip(batch.sources, batch.pixels, batch.mask, strict=True):
        is_picture = source.endswith(".png")
        assert mask.mean() == pytest.approx(1 / 3 if is_picture else 1)
        assert not is_picture or not pixels[:, 1:].any()


def test_inpaint_clips_have_a_mask_of_their_frames_and_whole_levels(media: Path) -> None:
    settings = SETTINGS.model_copy(
        update={"files": (media / "list.csv",), "frames": 9, "height": 24, "width": 24, "masks": MaskSettings()}
    )
    batches = [batch for (batch,) in steps(loader(open_source(settings), settings), 26)]
    kinds = set()
    for batch in batches:
        assert batch.pixels is not None
        assert batch.frame_mask is not None
        assert batch.frame_mask.shape == (1, batch.pixels.shape[2])
        levels = (batch.pixels + 1) * 127.5
        np.testing.assert_allclose(levels, np.rint(levels), atol=1e-4)
        kinds.add(tuple(batch.frame_mask[0]))
    assert len(kinds) > 3


def test_an_autoencoders_clips_come_from_a_folder_at_a_stride(media: Path) -> None:
    from duosora.core.io.video import read_video

    settings = SETTINGS.model_copy(
        update={"files": (media,), "frames": 5, "height": 48, "width": 48, "autoencoder": StrideSettings(sample_rate=3)}
    )
    made = loader(open_source(settings), settings)
    with made:
        epochs = list(islice(made.batches(), 2 * made.steps_per_epoch))
    starts = set()
    for (batch,) in epochs:
        frames = read_video(batch.sources[0])[0][:, :, 8:56]
        assert batch.pixels is not None
        clip = np.rint((batch.pixels[0].transpose(1, 2, 3, 0) + 1) * 127.5).astype(np.uint8)
        found = [start for start in range(2) if np.array_equal(clip, frames[start : start + 13 : 3])]
        assert found
        starts |= set(found)
        assert batch.captions == ("",)
    assert starts == {0, 1}


def test_a_cache_takes_the_place_of_files() -> None:
    asked = []

    def moments_of(clip: object) -> np.ndarray:
        asked.append(clip)
        if clip.path == Path("2.mp4"):  # type: ignore[attr-defined]
            raise MediaError("2.mp4: is not in the cache")
        return np.zeros((16, 2, 2, 2), np.float32)

    source = NumberedSource(5, dict.fromkeys(range(5), "hangs"))
    made = loader(source, moments_of=moments_of, text_of=lambda record, pick: np.full((2, 3), pick))
    with made:
        batches = [batch for (batch,) in islice(made.batches(), 5)]
        assert next(made.cached_views()).cut["frames"] == list(range(FRAMES))
    for batch in batches:
        assert batch.pixels is None
        assert batch.moments is not None
        assert batch.moments.shape == (1, 16, 2, 2, 2)
        assert batch.text is not None
        assert batch.text[0].tolist() == [[0] * 3] * 2
    assert [failure.path for batch in batches for failure in batch.failures] == ["2.mp4"]


@pytest.mark.parametrize("box", [None, VideoShape(13, 40, 24)])
def test_moments_are_padded_and_masked_as_their_pixels_are(box: VideoShape | None) -> None:
    patch = Patch(1, 2)
    shapes = [VideoShape(9, 24, 16), VideoShape(1, 16, 24), VideoShape(5, 8, 8)]
    clips = [np.ones((3, *shape), np.float32) for shape in shapes]
    pixels, mask = collate(clips, COMPRESSION, patch, box)
    assert mask is not None
    moments = [np.full((16, *COMPRESSION.latent(shape)), 7, np.float32) for shape in shapes]
    padded, their_mask = collate_moments(moments, COMPRESSION, patch, box)
    np.testing.assert_array_equal(mask, their_mask)
    np.testing.assert_array_equal(padded, 7 * mask[:, None].repeat(16, axis=1))
    assert padded.shape[2:] == COMPRESSION.latent(VideoShape(*pixels.shape[2:]))
    assert collate_moments(moments[:1] * 2, COMPRESSION, Patch(1, 1))[1] is None


@pytest.mark.parametrize(
    ("compression", "lengths", "patch", "padded"),
    [
        (Even(2, 4), (6, 2), Patch(1, 2), 6),
        (Even(2, 4), (6, 2), Patch(2, 2), 8),
        (Even(1, 8), (5, 3), Patch(1, 2), 5),
        (Grouped(17, 4, 8), (34, 3), Patch(1, 2), 34),
    ],
)
def test_clips_of_any_autoencoder_are_padded_to_whole_latents(
    compression: Compression, lengths: tuple[int, int], patch: Patch, padded: int
) -> None:
    clips = [np.ones((3, length, 16, 16), np.float32) for length in lengths]
    pixels, mask = collate(clips, compression, patch)
    assert pixels.shape == (2, 3, padded, 16, 16)
    assert mask is not None
    assert [int(row.any(axis=(1, 2)).sum()) for row in mask] == [latent_frames(compression, n) for n in lengths]


@pytest.mark.parametrize(
    ("compression", "frames", "ranks", "length"),
    [(Even(4, 4), 15, 1, 12), (Even(2, 4), 15, 4, 8), (Even(1, 8), 7, 2, 6), (Even(4, 4), 3, 1, None)],
)
def test_a_clip_is_cut_to_whole_latents_for_all_ranks(
    compression: Compression, frames: int, ranks: int, length: int | None
) -> None:
    assert usable_length(frames, compression, ranks, least=1) == length


def test_clips_of_a_vqvae_are_cut_as_videogpt_cuts(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (4, 24, 42, 3), np.uint8)
    write_video(tmp_path / "clip.mp4", noise, fps=24)
    stride = StrideSettings(sample_rate=1, by_shorter_side=True)
    size = {"frames": 4, "height": 16, "width": 16, "workers": 0, "min_bucket_batches": 0}
    settings = DataSettings(files=(tmp_path,), autoencoder=stride, **size)
    with ClipLoader(open_source(settings), settings, 5, Even(4, 4), Patch(1, 1)) as clips:
        (batch,) = next(clips.batches())
    expected = 2 * centre_video_rounded_up(open_video(tmp_path / "clip.mp4").read(), 16) - 1
    np.testing.assert_allclose(batch.pixels[0], expected.transpose(3, 0, 1, 2), atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"height": 16, "width": 32}, "gives squares; data.height and data.width differ"),
        ({"height": 16, "width": 16, "window": True}, "by_shorter_side and random_window exclude each other"),
    ],
)
def test_what_does_not_go_with_squares_is_refused(settings: dict[str, Any], said: str) -> None:
    stride = StrideSettings(by_shorter_side=True, random_window=settings.pop("window", False))
    with pytest.raises(ConfigError, match=said):
        check_settings(DataSettings(files=(Path("x"),), frames=4, autoencoder=stride, **settings), Even(4, 4))


def test_a_loader_holds_no_more_after_many_clips_than_after_a_few() -> None:
    """What it keeps of what it has read: the reasons of clips that failed, and nothing that grows with the steps."""

    def held(made: ClipLoader) -> list[int]:
        kept: list[Any] = [*vars(made._fetcher).values(), *vars(made._runner).values()]
        return [len(value) for value in kept if isinstance(value, dict | list | set | deque)]

    settings = SETTINGS.model_copy(update={"workers": 1})
    with loader(NumberedSource(12, {3: "raises", 7: "slips"}), settings, micro_batch=2) as made:
        batches = made.batches()
        for _ in range(12):  # two epochs
            next(batches)
        before = held(made)
        for _ in range(120):
            next(batches)
        few_in_the_air = 2 * (made._ahead + 1)
        assert all(now <= then + few_in_the_air for now, then in zip(held(made), before, strict=True))
        assert made.report().read > 200


def test_pixels_for_a_cache_name_what_cannot_be_read() -> None:
    with loader(NumberedSource(4, {1: "raises"})) as made:
        first, second, *_ = made.pixels(range(4))
    assert isinstance(second, MediaError)
    assert isinstance(first, np.ndarray)
    assert first.shape == (3, FRAMES, SIDE, SIDE)


def test_sizes_that_the_annotation_lacks_are_probed(media: Path) -> None:
    records = read_annotations([media]).records
    settings = SETTINGS.model_copy(update={"probe": True, "clean_captions": False})
    from dataclasses import replace

    source = FileSource([replace(record, captions=("a",)) for record in records])
    with loader(source, settings) as made:
        assert {(made.record(place).height, made.record(place).num_frames) for place in range(len(made.plan))} == {
            (48, 14)
        }
    with pytest.raises(MediaError, match="no clip can be trained on: 11 no size; the first has no height and width"):
        loader(source)


def test_settings_that_exclude_one_another_are_refused() -> None:
    source = NumberedSource(2)
    for update, words in (
        ({"height": None}, "give both or neither"),
        ({"height": None, "width": None}, "or max_area"),
        ({"height": None, "width": None, "max_area": 256, "grouped": False}, "batches are padded to"),
        ({"frames": 6}, "the nearest are 5 and 9"),
    ):
        with pytest.raises((ConfigError, ValueError), match=words):
            loader(source, SETTINGS.model_copy(update=update))
