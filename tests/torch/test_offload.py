"""Models that leave the device: which blocks are copied when, and which model is loaded at which time."""

from typing import Any

import numpy as np
import pytest
import torch

import duosora
from duosora.backends.torch import offload
from duosora.core.errors import ConfigError
from duosora.core.layout import FreshWeights
from duosora.core.models.opensora_t2v import OpenSoraT2VSpec
from duosora.core.random import normal
from duosora.core.seam.backend import Backend, get
from duosora.core.seam.models import Given
from duosora.core.shapes import LatentShape

SIZE = LatentShape(3, 4, 4)
PROMPTS = ["a small blue ring moves up on a pink background", "a red circle moves right over white"]
FAST = {"steps": 1, "frames": 5, "height": 32, "width": 32}


def spec(num_layers: int) -> OpenSoraT2VSpec:
    return OpenSoraT2VSpec(
        num_layers=num_layers,
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        caption_channels=16,
    )


@pytest.fixture(scope="module")
def backend() -> Backend:
    return get("torch", "cpu")


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The places to which blocks are copied, in the order of the copies."""
    copies: list[int] = []
    copy = offload._Aside.copy

    def noted(self: Any, number: int, place: torch.Tensor, pieces: list[torch.Tensor]) -> None:
        copies.append(number)
        copy(self, number, place, pieces)

    monkeypatch.setattr(offload._Aside, "copy", noted)
    return copies


def built(backend: Backend, num_layers: int, blocks_on: Any = "host") -> tuple[Any, Any, torch.Tensor, torch.Tensor]:
    given = Given(text=normal((2, 5, 16), 0, "text"), text_mask=np.ones((2, 5), np.int64))
    model = backend.build(spec(num_layers), FreshWeights(spec(num_layers).layout(), 0), blocks_on=blocks_on)
    return (
        model,
        model.condition(given, SIZE),
        backend.asarray(normal((2, 4, *SIZE), 0, "latents")),
        backend.asarray(np.full(2, 500.0, np.float32)),
    )


@pytest.mark.parametrize(("num_layers", "copies"), [(4, [5, 4]), (3, [3, 2]), (2, [2, 0])])
def test_each_block_is_copied_once_a_call(backend: Backend, copied: list[int], num_layers: int, copies: Any) -> None:
    """The next call's first block is copied ahead, but with an odd number of blocks, which leaves it no place; then the
    second block is still there."""
    model, condition, latents, times = built(backend, num_layers)
    for expected in copies:
        copied.clear()
        with backend.inference():
            model(latents, times, condition)
        assert len(copied) == expected


@pytest.mark.parametrize("num_layers", [6, 7])
def test_blocks_that_are_left_out_are_not_copied(backend: Backend, copied: list[int], num_layers: int) -> None:
    """Whatever is run after whatever: the numbers are those of a model whose blocks are all there."""
    model, condition, latents, times = built(backend, num_layers)
    whole, of_whole, *_ = built(backend, num_layers, "device")
    with backend.inference():
        tokens, modulation = model.begin(latents, times, condition)
        for order, most in (([0], 2), ([0], 0), ([0, 4, 5], 3), ([0, 2, 4], 6), ([5, 3, 1], 5), ([num_layers - 1], 2)):
            copied.clear()
            got = expected = tokens
            for index in order:
                got = model.run_block(index, got, modulation, condition)
                expected = whole.run_block(index, expected, modulation, of_whole)
            assert torch.equal(got, expected)
            assert len(copied) <= most


def test_two_blocks_are_on_the_device(backend: Backend) -> None:
    """All weights of linear layers in blocks lie in one of two places, whatever the number of blocks."""
    model, *_ = built(backend, 6)
    places = {
        layer.weight.untyped_storage().data_ptr()
        for block in model.blocks()
        for layer in block.modules()
        if isinstance(layer, torch.nn.Linear) and not layer.weight.is_meta
    }
    assert len(places) == 2
    assert all(layer.weight.is_meta for block in model.blocks() for layer in block.of_text())


def test_blocks_are_compiled_one_by_one(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, **options: compiled.append(module))
    model = backend.build(spec(3), FreshWeights(spec(3).layout(), 0), compile=True, blocks_on="host")
    assert compiled == list(model.blocks())


def test_one_model_is_loaded_at_a_time_and_all_latents_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(way: str) -> tuple[list[np.ndarray], list[list[str]]]:
        pipe = duosora.load("tiny", backend="torch", device="cpu", settings=FAST | {"offload": way})
        beside: list[list[str]] = []
        models, build = pipe.models, pipe.models.backend.build

        def noted(*arguments: Any, **options: Any) -> Any:
            beside.append(list(models.loaded))
            return build(*arguments, **options)

        monkeypatch.setattr(models.backend, "build", noted)
        return [video.frames for video in pipe(PROMPTS, seed=0)], beside

    expected, _ = made("none")
    got, beside = made("parts")
    assert beside == [[], [], []]  # text encoder, denoiser, autoencoder: each once
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_encoder_read_layer_by_layer_makes_the_same_video() -> None:
    def latents(way: str) -> np.ndarray:
        settings = FAST | {"backend.text_encoder": way}
        return duosora.load("tiny", backend="torch", device="cpu", settings=settings)(PROMPTS[0], seed=0).latents

    np.testing.assert_array_equal(latents("stream"), latents("whole"))


def test_offloading_to_the_same_memory_is_refused() -> None:
    with pytest.raises(ConfigError, match="backend.offload = blocks: the device is the host's CPU"):
        duosora.load("tiny", backend="torch", device="cpu", settings={"offload": "blocks"})
