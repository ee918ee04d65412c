"""LPIPS of the torch backend against its formula written out with published layer numbers, torchmetrics and itself."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torchmetrics.functional.image import lpips as torchmetrics_lpips

from duosora.backends.torch.models.lpips import EPS
from duosora.backends.torch.video import fold_frames, unit_channels
from duosora.core.errors import CheckpointError, LayoutError, ShapeError
from duosora.core.io.weights import save_weights
from duosora.core.layout import FreshWeights, GivenWeights
from duosora.core.models.lpips import BACKBONES, LPIPSSpec, open_lpips
from duosora.core.models.wfvae import TINY
from duosora.core.random import normal
from duosora.core.seam.backend import Backend, get
from duosora.core.seam.training import AutoencoderBatch, AutoencoderLosses, Companion, TrainOptions

# Of `features` in torchvision: poolings (number: window), convolutions (number: stride, padding), and the ReLUs whose
# outputs are compared. Written down here from torchvision's documentation, not taken from the code under test.
PUBLISHED = {
    "vgg16": (
        {4: 2, 9: 2, 16: 2, 23: 2},
        dict.fromkeys((0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), (1, 1)),
        (3, 8, 15, 22, 29),
    ),
    "alexnet": (
        {2: 3, 5: 3},
        {0: (4, 2), 3: (1, 2), 6: (1, 1), 8: (1, 1), 10: (1, 1)},
        (1, 4, 7, 9, 11),
    ),
}


@pytest.fixture(scope="module")
def backend() -> Backend:
    return get("torch", "cpu")


def some_weights(spec: LPIPSSpec) -> GivenWeights:
    """Fresh weights, with biases and with heads whose channels differ."""
    generator = np.random.default_rng(0)
    fresh = FreshWeights(spec.layout(), seed=0)
    arrays = {}
    for name in fresh:
        array = fresh[name]
        if name.endswith("bias"):
            array = generator.normal(0, 0.1, array.shape).astype(np.float32)
        if name.startswith("lin"):
            array = generator.random(array.shape, dtype=np.float32)
        arrays[name] = array
    return GivenWeights(arrays, "test weights")


def pictures(count: int, height: int, width: int, seed: int) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def features(backbone: str, weights: GivenWeights, x: torch.Tensor) -> list[torch.Tensor]:
    """The compared features in float64, by the published code's steps."""
    poolings, convolutions, compared = PUBLISHED[backbone]
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x = ((x - shift[:, None, None]) / scale[:, None, None]).double()
    found = []
    for number in range(compared[-1] + 1):
        if number in poolings:
            x = functional.max_pool2d(x, poolings[number], stride=2)
        elif number in convolutions:
            stride, padding = convolutions[number]
            weight, bias = (
                torch.from_numpy(weights[f"features.{number}.{part}"]).double() for part in ("weight", "bias")
            )
            x = functional.conv2d(x, weight, bias, stride, padding)
        else:
            x = x.clamp(min=0)
        if number in compared:
            found.append(x)
    return found


def distance_by_formula(
    backbone: str, weights: GivenWeights, first: torch.Tensor, second: torch.Tensor
) -> torch.Tensor:
    total = torch.zeros(len(first), dtype=torch.float64)
    pairs = zip(features(backbone, weights, first), features(backbone, weights, second), strict=True)
    for level, (x, y) in enumerate(pairs):
        unit_x, unit_y = (part / (part.norm(dim=1, keepdim=True) + 1e-10) for part in (x, y))
        head = torch.from_numpy(weights[f"lin{level}.model.1.weight"]).double()
        total += functional.conv2d((unit_x - unit_y) ** 2, head).mean((1, 2, 3))
    return total


@pytest.mark.parametrize("backbone", BACKBONES)
def test_distances_are_those_of_the_formula(backend: Backend, backbone: str) -> None:
    spec = LPIPSSpec(backbone)
    weights = some_weights(spec)
    first, second = pictures(2, 47, 35, seed=1), pictures(2, 47, 35, seed=2)
    with backend.inference():
        got = backend.build(spec, weights)(first, second)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), distance_by_formula(backbone, weights, first, second).numpy(), rtol=1e-5)


def torchvision_features(backbone: str, weights: GivenWeights) -> nn.Sequential:
    """What torchvision's model of that name has as `features`, as far as it is used."""
    poolings, convolutions, compared = PUBLISHED[backbone]
    layers: list[nn.Module] = []
    for number in range(compared[-1] + 1):
        if number in poolings:
            layers.append(nn.MaxPool2d(poolings[number], stride=2))
        elif number in convolutions:
            outputs, inputs, kernel, _ = weights.shape(f"features.{number}.weight")
            layers.append(nn.Conv2d(inputs, outputs, kernel, *convolutions[number]))
        else:
            layers.append(nn.ReLU())
    whole = nn.Sequential(*layers)
    whole.load_state_dict(
        {name.removeprefix("features."): torch.from_numpy(weights[name]) for name in weights if name[0] == "f"}
    )
    return whole


@pytest.mark.parametrize(("backbone", "net"), [("vgg16", "vgg"), ("alexnet", "alex")])
def test_distances_with_the_published_heads_are_those_of_torchmetrics(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, backbone: str, net: str
) -> None:
    spec = LPIPSSpec(backbone)
    weights = some_weights(spec)
    # It would ask torchvision, which need not be there.
    monkeypatch.setattr(
        torchmetrics_lpips, "_get_tv_model_features", lambda *_: torchvision_features(backbone, weights)
    )
    theirs = torchmetrics_lpips._LPIPS(net=net)
    weights |= {name: value.numpy() for name, value in theirs.state_dict().items() if name in weights}
    first, second = pictures(2, 40, 64, seed=1), pictures(2, 40, 64, seed=2)
    with backend.inference():
        got, expected = backend.build(spec, weights)(first, second), theirs(first, second)
    assert [name for name in theirs.state_dict() if name in weights] == [f"lin{i}.model.1.weight" for i in range(5)]
    torch.testing.assert_close(got, expected.flatten(), rtol=1e-4, atol=0)


