"""The text-to-video pipeline on torch: repeatability, batches, freed models, and runs that leave the finite numbers."""

from collections.abc import Sequence

import numpy as np
import pytest

from duosora.core import samplers
from duosora.core.errors import ConfigError, NumericsError, ShapeError
from duosora.core.io.tokenizer import Tokenizer
from duosora.core.layout import FreshWeights, GivenWeights
from duosora.core.models import FAMILIES, wfvae
from duosora.core.models.finding import TINY_FOLDER, Part, open_part
from duosora.core.pipelines.denoise import Guidance
from duosora.core.pipelines.text_to_video import Parts, Precision, TextToVideo, VideoRequest
from duosora.core.samplers import Sampler
from duosora.core.seam.backend import get
from duosora.core.shapes import VideoShape

VIDEO = VideoShape(9, 64, 64)
PROMPTS = ("a big red circle moves up on a white background", "a star")


def parts(**changed: Part) -> Parts:
    kinds = {kind: open_part(kind, "tiny") for kind in ("denoiser", "text_encoder", "vae")}
    return Parts(**(kinds | changed), tokenizer=Tokenizer.open(TINY_FOLDER))


def sampler() -> Sampler:
    return samplers.create("euler_ancestral", 4, objective="v_prediction", zero_terminal_snr=True)


def sample(pipeline: TextToVideo, requests: Sequence[VideoRequest]) -> np.ndarray:
    texts = pipeline.encode([text for request in requests for text in (request.prompt, request.negative)])
    return pipeline.denoise(requests, texts, VIDEO, sampler, Guidance(7.5))


@pytest.fixture(scope="module")
def pipeline() -> TextToVideo:
    return TextToVideo(get("torch", "cpu"), parts(), max_tokens=16)


@pytest.fixture(scope="module")
def requests() -> list[VideoRequest]:
    return [VideoRequest(prompt, "blurry", 5) for prompt in PROMPTS]


def test_the_same_seed_gives_the_same_latents_bit_for_bit(pipeline: TextToVideo, requests: list[VideoRequest]) -> None:
    again = TextToVideo(get("torch", "cpu"), parts(), max_tokens=16)
    np.testing.assert_array_equal(sample(pipeline, requests), sample(again, requests))


def test_prompts_together_equal_prompts_one_by_one(pipeline: TextToVideo, requests: list[VideoRequest]) -> None:
    together = sample(pipeline, requests)
    alone = np.concatenate([sample(pipeline, [request]) for request in requests])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-6 * np.abs(alone).max())


def test_prompt_negative_and_seed_each_matter(pipeline: TextToVideo) -> None:
    given = (("a star", "", 1), ("a ring", "", 1), ("a star", "blue", 1), ("a star", "", 2))
    requests = [VideoRequest(*parts) for parts in given]
    latents = sample(pipeline, requests)
    for one in range(len(requests)):
        for other in range(one):
            assert np.abs(latents[one] - latents[other]).max() > 1e-3


def test_guidance_of_one_needs_no_negative(pipeline: TextToVideo) -> None:
    texts = pipeline.encode(["a star"])
    latents = pipeline.denoise([VideoRequest("a star", "never encoded", 1)], texts, VIDEO, sampler, Guidance(1.0))
    assert latents.shape == (1, 8, 3, 8, 8)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_stays_near_float32(pipeline: TextToVideo, requests: list[VideoRequest], dtype: str) -> None:
    half = TextToVideo(get("torch", "cpu"), parts(), Precision(dtype, dtype, dtype), max_tokens=16)
    full, rounded = sample(pipeline, requests), sample(half, requests)
    assert np.isfinite(rounded).all()
    # Guidance of 7.5 amplifies rounding; a wrong cast would change the picture altogether (correlation near 0).
    assert np.corrcoef(full.ravel(), rounded.ravel())[0, 1] > 0.98
    frames = np.concatenate(list(half.decode(rounded)), axis=2)
    assert frames.shape == (2, 3, *VIDEO)
    assert np.isfinite(frames).all()


def test_models_are_loaded_when_needed_and_released(pipeline: TextToVideo) -> None:
    fresh = TextToVideo(get("torch", "cpu"), parts(), max_tokens=16)
    first = fresh.model("text_encoder")
    assert fresh.model("text_encoder") is first
    fresh.release("text_encoder")
    assert fresh.model("text_encoder") is not first


def test_a_step_that_is_not_finite_stops_the_run(requests: list[VideoRequest]) -> None:
    healthy = open_part("denoiser", "tiny")
    fresh = FreshWeights(healthy.layout, 0)
    weights = GivenWeights({name: fresh[name] for name in fresh}, "huge weights")
    weights["proj_out.weight"] = weights["proj_out.weight"] * np.float32(1e38)
    broken = Part(FAMILIES[0], healthy.spec, "huge weights", False, lambda: weights)
    pipeline = TextToVideo(get("torch", "cpu"), parts(denoiser=broken), max_tokens=16)
    with pytest.raises(NumericsError, match=r"step 1 of 4 \(timestep 999\): latents hold NaN or infinity"):
        sample(pipeline, requests)


def test_models_that_do_not_belong_together_are_refused() -> None:
    four_channels = Part(FAMILIES[2], wfvae.D4_4X8X8, "vae", True, lambda: FreshWeights(wfvae.D4_4X8X8.layout(), 0))
    with pytest.raises(ConfigError, match="works on 8 latent channels, model.vae makes 4"):
        TextToVideo(get("torch", "cpu"), parts(vae=four_channels))
    with pytest.raises(ConfigError, match="reads text states of 64 channels, model.text_encoder gives 4096"):
        TextToVideo(get("torch", "cpu"), parts(text_encoder=open_part("text_encoder", "mt5_xxl")))


def test_sizes_are_counted_in_pixels_latents_and_tokens(pipeline: TextToVideo) -> None:
    sizes = pipeline.sizes(VideoShape(93, 352, 640))
    assert sizes.latent == (24, 44, 80)
    assert sizes.tokens.num_tokens == 21120
    with pytest.raises(ShapeError, match="the nearest are 29 and 33"):
        pipeline.sizes(VideoShape(30, 352, 640))
