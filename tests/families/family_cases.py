"""A case of each family, made of nothing but what its spec says of itself: a new family is tested as soon as it is
listed.

What a kind is called with is drawn here once, and what comes out is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any, ClassVar

import numpy as np

from duosora.core import models
from duosora.core.errors import ShapeError
from duosora.core.layout import Constant, FreshWeights, GivenWeights
from duosora.core.models.kinds import Family
from duosora.core.random import normal
from duosora.core.seam.backend import Backend, BlocksOn, get
from duosora.core.seam.group import Group
from duosora.core.seam.models import Array, Given, Model
from duosora.core.shapes import LatentShape

Tensors = dict[str, Array]
BATCH = 2
TEXT_TOKENS = 24
"""More than half of a table of relative positions, and padded in one of the texts."""


@dataclass(frozen=True)
class Case:
    """A small model of a family."""

    family: Family
    preset: str
    spec: Any

    is_trained: ClassVar[bool] = True
    """Whether duosora trains models of the kind, so that their gradients count."""

    @property
    def name(self) -> str:
        return f"{self.family.name}-{self.preset}"

    @property
    def sizes(self) -> tuple[LatentShape, ...]:
        """Of the latents that it is tried on."""
        return ()

    def call(self, backend: Backend, model: Model, spec: Any = None, size: LatentShape | None = None) -> Tensors:
        """What the model, of the case's spec or another one of its family, gives by name."""
        raise NotImplementedError