def test_a_distance_is_none_to_itself_and_the_same_both_ways(backend: Backend) -> None:
    model = backend.build(LPIPSSpec("alexnet"), some_weights(LPIPSSpec("alexnet")))
    first, second = pictures(1, 32, 40, seed=1), pictures(1, 32, 40, seed=2)
    with backend.inference():
        assert model(first, first).tolist() == [0.0]
        assert model(first, second) == model(second, first) > 0


def test_the_slope_reaches_the_pictures_and_not_the_weights(backend: Backend) -> None:
    model = backend.build(LPIPSSpec("alexnet"), some_weights(LPIPSSpec("alexnet")))
    target = pictures(1, 33, 33, seed=2)
    guess = pictures(1, 33, 33, seed=1).requires_grad_()
    model(guess, target).sum().backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    step = -0.01 * guess.grad / guess.grad.norm()
    with torch.no_grad():
        assert model(guess + step, target) < model(guess, target)


def test_the_autoencoder_step_adds_the_distance_of_each_frame(backend: Backend) -> None:
    perceptual = LPIPSSpec("alexnet")
    video = normal((1, 3, 5, 32, 32), 0, "video").clip(-1, 1)
    noise = {"latent": normal((1, 8, 2, 4, 4), 0, "noise")}
    batch = AutoencoderBatch(video, noise, "generator", adversarial=False)
    weight, losses = 0.1, []
    for companion in (None, Companion(perceptual, some_weights(perceptual))):
        trainer = backend.train_autoencoder(
            TINY,
            FreshWeights(TINY.layout(), seed=0),
            AutoencoderLosses(perceptual_weight=weight),
            TrainOptions(),
            perceptual=companion,
        )
        losses.append(trainer.evaluate(batch, use_ema=False))
    with trainer.inference_model(use_ema=False) as model, backend.inference():
        drawn = {"latent": backend.asarray(noise["latent"])}
        pixels = model.reconstruct(backend.asarray(video), drawn).pixels
        frames, reconstructed = (fold_frames(clip) for clip in (backend.asarray(video), pixels))
        distances = backend.build(perceptual, some_weights(perceptual))(frames, reconstructed)
    # Upstream adds it to the error of every pixel and colour, and sums those of a frame.
    assert losses[1] - losses[0] == pytest.approx(weight * 3 * 32 * 32 * distances.mean().item(), rel=1e-3)


def test_features_of_zeros_stay_zeros_and_have_a_finite_slope() -> None:
    x = torch.zeros(1, 4, 2, 2, requires_grad=True)
    unit = unit_channels(x, EPS)
    unit.sum().backward()
    assert not unit.any()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_is_near(backend: Backend, dtype: str) -> None:
    spec = LPIPSSpec("alexnet")
    first, second = pictures(1, 48, 48, seed=1), pictures(1, 48, 48, seed=2)
    with backend.inference():
        exact, half = (backend.build(spec, some_weights(spec), name)(first, second) for name in ("fp32", dtype))
    assert half.item() == pytest.approx(exact.item(), rel=0.03)


@pytest.mark.parametrize(("backbone", "side"), [("vgg16", 16), ("alexnet", 31)])
def test_the_smallest_picture_is_known(backend: Backend, backbone: str, side: int) -> None:
    model = backend.build(LPIPSSpec(backbone), FreshWeights(LPIPSSpec(backbone).layout(), seed=0))
    with backend.inference():
        assert torch.isfinite(model(pictures(1, side, 40, seed=1), pictures(1, side, 40, seed=2))).all()
        with pytest.raises(ShapeError, match=f"at least {side}x{side} pixels, not {side - 1}x40"):
            model(pictures(1, side - 1, 40, seed=1), pictures(1, side - 1, 40, seed=2))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_folder_of_two_files_is_recognised(tmp_path: Path, backbone: str) -> None:
    weights = some_weights(LPIPSSpec(backbone))
    parts = {"features": {"classifier.6.weight": np.ones((4, 4), np.float32)}, "lin": {}}
    for name in weights:
        parts["lin" if name.startswith("lin") else "features"][name] = weights[name]
    save_weights(tmp_path / "backbone.safetensors", parts["features"])
    save_weights(tmp_path / "heads.safetensors", parts["lin"])
    (tmp_path / "README.md").write_text("how it was made")
    spec, opened = open_lpips(tmp_path)
    assert spec == LPIPSSpec(backbone)
    np.testing.assert_array_equal(opened["lin4.model.1.weight"], weights["lin4.model.1.weight"])
    np.testing.assert_array_equal(opened["features.0.bias"], weights["features.0.bias"])


def test_folders_that_hold_no_lpips_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere: cannot be read as a folder"):
        open_lpips(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="holds no safetensors with the backbone of LPIPS"):
        open_lpips(tmp_path)
    weights = some_weights(LPIPSSpec("alexnet"))
    backbone = {name: weights[name] for name in weights if name.startswith("features")}
    save_weights(tmp_path / "alexnet.safetensors", backbone)
    with pytest.raises(LayoutError, match=r"does not fit LPIPS\(alexnet\): 5 missing \(lin0.model.1.weight"):
        open_lpips(tmp_path)
    save_weights(tmp_path / "again.safetensors", backbone)
    with pytest.raises(CheckpointError, match="again.safetensors and alexnet.safetensors both hold tensor"):
        open_lpips(tmp_path)
