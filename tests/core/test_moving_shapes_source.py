"""Moving shapes as a source of clips: fixed or drawn anew, whole or in windows."""

import numpy as np
import pytest

from duosora.core.config.data import DataSettings, StrideSettings
from duosora.core.data.loader import ClipLoader
from duosora.core.data.sources import RecordSource, open_source
from duosora.core.shapes import Causal, Compression, Even, Patch

COMPRESSION, PATCH = Causal(time=4, space=8), Patch(1, 1)


def loader(settings: DataSettings) -> ClipLoader:
    return ClipLoader(open_source(settings), settings, 5, COMPRESSION, PATCH, micro_batch=2)


def by_source(settings: DataSettings, steps: int) -> dict[str, list[np.ndarray]]:
    found: dict[str, list[np.ndarray]] = {}
    with loader(settings) as clips:
        batches = clips.batches()
        for _ in range(steps):
            (batch,) = next(batches)
            for source, pixels in zip(batch.sources, batch.pixels, strict=True):
                found.setdefault(source, []).append(pixels)
    return found


def test_a_fixed_number_of_clips_comes_again_unchanged() -> None:
    found = by_source(DataSettings(kind="moving_shapes", drawn_clips=4, workers=0), steps=4)
    assert len(found) == 4
    for first, second in found.values():
        np.testing.assert_array_equal(first, second)


def test_colours_say_which_scenes_there_are_and_how_often() -> None:
    usual = {open_source(DataSettings(kind="moving_shapes")).record(number).name.split()[1] for number in range(500)}
    assert "cyan" not in usual
    source = open_source(DataSettings(kind="moving_shapes", colours=("cyan", "cyan", "red")))
    names = [source.record(number).name.split()[1] for number in range(len(source))]
    assert names.count("cyan") == 2 * len({name for name in scene_names(source) if "cyan" in name})
    assert set(names) == {"cyan", "red"}
    held_out = open_source(DataSettings(kind="moving_shapes", colours=("cyan",)), is_held_out=True)
    assert not scene_names(source) & scene_names(held_out)


def scene_names(source: RecordSource) -> set[str]:
    return {" ".join(source.record(number).name.split()[:-1]) for number in range(len(source))}


def test_fixed_clips_of_one_scene_differ() -> None:
    settings = DataSettings(kind="moving_shapes", drawn_clips=5000, workers=0)
    source = open_source(settings)
    scenes = len(open_source(DataSettings(kind="moving_shapes")))
    one, other = source.record(3), source.record(3 + scenes)
    assert one.captions == other.captions
    draw = np.random.default_rng(0)
    frames = [source.opener(record, draw).read() for record in (one, other, one)]
    assert (frames[0] != frames[1]).any()
    np.testing.assert_array_equal(frames[0], frames[2])


def test_without_a_number_every_epoch_draws_anew() -> None:
    settings = DataSettings(kind="moving_shapes", workers=0)
    with loader(settings) as clips:
        first = next(clips.batches(0))[0]
        record = next(number for number in range(len(clips.plan)) if str(clips.record(number).path) == first.sources[0])
        again = clips._fetcher.job(record, 1, clips.plan.shape(record, 1))()
    assert (first.pixels[0] != again).any()


def test_an_autoencoder_sees_windows_of_whole_scenes() -> None:
    size = {"kind": "moving_shapes", "frames": 9, "height": 32, "width": 32, "workers": 0}
    windows = DataSettings(**size, autoencoder=StrideSettings(sample_rate=1, random_window=True))
    shrunk = DataSettings(**size, autoencoder=StrideSettings(sample_rate=1))
    with loader(windows) as some, loader(shrunk) as others:
        (window,), (small,) = next(some.batches()), next(others.batches())
    assert window.pixels.shape == small.pixels.shape == (2, 3, 9, 32, 32)
    assert (window.pixels != small.pixels).any()
    # A window keeps whole levels; shrinking mixes them.
    levels = (window.pixels + 1) / 2 * 255
    np.testing.assert_allclose(levels, levels.round(), atol=1e-3)


def test_windows_lie_elsewhere_in_each_epoch() -> None:
    stride = StrideSettings(sample_rate=1, random_window=True)
    settings = DataSettings(
        kind="moving_shapes", drawn_clips=2, frames=17, height=32, width=32, workers=0, autoencoder=stride
    )
    with loader(settings) as clips:  # all frames of a clip that stays the same: only the window can differ
        windows = [clips._fetcher.job(0, epoch, clips.plan.shape(0, epoch))() for epoch in range(4)]
    assert len({window.tobytes() for window in windows}) == 4


@pytest.mark.parametrize(
    ("compression", "wished", "frames"), [(Even(4, 4), None, 16), (Even(1, 1), 3, 3), (COMPRESSION, 15, 13)]
)
def test_a_denoiser_sees_as_many_frames_as_its_autoencoder_takes(
    compression: Compression, wished: int | None, frames: int
) -> None:
    size = {} if wished is None else {"frames": wished, "height": 32, "width": 32}
    settings = DataSettings(kind="moving_shapes", drawn_clips=2, workers=0, **size)
    with ClipLoader(open_source(settings), settings, 5, compression, PATCH, micro_batch=2) as clips:
        (batch,) = next(clips.batches())
    side = 64 if wished is None else 32
    assert batch.pixels.shape == (2, 3, frames, side, side)


def test_scores_are_in_captions_and_clips_and_the_rate_beside_them() -> None:
    settings = DataSettings(kind="moving_shapes", drawn_clips=40, workers=0)
    plain, scored = open_source(settings), open_source(settings.model_copy(update={"scores": True}))
    draw = np.random.default_rng(0)
    looks, changed = set(), 0
    for number in range(40):
        record, other = plain.record(number), scored.record(number)
        look = scored.opener.look(number)
        looks.add(look)
        assert other.captions == tuple(look.behind(caption) for caption in record.captions)
        assert (record.fps, other.fps) == (8.0, look.fps)
        same = (plain.opener(record, draw).read() == scored.opener(other, draw).read()).all()
        assert same == (look.pace == look.outline == 1)
        changed += not same
    assert len(looks) > 20
    assert 20 < changed < 40


def test_drawn_clips_keep_their_frames_and_rates_in_batches() -> None:
    settings = DataSettings(kind="moving_shapes", drawn_clips=40, scores=True, workers=0)
    source = open_source(settings)
    with loader(settings) as clips:
        batches = clips.batches()
        for _ in range(4):
            (batch,) = next(batches)
            for name, fps, pixels in zip(batch.sources, batch.fps, batch.pixels, strict=True):
                number = int(name.removesuffix(".mp4").split()[-1])
                assert fps == source.record(number).fps
                frames = source.opener(source.record(number), np.random.default_rng(0)).read()
                np.testing.assert_allclose(pixels.transpose(1, 2, 3, 0), frames / 127.5 - 1, atol=1e-5)