class DenoiserCase(Case):
    @property
    def sizes(self) -> tuple[LatentShape, ...]:
        """An odd number of tokens for patches of two by two, and fewer than there are ranks; or the one square that a
        model takes."""
        sizes = (LatentShape(3, 6, 10), LatentShape(1, 2, 2), LatentShape(1, 8, 8))
        return tuple(size for size in sizes if _takes(self.spec, size))[:2]

    def given(self, spec: Any, latent: LatentShape) -> Given:
        """All that the model reads beside latents and timesteps, with padding, a clean frame and a null caption."""
        tokens = min(TEXT_TOKENS, spec.most_tokens or TEXT_TOKENS)
        text_mask = np.ones((BATCH, tokens), np.int64)
        text_mask[1, tokens // 2 :] = 0
        moves = np.ones((BATCH, latent.frames), bool)
        moves[0, 0] = False
        latent_mask = np.ones((BATCH, *latent), np.float32)
        latent_mask[1, :, :, latent.width // 2 :] = 0
        inputs = {
            "text": normal((BATCH, tokens, spec.text_channels), 2, "text"),
            "is_null": np.array([True, False]),
            "fps": np.array([24.0, 8.0]),
            "height": np.full(BATCH, 48.0),
            "width": np.full(BATCH, 80.0),
            "num_frames": np.array([16.0, 33.0]),
            "ratio": np.full(BATCH, 0.6),
            "label": np.array([1, 0]),
            "pooled": normal((BATCH, getattr(spec, "pooled_channels", 0)), 2, "pooled"),
            "frame_mask": moves,
            "latent_mask": latent_mask,
            "kept": np.random.default_rng(2).choice([0.0, 1.25], (BATCH, len(spec.blocks()), 2), p=[0.2, 0.8]),
        }
        reads = {name: inputs[name] for name in spec.given - {"channels"}}
        return Given(**reads, **({"text_mask": text_mask} if "text" in reads else {}))

    def call(self, backend: Backend, model: Model, spec: Any = None, size: LatentShape | None = None) -> Tensors:
        spec, size = spec or self.spec, size or self.sizes[0]
        latents = normal((BATCH, spec.latent_channels + spec.further_channels, *size), 2, "latents")
        times = np.array([900.0, 250.5], np.float32)
        condition = model.condition(self.given(spec, size), size)
        return {"prediction": model(backend.asarray(latents), backend.asarray(times), condition)}


def _takes(spec: Any, size: LatentShape) -> bool:
    try:
        spec.grid(size)
    except ShapeError:
        return False
    return True


class AutoencoderCase(Case):
    sizes: ClassVar[tuple[LatentShape, ...]] = (LatentShape(6, 2, 3), LatentShape(1, 2, 3))
    """More than one group of an autoencoder that works in groups, and a picture."""

    def call(self, backend: Backend, model: Model, spec: Any = None, size: LatentShape | None = None) -> Tensors:
        spec = spec or self.spec
        video = spec.compression.video(size or self.sizes[0])
        noise = {
            name: backend.asarray(normal((1, *shape), 2, name)) for name, shape in spec.noise_shapes(video).items()
        }
        clip = backend.asarray(np.tanh(normal((1, 3, *video), 2, "video")))
        latents, moments = model.encode(clip, noise)
        again = model.reconstruct(clip, noise, wanted=frozenset(spec.pairs))
        compared = {
            f"{half} {i} of {name}": level
            for name, pair in again.pairs.items()
            for half, levels in zip(("given", "made"), pair, strict=True)
            for i, level in enumerate(levels if isinstance(levels, tuple) else (levels,))
        }
        pixels = model.decode(latents, video.frames)
        return {"latents": latents, "pixels": pixels, "reconstruction": again.pixels, **moments, **compared}


class TextEncoderCase(Case):
    is_trained: ClassVar[bool] = False

    def call(self, backend: Backend, model: Model, spec: Any = None, size: LatentShape | None = None) -> Tensors:
        mask = np.ones((BATCH, TEXT_TOKENS), np.int64)
        mask[1, TEXT_TOKENS // 2 :] = 0
        ids = np.random.default_rng(2).integers(1, 32, mask.shape) * mask
        return {"states": model(backend.asarray(ids), backend.asarray(mask))}


KINDS = {"denoiser": DenoiserCase, "vae": AutoencoderCase, "text_encoder": TextEncoderCase}


def small_cases() -> dict[str, Case]:
    """The smallest preset of each family, and of a denoiser each that reads other things."""
    smallest: dict[Any, Case] = {}
    for family in models.FAMILIES:
        for name, spec in family.presets.items():
            key = family.name, getattr(spec, "given", None)
            held = smallest.get(key)
            if held is None or spec.layout().num_parameters < held.spec.layout().num_parameters:
                smallest[key] = KINDS[family.kind](family, name, spec)
    return {case.name: case for case in smallest.values()}


CASES = small_cases()
FAMILIES = {case.family.name: case for case in reversed(CASES.values())}
"""The first case of each."""
DENOISERS, AUTOENCODERS = (
    {name: case for name, case in CASES.items() if case.family.kind == kind} for kind in ("denoiser", "vae")
)
PRESETS = [(family, name) for family in models.FAMILIES for name in family.presets]


@cache
def awake(spec: Any) -> GivenWeights:
    """Weights that are nowhere zero, so that all of a model shows in what it gives."""
    layout = spec.layout()
    fresh = FreshWeights(layout, 0)
    spread = {name: np.float32(0.3 * prod(weight.shape[1:]) ** -0.5) for name, weight in layout.items()}
    drawn = [name for name, weight in layout.items() if not isinstance(weight.init, Constant)]
    arrays = {name: fresh[name] + spread[name] * normal(layout[name].shape, 1, name) for name in drawn}
    return GivenWeights(arrays, f"weights of {layout.model}")


def outputs(
    case: Case, backend: str, spec: Any = None, group: Group | None = None, blocks_on: BlocksOn = "device"
) -> dict[str, np.ndarray]:
    """What the case's model, or that of another spec of its family, gives on a backend.

    group: ranks that share its tokens.
    """
    spec = spec or case.spec
    framework = get(backend, "cpu")
    model = framework.build(spec, awake(spec), sequence=group, blocks_on=blocks_on)
    with framework.inference():
        results = {size: case.call(framework, model, spec, size) for size in case.sizes or (None,)}
        return {
            f"{name} of {size}": framework.to_numpy(tensor)
            for size, tensors in results.items()
            for name, tensor in tensors.items()
        }


@cache
def own_outputs(name: str, backend: str) -> Mapping[str, np.ndarray]:
    """Those of a case as it is, once for all tests."""
    return outputs(CASES[name], backend)


def gradients(case: Case, backend: str) -> dict[str, np.ndarray]:
    """By each weight that is trained: of the sum of all that the model gives, each number times one of its own."""
    framework = get(backend, "cpu")
    model = framework.build(case.spec, awake(case.spec))

    def total() -> Any:
        results = case.call(framework, model)
        slopes = {name: framework.asarray(normal(tuple(each.shape), 3, name)) for name, each in results.items()}
        return sum((each * slopes[name]).mean() for name, each in results.items())

    find = _torch_gradients if backend == "torch" else _mindspore_gradients
    untrained = set(case.spec.layout().untrained)
    return {name: framework.to_numpy(gradient) for name, gradient in find(model, total, untrained).items()}


def _torch_gradients(model: Any, total: Any, untrained: set[str]) -> dict[str, Any]:
    import torch

    parameters = {name: each for name, each in model.named_parameters() if name not in untrained}
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    found = torch.autograd.grad(total(), list(parameters.values()), materialize_grads=True)
    return dict(zip(parameters, found, strict=True))


def _mindspore_gradients(model: Any, total: Any, untrained: set[str]) -> dict[str, Any]:
    import mindspore

    parameters = {each.name: each for each in model.get_parameters() if each.name not in untrained}
    for parameter in parameters.values():
        parameter.requires_grad = True
    _, found = mindspore.value_and_grad(total, None, list(parameters.values()))()
    return dict(zip(parameters, found, strict=True))
