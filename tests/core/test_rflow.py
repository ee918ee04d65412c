"""Rectified flow: times, runs from references, and what training is told, by properties and small sums."""

import numpy as np
import pytest

from duosora.core.errors import ConfigError
from duosora.core.samplers.late_frames import choose, per_frame
from duosora.core.samplers.rflow import RFlow, bent, frame_starts, size_ratio
from duosora.core.shapes import VideoShape
from duosora.core.train.rflow import RFlowObjective
from duosora.core.train.timesteps import TimestepDraw

SIZES = [VideoShape(1, 117, 312), VideoShape(1, 512, 512), VideoShape(9, 64, 64), VideoShape(408, 720, 1280)]
SHAPE = (2, 4, 3, 2, 2)


def noise(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@pytest.mark.parametrize("size", [None, *SIZES], ids=str)
@pytest.mark.parametrize("steps", [1, 2, 7, 30, 1000])
def test_times_fall_from_1000(size: VideoShape | None, steps: int) -> None:
    times = RFlow(steps, size=size).timesteps
    np.testing.assert_allclose(times[0], 1000, rtol=1e-15)
    assert times.max() <= 1000
    assert (np.diff(times) < 0).all()
    assert times[-1] > 0


def test_times_of_large_and_moving_videos_stay_near_the_noise() -> None:
    sizes = (VideoShape(1, 512, 512), VideoShape(1, 1024, 1024), VideoShape(51, 512, 512))
    halves = [RFlow(2, size=size).timesteps[1] for size in sizes]
    assert halves == pytest.approx([500, 1000 * 2 / 3, 1000 * 15**0.5 / (1 + 15**0.5)])


def test_clips_shorter_than_a_group_count_the_latents_that_they_have() -> None:
    squares = [float(size_ratio(VideoShape(frames, 512, 512))) ** 2 for frames in (1, 2, 4, 5, 16, 17, 33, 34)]
    assert squares == pytest.approx([1, 1, 1, 2, 4, 5, 5, 10])


def test_upstreams_rounding_can_be_had() -> None:
    small = VideoShape(1, 117, 312)
    assert RFlow(5, size=small, rounds_times=True).timesteps[0] == 1000.0001220703125
    assert RFlow(5, size=small).timesteps[0] == 1000


def test_discrete_times_are_whole_before_they_are_bent() -> None:
    assert RFlow(7, discrete=True).timesteps.tolist() == [1000, 857, 714, 571, 429, 286, 143]
    np.testing.assert_allclose(
        RFlow(7, discrete=True, size=SIZES[3]).timesteps,
        bent(np.array([1000, 857, 714, 571, 429, 286, 143.0]), size_ratio(SIZES[3])),
    )


@pytest.mark.parametrize("size", [None, *SIZES], ids=str)
def test_a_straight_line_is_followed_to_its_end(size: VideoShape | None) -> None:
    data, start = noise(1), noise(2)
    sampler, x = RFlow(7, size=size), start
    for i in range(7):
        x = sampler.step(x, data - start, i)
    np.testing.assert_allclose(x, data, atol=2e-6)


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_numbers_of_steps_are_refused(steps: int) -> None:
    with pytest.raises(ConfigError, match=f"sampler.steps = {steps}: from 1 to 1000 steps are possible"):
        RFlow(steps)


@pytest.mark.parametrize("size", [None, *SIZES], ids=str)
def test_frames_begin_when_their_strength_says(size: VideoShape | None) -> None:
    times = RFlow(10, size=size).timesteps
    strength = np.array([[0.0, 1.0, 0.55], [1.0, 0.0, 0.2]])
    starts = frame_starts(strength, times)
    assert not starts.moves[:, strength == 0].any()
    assert starts.moves[:, strength == 1].all()
    assert not starts.enters[:, strength == 1].any()
    for place in ((0, 2), (1, 2)):
        moves = times <= 1000 * strength[place]  # large videos have few late steps, perhaps none
        assert starts.moves[:, *place].tolist() == moves.tolist()
        assert starts.enters[:, *place].tolist() == (moves & ~np.append(False, moves[:-1])).tolist()
    assert starts.draws_noise == tuple(starts.enters.any((1, 2)))


def test_a_strength_between_two_steps_is_not_lost_to_rounding() -> None:
    for tenth in range(1, 10):
        first = int(np.argmax(frame_starts(np.array([[tenth / 10]]), RFlow(10).timesteps).moves[:, 0, 0]))
        assert first == 10 - tenth


def test_kept_frames_stay_to_the_bit_and_late_ones_get_their_noise_once() -> None:
    references, unit, strength = noise(3), noise(4), np.array([[0.0, 1.0, 0.5], [1.0, 1.0, 0.0]])
    sampler, x = RFlow(4), references
    starts = frame_starts(strength, sampler.timesteps)
    for i in range(4):
        state = sampler.with_noise(x, unit, per_frame(starts.enters[i]), i)
        if i == 2:
            np.testing.assert_allclose(state[0, :, 2], (references[0, :, 2] + unit[0, :, 2]) / 2, atol=1e-6)
        moved = sampler.step(state, np.ones(SHAPE, np.float32), i)
        x = choose(per_frame(starts.moves[i]), moved, x)
    np.testing.assert_array_equal(x[0, :, 0], references[0, :, 0])
    np.testing.assert_array_equal(x[1, :, 2], references[1, :, 2])
    np.testing.assert_allclose(x[0, :, 1], references[0, :, 1] + 1, atol=1e-6)
    np.testing.assert_allclose(x[0, :, 2], (references[0, :, 2] + unit[0, :, 2]) / 2 + 0.5, atol=1e-6)


def test_clean_frames_enter_clean_and_do_not_count() -> None:
    moves = np.array([[True, False, True], [False, False, True]])
    draws = RFlowObjective().at(np.array([250.0, 600.0]), moves)
    assert draws.signal.tolist() == [[0.75, 1, 0.75], [1, 1, 0.4]]
    assert draws.spread.tolist() == [[0.25, 0, 0.25], [0, 0, 0.6]]
    assert draws.weights.tolist() == [[1.5, 0, 1.5], [0, 0, 3]]
    assert (draws.of_clean.tolist(), draws.of_noise.tolist()) == ([1, 1], [-1, -1])


def test_a_sample_without_moving_frames_counts_nothing() -> None:
    draws = RFlowObjective().at(np.array([250.0]), np.zeros((1, 3), bool))
    assert draws.weights.tolist() == [[0, 0, 0]]


def test_a_table_weighs_errors_by_their_whole_time() -> None:
    table = np.arange(1000.0)
    assert RFlowObjective().at(np.array([250.9, 3.0]), table=table).weights.tolist() == [250, 3]
    weights = RFlowObjective().at(np.array([250.9]), np.array([[True, False]]), table).weights
    assert weights.tolist() == [[500, 0]]


@pytest.mark.parametrize("kind", ["uniform", "logit_normal", "stratified"])
@pytest.mark.parametrize("bends", [False, True])
def test_a_draw_depends_on_seed_step_and_sample_alone(kind: str, bends: bool) -> None:
    objective = RFlowObjective(timesteps=TimestepDraw(kind=kind, global_batch=4), bends=bends)
    together = objective.draw(5, [0, 1, 2, 3], 7, [SIZES[2]] * 4).timesteps
    apart = [objective.draw(5, [sample], 7, [SIZES[2]]).timesteps[0] for sample in range(4)]
    np.testing.assert_array_equal(together, apart)
    assert len(set(together)) == 4
    assert (together >= 0).all()
    assert (together <= 1000).all()


def test_discrete_times_reach_from_0_to_999() -> None:
    objective = RFlowObjective(discrete=True)
    times = objective.times(np.array([0.0, 0.4999, 0.9999, 1.0]), SIZES[1])
    assert times.tolist() == [0, 499, 999, 999]


def test_a_scale_bends_times_more() -> None:
    shares, size = np.array([0.5]), VideoShape(1, 512, 512)
    assert RFlowObjective(bends=True, bend_scale=3.0).times(shares, size).tolist() == [750]
    assert RFlowObjective(bends=True).times(shares, size).tolist() == [500]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"timesteps": TimestepDraw(kind="mode")}, "timesteps.kind = 'mode': a rectified flow needs one of uniform"),
        ({"timesteps": TimestepDraw(kind="logit_normal"), "discrete": True}, "a rectified flow needs continuous times"),
        ({"bend_scale": 0.0}, "objective.bend_scale = 0.0: needs a positive number"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        RFlowObjective(**options)
