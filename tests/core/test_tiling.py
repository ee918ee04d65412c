"""Plans for chunks in time and tiles in space: everything is covered once, weights sum to one."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duosora.core.errors import ConfigError, ShapeError
from duosora.core.maths.tiling import (
    Chunk,
    blend_weights,
    pixel_chunks,
    temporal_chunks,
    tile_spans,
    upstream_chunks,
)

frames = st.integers(1, 200)
chunk_sizes = st.integers(1, 40)


@st.composite
def sides(draw: st.DrawFn) -> tuple[int, int, int]:
    """A side's size, its tile and overlap."""
    tile = draw(st.integers(1, 40))
    return draw(st.integers(1, 150)), tile, draw(st.integers(0, tile // 2))


def covered(chunks: list[Chunk]) -> list[int]:
    return [frame for chunk in chunks for frame in range(chunk.start, chunk.stop)]


@given(frames, chunk_sizes)
def test_temporal_chunks_cover_every_frame_once_in_order(num_frames: int, chunk: int) -> None:
    chunks = temporal_chunks(num_frames, chunk)
    assert covered(chunks) == list(range(num_frames))
    assert all(c.stop - c.start == chunk for c in chunks[:-1])
    assert all(c.look_ahead == 0 for c in chunks)


def test_no_chunk_size_means_one_chunk() -> None:
    assert temporal_chunks(24, None) == [Chunk(0, 24)]


@given(frames.filter(lambda n: n != 2), chunk_sizes)
def test_upstream_chunks_cover_every_frame_once_and_look_ahead_inside_the_clip(num_frames: int, chunk: int) -> None:
    chunks = upstream_chunks(num_frames, chunk)
    assert covered(chunks) == list(range(num_frames))
    assert chunks[0][:2] == (0, 1)
    assert all(c.stop + c.look_ahead <= num_frames for c in chunks)


def test_upstream_chunks_leave_the_chunk_before_a_single_last_frame_without_look_ahead() -> None:
    assert upstream_chunks(4, 2) == [Chunk(0, 1, 1), Chunk(1, 3, 0), Chunk(3, 4, 0)]
    assert upstream_chunks(5, 2) == [Chunk(0, 1, 1), Chunk(1, 3, 1), Chunk(3, 5, 0)]


def test_upstream_chunks_refuse_the_two_frames_on_which_upstream_crashes() -> None:
    with pytest.raises(ShapeError, match="2 latent frames"):
        upstream_chunks(2, 2)


@pytest.mark.parametrize("frames_per_latent", [4, 8])
@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_pixel_chunks_give_whole_latent_frames(chunk: int, frames_per_latent: int) -> None:
    ends = list(itertools.accumulate(itertools.islice(pixel_chunks(chunk, frames_per_latent), 4)))
    assert [1 + (end - 1) / frames_per_latent for end in ends] == [chunk, 2 * chunk, 3 * chunk, 4 * chunk]


def test_pixel_chunks_can_leave_the_first_frame_alone() -> None:
    assert list(itertools.islice(pixel_chunks(2, 4, alone=True), 3)) == [1, 8, 8]


@pytest.mark.parametrize("plan", [temporal_chunks, upstream_chunks])
def test_chunks_of_no_frames_are_refused(plan: Callable[[int, int], list[Chunk]]) -> None:
    with pytest.raises(ConfigError, match="chunk = 0"):
        plan(9, 0)


def test_pixel_chunks_of_no_frames_are_refused() -> None:
    with pytest.raises(ConfigError, match="chunk = 0"):
        next(pixel_chunks(0, 4))


@given(sides())
def test_tiles_cover_a_side_with_the_overlap_asked_for(side: tuple[int, int, int]) -> None:
    size, tile, overlap = side
    spans = tile_spans(size, tile, overlap)
    assert spans[0].start == 0
    assert spans[-1].stop == size
    assert all(span.stop - span.start == min(tile, size) for span in spans)
    for left, right in itertools.pairwise(spans):
        assert left.start < right.start <= left.stop - overlap


@given(sides())
def test_no_fewer_tiles_would_do(side: tuple[int, int, int]) -> None:
    size, tile, overlap = side
    count = len(tile_spans(size, tile, overlap))
    assert count == 1 or (count - 1) * (tile - overlap) + overlap < size


@given(sides(), st.sampled_from([1, 8]))
def test_blend_weights_are_positive_and_sum_to_one_everywhere(side: tuple[int, int, int], scale: int) -> None:
    spans = tile_spans(*side)
    total = np.zeros(side[0] * scale)
    for span, weights in zip(spans, blend_weights(spans, scale), strict=True):
        assert weights.shape == ((span.stop - span.start) * scale,)
        assert (weights > 0).all()
        total[span.start * scale : span.stop * scale] += weights
    np.testing.assert_allclose(total, 1.0, rtol=0, atol=1e-12)


def test_blend_weights_are_linear_across_an_overlap() -> None:
    left, right = blend_weights(tile_spans(6, 4, 2), 2)
    np.testing.assert_allclose(left, [1, 1, 1, 1, 0.875, 0.625, 0.375, 0.125])
    np.testing.assert_allclose(right, left[::-1])


def test_a_single_tile_has_weight_one() -> None:
    (weights,) = blend_weights(tile_spans(5, 9, 4), 8)
    assert (weights == 1.0).all()


@pytest.mark.parametrize(("tile", "overlap"), [(0, 0), (8, 5), (8, -1)])
def test_tiles_that_cannot_be_laid_are_refused(tile: int, overlap: int) -> None:
    with pytest.raises(ConfigError, match=f"tiles of {tile} latents with overlap = {overlap}"):
        tile_spans(20, tile, overlap)
