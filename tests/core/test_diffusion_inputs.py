"""What a denoiser is given in training beside latents and noise; the frozen models are stand-ins."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from duosora.core.config.training import ObjectiveSettings
from duosora.core.data.batch import ClipBatch
from duosora.core.data.frame_masks import FrameMasks
from duosora.core.data.patch_lists import patches_of
from duosora.core.errors import ConfigError
from duosora.core.models.opensora_vae import PRESETS as AUTOENCODERS
from duosora.core.models.stdit3 import TINY
from duosora.core.pipelines.autoencode import posterior_noise
from duosora.core.random import normal
from duosora.core.seam.models import Encoded
from duosora.core.shapes import VideoShape
from duosora.core.train.denoiser import FixedTimes
from duosora.core.train.inputs import DiffusionInputs, InputOptions
from duosora.core.train.rflow import RFlowObjective
from duosora.core.train.setup.objective import check_bound, frame_masks, make_objective
from duosora.core.train.timesteps import TimestepDraw

SEED, VAE, SIZE = 3, AUTOENCODERS["opensora_vae_tiny"], VideoShape(17, 16, 24)


class Texts:
    """States that tell their caption, as many as it has letters."""

    def states(self, captions: Sequence[str]) -> list[np.ndarray]:
        return [np.full((len(caption), 4), ord(caption[0]), np.float32) for caption in captions]


class Autoencoder:
    """Notes the noise that it is to draw with."""

    def __init__(self) -> None:
        self.drawn: list[dict[str, np.ndarray]] = []

    def encode(self, video: np.ndarray, noise: dict[str, np.ndarray], stream: Any) -> Encoded:
        self.drawn.append(noise)
        shape = (1, 2 * VAE.latent_channels, *VAE.compression.latent(VideoShape(*video.shape[2:])))
        moments = np.zeros(shape, np.float32)
        return Encoded(moments[:, :4], dict.fromkeys(VAE.posteriors, moments))


def inputs(autoencoder: Autoencoder | None = None, seed: int = SEED, **options: Any) -> DiffusionInputs:
    backend = SimpleNamespace(inference=nullcontext, asarray=np.asarray, to_numpy=np.asarray)
    clips: Any = SimpleNamespace(spec=VAE, backend=backend, chunk=None, model=lambda: autoencoder or Autoencoder())
    texts: Any = Texts()
    objective = RFlowObjective(bends=True)
    return DiffusionInputs(seed, texts, clips, objective, InputOptions(**options), TINY.given)


def clips(*numbers: int, size: VideoShape = SIZE, **changed: Any) -> ClipBatch:
    many = len(numbers)
    pixels = np.stack([np.tanh(normal((3, *size), 0, "clip", number)) for number in numbers])
    captions = tuple(chr(ord("a") + number) * (number + 1) for number in numbers)
    batch = ClipBatch(pixels, None, captions, numbers, ("",) * many, sizes=(size,) * many, fps=(8.0,) * many)
    return replace(batch, **changed)


def test_a_denoiser_is_told_size_rate_and_text() -> None:
    given = inputs().make(clips(0, 2, fps=(8.0, 12.0))).given
    assert given.text is not None
    assert given.text_mask is not None
    assert given.text.shape == (2, 3, 4)
    assert given.text_mask.tolist() == [[1, 0, 0], [1, 1, 1]]
    numbers = {name: getattr(given, name).tolist() for name in ("fps", "height", "width")}
    assert numbers == {"fps": [8, 12], "height": [16, 16], "width": [24, 24]}
    assert given.is_null is given.frame_mask is given.kept is given.latent_mask is None


def test_a_denoiser_of_classes_is_told_labels_and_which_are_dropped() -> None:
    made = inputs()
    made.texts, made.reads = None, frozenset(("label", "is_null"))
    latents = normal((2, 4, 1, 2, 3), 0, "latents")
    batch = clips(0, 2, labels=(7, 3), is_null=(False, True), pixels=None, latents=latents)
    told = made.make(batch, step=5)
    assert told.given.label is not None
    assert told.given.is_null is not None
    assert told.given.label.tolist() == [7, 3]
    assert told.given.is_null.tolist() == [False, True]
    assert told.given.text is told.given.height is None
    np.testing.assert_array_equal(told.latents, latents)  # drawn before: neither encoded nor scaled again
    assert made.make(replace(batch, is_null=(False, False))).given.is_null is None


def test_a_picture_has_a_rate_of_its_own() -> None:
    given = inputs().make(clips(0, size=VideoShape(1, 16, 24))).given
    assert given.fps is not None
    assert given.fps.tolist() == [120]


def test_a_dropped_caption_keeps_its_tokens() -> None:
    given = inputs().make(clips(1, 2, is_null=(True, False))).given
    whole = inputs().make(clips(1, 2)).given
    assert given.is_null is not None
    assert given.is_null.tolist() == [True, False]
    np.testing.assert_array_equal(given.text, whole.text)
    np.testing.assert_array_equal(given.text_mask, whole.text_mask)


def test_all_posteriors_are_drawn_by_the_samples_number() -> None:
    autoencoder = Autoencoder()
    batch = inputs(autoencoder).make(clips(4, 7), step=5)
    for number, drawn, latents in zip((4, 7), autoencoder.drawn, batch.latents, strict=True):
        noise = posterior_noise(VAE, SIZE, SEED, lambda *key, number=number: normal(*key, sample=number, step=5))
        np.testing.assert_array_equal(drawn["spatial"][0], noise["spatial"])
        np.testing.assert_array_equal(latents, noise["temporal"])  # of mean 0 and deviation 1


def test_times_are_bent_by_the_size_of_the_clips() -> None:
    small, large = (inputs().make(clips(1, size=VideoShape(17, side, side))).timesteps for side in (16, 64))
    share = TimestepDraw().draw(SEED, [1], 0)
    expected = [RFlowObjective(bends=True).times(np.array(share), VideoShape(17, s, s)) for s in (16, 64)]
    np.testing.assert_array_equal([small, large], expected)
    assert small < large


def test_clean_frames_have_neither_noise_nor_loss_and_follow_the_samples_number() -> None:
    made = inputs(frame_masks=FrameMasks({"random": 1.0}), counts_alike=True)
    whole = made.make(clips(0, 1, 2, 3), step=2)
    moves = whole.given.frame_mask
    assert moves is not None
    assert moves.shape == (4, 5)
    assert moves.any(1).all()
    assert not moves.all(1).all()
    np.testing.assert_array_equal(whole.spread > 0, moves)
    np.testing.assert_allclose(whole.weights.mean(1), 1)
    assert not whole.weights[~moves].any()
    for rows in ((1,), (2, 0)):
        np.testing.assert_array_equal(made.make(clips(*rows), step=2).given.frame_mask, moves[list(rows)])
    assert (made.make(clips(0, 1, 2, 3), step=3).given.frame_mask != moves).any()
    assert whole.size == 1


def test_clips_of_unequal_size_are_lists_of_patches_padded_to_the_longest() -> None:
    """Latents and noise of each are those that it has by itself, patch by patch."""
    sizes = VideoShape(17, 16, 32), VideoShape(5, 16, 16)
    alone = [inputs().make(clips(number, size=size)) for number, size in enumerate(sizes)]
    joined = np.zeros((2, 3, *sizes[0]), np.float32)
    mask = np.zeros((2, *VAE.compression.latent(sizes[0])), np.float32)
    for row, size in enumerate(sizes):
        frames, height, width = VAE.compression.latent(size)
        joined[row, :, : size.frames, : size.height, : size.width] = clips(row, size=size).pixels
        mask[row, :frames, :height, :width] = 1
    batch = clips(0, 1, size=sizes[0], pixels=joined, mask=mask, sizes=sizes)
    made = inputs(list_side=2, padding_counts=True).make(batch)
    assert made.padding_counts
    assert made.given.latent_mask is not None
    lengths = [each.latents[0, 0].size // 4 for each in alone]
    assert made.latents.shape == made.noise.shape == (2, 4, max(lengths), 2, 2)
    assert made.given.latent_mask.all((2, 3)).sum(1).tolist() == lengths
    for row, (one, length) in enumerate(zip(alone, lengths, strict=True)):
        for got, expected in ((made.latents, one.latents), (made.noise, one.noise)):
            patches = patches_of(expected[0].swapaxes(0, 1), 2).swapaxes(0, 1)
            np.testing.assert_array_equal(got[row, :, :length], patches)
            assert not got[row, :, length:].any()


def test_a_text_may_be_one_vector() -> None:
    made = inputs()
    vectors: Any = SimpleNamespace(states=lambda captions: [np.full(4, len(text), np.float32) for text in captions])
    made.texts = vectors
    given = made.make(clips(0, 2)).given
    assert given.text is given.text_mask is None
    np.testing.assert_array_equal(given.pooled, [[1] * 4, [3] * 4])


def test_no_mask_is_given_where_all_frames_move() -> None:
    assert inputs(frame_masks=FrameMasks({"image_head": 0.0})).make(clips(0, 1)).given.frame_mask is None
    picture = clips(0, size=VideoShape(1, 16, 16))
    assert inputs(frame_masks=FrameMasks({"random": 1.0})).make(picture).given.frame_mask is None


def test_what_blocks_leave_out_follows_their_rates_and_the_samples_number() -> None:
    rates = (0.0, 0.0, 0.25, 1.0)
    made = inputs(drop_rates=rates)
    kept = np.stack([_kept(made, step) for step in range(200)])  # (200, 2, blocks, 2)
    assert set(np.unique(kept[:, :, :2])) == {1.0}
    assert set(np.unique(kept[:, :, 2])) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs(kept[:, :, 2].mean() - 1) < 0.1
    assert not kept[:, :, 3].any()
    alone = made.make(clips(9), step=4).given.kept
    np.testing.assert_array_equal(alone, kept[4, 1:])
    assert inputs(drop_rates=(0.0, 0.0)).make(clips(1)).given.kept is None


def _kept(made: DiffusionInputs, step: int) -> np.ndarray:
    kept = made.make(clips(1, 9, size=VideoShape(1, 8, 8)), step).given.kept
    assert kept is not None
    return kept


def test_clips_that_are_measured_are_left_whole() -> None:
    made = inputs(frame_masks=FrameMasks({"random": 1.0}), drop_rates=(0.5,))
    given = made.make(clips(0, 1), in_training=False).given
    assert given.frame_mask is given.kept is None


def test_fixed_times_are_spread_evenly_and_not_bent() -> None:
    batch = inputs().make(clips(0, 1))
    times = [each.timesteps for each in FixedTimes(RFlowObjective(bends=True), 10).of(batch)]
    np.testing.assert_allclose(times, np.linspace(0, 1000, 12)[1:-1, None].repeat(2, 1), rtol=1e-12)
    for each in FixedTimes(RFlowObjective(bends=True), 3).of(batch):
        assert each.latents is batch.latents
        assert each.given is batch.given
        np.testing.assert_allclose(each.spread, each.timesteps / 1000)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"kind": "flow", "transform_scale": 2.0}, "objective.transform_scale = 2.0: flow has no use for it"),
        ({"kind": "flow", "discrete": True}, "objective.discrete = True: flow has no use for it; leave it out"),
        ({"kind": "flow", "frame_masks": {"random": 0.1}}, "objective.frame_masks = .*: flow has no use for it"),
        ({"kind": "epsilon", "discrete": True}, "objective.discrete = True: epsilon has no use for it; leave it out"),
        ({"kind": "flow", "bound": "hybrid"}, "objective.bound and objective.speed are not for flow; leave them out"),
        ({"kind": "rflow", "speed": True}, "objective.bound and objective.speed are not for rflow; leave them out"),
        ({"kind": "rflow", "shift": 3.0}, "objective.shift and objective.weighting are for flow, not for rflow"),
        ({"kind": "rflow", "discrete": True}, "objective.timesteps.kind = 'logit_normal': a rectified flow needs cont"),
    ],
)
def test_an_objective_refuses_what_it_has_no_use_for(settings: dict[str, Any], told: str) -> None:
    values = {"timesteps": {"kind": "logit_normal"}, "schedule": "linear", "zero_terminal_snr": True, **settings}
    with pytest.raises(ConfigError, match=told):
        make_objective(ObjectiveSettings.model_validate(values), 4)


@pytest.mark.parametrize("output", ["mean", "mean_and_spare"])
def test_a_bound_needs_a_variance_to_teach(output: str) -> None:
    hybrid = ObjectiveSettings.model_validate({"kind": "epsilon", "bound": "hybrid"})
    with pytest.raises(ConfigError, match="objective.bound = hybrid: my_model predicts no variance"):
        check_bound(hybrid, output, "my_model")
    check_bound(hybrid, "mean_and_range", "my_model")
    check_bound(ObjectiveSettings.model_validate({"kind": "epsilon", "bound": "none"}), output, "my_model")


@pytest.mark.parametrize(
    ("masks", "told"),
    [
        (
            {"interpolate": 0.1},
            "objective.frame_masks.interpolate = 0.1: expected a part from 0 to 1 of one of iden",
        ),
        ({"random": 0.7, "image_head": 0.4}, "objective.frame_masks: expected parts of at most 1 in sum, got 1.1"),
    ],
)
def test_frame_masks_that_cannot_be_are_refused_by_name(masks: dict[str, float], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        frame_masks(ObjectiveSettings(kind="rflow", frame_masks=masks))
