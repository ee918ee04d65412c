"""What is counted of models against what torch computes and keeps: FLOP, and bytes of tensors alive at the widest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from duosora.backends.torch.operators import plain
from duosora.core.layout import FreshWeights
from duosora.core.models import FAMILIES
from duosora.core.models.lpips import BACKBONES, LPIPSSpec
from duosora.core.models.work import Counted, Work, counted
from duosora.core.planning.operations import FEW, Operation
from duosora.core.seam import backend as backends
from duosora.core.seam.models import Given
from duosora.core.shapes import LatentShape, VideoShape, next_length

BATCH, TEXT = 2, 12
LATENT = LatentShape(5, 16, 16)
SIDE, SIDES = 64, {"wfvae": 160}
"""Of clips; the WFVAE works in pieces, of which a small one has few."""
BACKEND = backends.get("torch", "cpu")


WIDTHS: dict[str, dict[str, Any]] = {
    "sd_vae": {"block_out_channels": (32, 64, 128, 128), "norm_num_groups": 8},
    "wfvae": {"base_channels": 32, "encoder_energy_flow_hidden_size": 32, "decoder_energy_flow_hidden_size": 32},
}
"""Of autoencoders whose smallest preset is so narrow that pixels count beside its channels."""


def tiny(kind: str) -> Iterator[Any]:
    """A small preset of each family of a kind."""
    for family in FAMILIES:
        small = (name for name, spec in family.presets.items() if "tiny" in name and len(spec.layout()))
        if family.kind == kind and (name := next(small, "")):
            spec: Any = replace(family.presets[name], **WIDTHS.get(family.name, {}))
            if hasattr(spec, "spatial"):
                spec = replace(spec, spatial=replace(spec.spatial, **WIDTHS["sd_vae"]))
            yield pytest.param(spec, id=name)


def given_to(spec: Any) -> Given:
    values: dict[str, Any] = {
        name: np.full(BATCH, 64.0, np.float32)
        for name in ("fps", "height", "width", "num_frames", "ratio")
        if name in spec.given
    }
    if "text" in spec.given:
        values["text"] = np.ones((BATCH, TEXT, spec.text_channels), np.float32)
    if "pooled" in spec.given:
        values["pooled"] = np.ones((BATCH, spec.pooled_channels), np.float32)
    if "label" in spec.given:
        values["label"] = np.zeros(BATCH, np.int64)
    return Given(**values)


Calls = dict[str, tuple[Callable[[], Any], Work]]


def calls_of(spec: Any) -> Calls:
    """What is called of a model, and what is counted of it."""
    model: Any = BACKEND.build(spec, FreshWeights(spec.layout(), 0))
    if hasattr(spec, "costs"):
        latent = getattr(spec, "only_latent", LATENT)
        condition = model.condition(given_to(spec), latent)
        x = torch.ones(BATCH, spec.latent_channels + spec.further_channels, *latent)
        return {"call": (lambda: model(x, torch.ones(BATCH), condition), spec.work(latent, BATCH, TEXT))}
    if hasattr(spec, "compression"):
        side = SIDES.get(spec.family, SIDE)
        video = VideoShape(next_length(spec.compression, 16), side, side)
        latent = spec.compression.latent(video)
        pixels, latents = torch.ones(1, 3, *video), torch.ones(1, spec.latent_channels, *latent)
        return {
            "decode": (lambda: model.decode(latents, video.frames), spec.decoding(latent, 1)),
            "encode": (lambda: model.encode(pixels), spec.encoding(latent, 1)),
        }
    ids = torch.ones(BATCH, TEXT, dtype=torch.int64)
    return {"call": (lambda: model(ids, ids), spec.work(BATCH, TEXT))}


SPECS = [each for kind in ("denoiser", "vae", "text_encoder") for each in tiny(kind)]


@pytest.mark.parametrize("spec", SPECS)
def test_products_are_those_that_torch_counts(spec: Any) -> None:
    with torch.inference_mode(), plain():  # torch's counter knows neither oneDNN's convolutions nor CPUs' attention
        for name, (call, work) in calls_of(spec).items():
            with FlopCounterMode(display=False) as counter:
                call()
            tally = counted(spec.layout(), work)
            flop = sum(product.flop * times for product, times in tally.products.items())
            known = [flop + extra for extra in (0, *(each.flop for each in work.attention))]  # some forms it does know
            assert counter.get_total_flops() in [pytest.approx(each, rel=0.02) for each in known], name


@pytest.mark.parametrize("backbone", BACKBONES)
def test_products_of_lpips_are_those_that_torch_counts(backbone: str) -> None:
    spec = LPIPSSpec(backbone)
    model: Any = BACKEND.build(spec, FreshWeights(spec.layout(), 0))
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(torch.ones(1, 3, 80, 64), torch.ones(1, 3, 80, 64))
    assert counter.get_total_flops() == counted(spec.layout(), spec.work(80, 64, 2)).flop


class Alive(TorchDispatchMode):
    """Counts bytes of the storages that are alive after each operation, of those that were made inside."""

    def __init__(self) -> None:
        super().__init__()
        self.most, self.held = 0, {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if (
                isinstance(tensor, torch.Tensor) and tensor.layout is torch.strided
            ):  # others are kernels in oneDNN's order
                storage = tensor.untyped_storage()
                self.held[storage.data_ptr()] = (StorageWeakRef(storage), storage.nbytes())
        self.held = {key: (ref, size) for key, (ref, size) in self.held.items() if not ref.expired()}
        self.most = max(self.most, sum(size for _, size in self.held.values()))
        return result


def widest(tally: Counted) -> int:
    return max(product.together * (product.inputs + product.outputs) for product in tally.products)


@pytest.mark.parametrize("spec", SPECS)
def test_what_is_alive_is_what_the_spec_says(spec: Any) -> None:
    with torch.inference_mode():
        for name, (call, work) in calls_of(spec).items():
            call()
            with Alive() as alive:
                call()
            measured = alive.most / 4 / widest(counted(spec.layout(), work))
            # Never too little; what gets leaner may wait for the next fit.
            assert 0.8 * measured < work.alive < 1.7 * measured, f"{name}: alive = {measured:.2f}"


SMALL = [
    Operation("product", (4, 8, 8)),
    Operation("attention", (2, 4, 2, 8)),
    Operation("convolution_2d", (4, 4, 1, 8)),
    Operation("convolution_3d", (4, 4, 2, 8)),
    Operation("elementwise", FEW),
]


@pytest.mark.parametrize("operation", SMALL, ids=lambda each: each.name)
def test_every_operation_that_is_timed_is_there(operation: Any) -> None:
    assert BACKEND.operation(operation.name, operation.sizes, "bf16")() is None
