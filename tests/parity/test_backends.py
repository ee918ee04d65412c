"""The same run on torch and on MindSpore: the same blocks, latents and pixels, for every kind of sampling."""

from pathlib import Path

import numpy as np
import pytest

from duosora.core.config.loading import load
from duosora.core.config.schema import SampleConfig
from duosora.core.evaluate.parity import TwinRuns
from duosora.core.io.images import write_image
from duosora.core.layout import FreshWeights
from duosora.core.models import opensora_t2v
from duosora.core.models.lpips import LPIPSSpec
from duosora.core.models.patch_discriminator import PatchDiscriminatorSpec
from duosora.core.seam.backend import Backend, get
from duosora.core.seam.models import Array, Model

BACKENDS = ("torch", "mindspore")
COMMON = (
    "sampler.steps=20",
    "sampler.guidance=7.5",
    "video.height=64",
    "video.width=64",
    'prompts.sources=["a big red circle moves up on a white background"]',
    "prompts.max_tokens=16",
)
RUNS = {
    "video": ["video.frames=17"],
    "video by flow": ["video.frames=17", "sampler.name=flow_euler", "sampler.shift=3.0"],
    "picture": ["video.frames=1"],
    "33 frames": ["video.frames=33"],
    "picture to video": ["video.frames=9", "model.denoiser=tiny_inpaint", "condition.crop=true"],
}
LATENTS = 1e-4
"""Of their largest value."""
BLOCKS = 2e-5
GRADIENTS = {"denoiser": 2e-5, "autoencoder": 1e-4}
"""Of the largest value of each weight's; through a whole model, which adds up what its blocks differ by."""


def twin_runs(folder: Path, *settings: str, dtype: str = "fp32") -> TwinRuns:
    overrides = [*COMMON, f"output.folder={folder}", *settings]
    if "model.denoiser=tiny_inpaint" in settings:
        picture = folder / "first.png"
        write_image(picture, np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
        overrides.append(f'condition.images=["{picture}"]')
    return TwinRuns(load(None, SampleConfig, overrides), BACKENDS, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("settings", RUNS.values(), ids=RUNS)
def test_both_backends_make_the_same_video(settings: list[str], tmp_path: Path) -> None:
    videos = twin_runs(tmp_path, *settings).compare_videos()
    assert videos.latents.relative <= LATENTS
    assert videos.levels <= 1


def test_every_block_of_both_backends_gives_the_same(tmp_path: Path) -> None:
    parts = twin_runs(tmp_path, "video.frames=9").compare_blocks()
    assert set(parts) == {"text_encoder", "denoiser", "encoder", "decoder"}
    assert {
        f"{part} {block.name}": block.relative
        for part, blocks in parts.items()
        for block in blocks
        if block.relative > BLOCKS
    } == {}


def test_gradients_of_every_block_of_both_backends_are_the_same(tmp_path: Path) -> None:
    models = twin_runs(tmp_path, "video.frames=9").compare_gradients()
    assert len(models["denoiser"]) > opensora_t2v.TINY.num_layers
    assert {
        f"{model} {block.name}": block.relative
        for model, blocks in models.items()
        for block in blocks
        if not block.relative <= GRADIENTS[model]
    } == {}


@pytest.mark.parametrize(
    ("spec", "shapes", "options"),
    [
        (LPIPSSpec("alexnet"), [(2, 3, 64, 64)] * 2, ()),
        (PatchDiscriminatorSpec(base_channels=8), [(2, 3, 9, 32, 32)], (False,)),
        (PatchDiscriminatorSpec(base_channels=8), [(2, 3, 9, 32, 32)], (True,)),
    ],
    ids=["LPIPS", "discriminator", "discriminator, norms of the batch"],
)
def test_models_that_only_judge_give_the_same(spec: object, shapes: list[tuple[int, ...]], options: tuple) -> None:
    draw = np.random.default_rng(0)
    arrays = [draw.uniform(-1, 1, shape).astype(np.float32) for shape in shapes]
    reference, other = (judgement(get(name, "cpu"), spec, arrays, options) for name in BACKENDS)
    for name, expected in reference.items():
        np.testing.assert_allclose(other[name], expected, rtol=0, atol=1e-5 * np.abs(expected).max(), err_msg=name)


def judgement(backend: Backend, spec: object, arrays: list[np.ndarray], options: tuple) -> dict[str, np.ndarray]:
    """What a model says of some arrays, and its running statistics after that."""
    model: Model = backend.build(spec, FreshWeights(spec.layout(), 0))  # type: ignore[attr-defined]
    inputs: list[Array] = [backend.asarray(array) for array in arrays]
    with backend.inference():
        results = {"output": backend.to_numpy(model(*inputs, *options))}
    for name in getattr(spec, "statistics", ()):
        value = model
        for part in name.split("."):
            value = value[int(part)] if part.isdigit() else getattr(value, part)
        results[name] = backend.to_numpy(value)
    return results
