"""LoRA beside the weights of every denoiser: as it is when added to them, which stay as they are."""

from typing import Any

import numpy as np
import pytest
from family_cases import DENOISERS, awake
from training_cases import TARGETS

from duosora.core.errors import ConfigError
from duosora.core.models.lora.adapter import ATTENTION, chosen, down_shape, layers, up_shape
from duosora.core.models.lora.applying import BesideWeights, applied
from duosora.core.models.lora.files import Lora, Matrices
from duosora.core.models.lora.merging import MergedWeights, Used
from duosora.core.random import normal
from duosora.core.seam.backend import NAMES, Backend, get

QUICK = [name for name in DENOISERS if name.startswith(("opensora_t2v-tiny", "stdit3", "dit_first"))]
"""Attentions apart and in one, convolutions of patches of both kinds."""
CASES = [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in DENOISERS]
on_both = pytest.mark.parametrize("backend", [NAMES[0], pytest.param(NAMES[1], marks=pytest.mark.slow)], indirect=True)


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Backend:
    return get(request.param, "cpu")


def some(name: str) -> list[Used]:
    """Two of a case's model, of other ranks, which adapt some layers both."""
    spec = DENOISERS[name].spec
    layout = spec.layout()
    shapes = layers(layout)

    def lora(source: str, rank: int, targets: tuple[str, ...]) -> Lora:
        def drawn(shape: tuple[int, ...], what: str) -> np.ndarray:
            return np.float32(0.2) * normal(shape, 3, f"{source} {what}")

        named = {layer: shapes[layer] for layer in chosen(layout, spec.blocks(), targets)}
        pairs = {
            layer: Matrices(drawn(down_shape(shape, rank), f"{layer} A"), drawn(up_shape(shape, rank), f"{layer} B"), 2)
            for layer, shape in named.items()
        }
        return Lora(source, "peft", pairs)

    return [Used(lora("one", 2, TARGETS), 0.7), Used(lora("other", 3, ATTENTION), -0.4)]


def built(backend: Backend, name: str, **how: Any) -> Any:
    """A case's model with LoRA beside its weights."""
    spec = DENOISERS[name].spec
    found = applied(spec.layout(), some(name))
    return backend.build(spec, BesideWeights(awake(spec), found.weights), adapters=found.adapters, **how)


def predicted(backend: Backend, name: str, model: Any) -> np.ndarray:
    case = DENOISERS[name]
    with backend.inference():
        (made,) = case.call(backend, model, case.spec, case.sizes[0]).values()
        return backend.to_numpy(made)


@on_both
@pytest.mark.parametrize("name", CASES)
def test_predictions_are_those_of_the_sum_of_the_weights(backend: Backend, name: str) -> None:
    spec = DENOISERS[name].spec
    summed = MergedWeights(awake(spec), spec.layout(), some(name))
    expected, plain = (predicted(backend, name, backend.build(spec, each)) for each in (summed, awake(spec)))
    got = predicted(backend, name, built(backend, name))
    limit = 2e-5 * np.abs(expected).max()
    np.testing.assert_allclose(got, expected, rtol=0, atol=limit)
    assert np.abs(expected - plain).max() > 100 * limit


@on_both
@pytest.mark.parametrize("name", ["opensora_t2v-tiny"])
def test_so_they_are_with_blocks_on_the_host(backend: Backend, name: str) -> None:
    got, expected = (predicted(backend, name, built(backend, name, **how)) for how in ({"blocks_on": "host"}, {}))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.slow
def test_mindspores_graphs_refuse_it() -> None:
    with pytest.raises(ConfigError, match=r"^model\.lora_mode = applied: .* leave out backend\.compile, or take"):
        built(get("mindspore", "cpu"), QUICK[0], compile=True)
