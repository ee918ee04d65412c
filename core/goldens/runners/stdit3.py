"""Family `stdit3`: forwards of the denoiser with what its parts give, its captions, and one training step."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ...layout import FreshWeights, GivenWeights, Layout
from ...models.stdit3 import STDiT3Spec
from ...seam.backend import Backend
from ...seam.models import Given, Model
from ...seam.training import AdamW, DiffusionBatch, TrainOptions
from ...shapes import LatentShape
from ...train.rflow import RFlowObjective
from ..case import Case, Comparison

GRADIENTS = True
INPUTS = r"(.+/)?(x|timestep|y|fps|height|width|mask|x_mask)|force_drop_ids|x_start|noise|t|kw/.+"
LATENTS = re.compile(r"(?P<prefix>(?:.+/)?)x")
RATE = 1e-4
"""Of the training step that cases record."""
OPTIONS = TrainOptions(optimizer=AdamW(eps=1e-15, weight_decay=0.0), max_grad_norm=1.0, keeps_ema=False)
TINY_GRADIENT = 1e-5
"""Share of a weight's largest gradient below which the direction of Adam's first step is rounding noise."""
NO_GRADIENT = 1e-8
"""Share of the norm of all gradients below which one is what rounding leaves of 0, as where a softmax has one entry."""


def run(case: Case, backend: Backend) -> Iterator[Comparison]:
    """Compute every output tensor of a case of this family."""
    spec = STDiT3Spec.from_config(case.config, case.name)
    if "x_start" in case.tensors:
        yield from _run_training(case, backend, spec)
        return
    with backend.inference():
        if "force_drop_ids" in case.tensors:
            yield from _run_captions(case, backend, spec)
            return
        model = backend.build(spec, case.weights())
        for match in filter(None, map(LATENTS.fullmatch, case.tensors)):
            prefix = match["prefix"]
            inputs = {
                name.removeprefix(prefix): array for name, array in case.tensors.items() if name.startswith(prefix)
            }
            for name, array in _forward(backend, spec, model, inputs).items():
                yield Comparison(f"{prefix}{name}", array)


def layout(manifest: Mapping[str, Any]) -> Layout:
    """The layout of a full-size model, of which a manifest says how it was built."""
    sizes = {name: manifest[name] for name in ("depth", "patch_size", "hidden_size", "num_heads")}
    options = {name: value for name, value in manifest["construct"].items() if name != "type"}
    return STDiT3Spec.from_config(options | sizes, "manifest").layout()


def given_of(spec: STDiT3Spec, inputs: Mapping[str, np.ndarray]) -> Given:
    """What upstream's call was given: texts (B, 1, L, C), or packed ones (1, sum of lengths, D) with their lengths."""
    text, mask = inputs["y"], inputs.get("mask")
    if spec.skip_y_embedder and mask is not None:
        text, mask = unpacked(text[0], mask)
    else:
        text = text[:, 0]
    numbers = {name: inputs[name] for name in ("fps", "height", "width")}
    return Given(text=text, text_mask=mask, frame_mask=inputs.get("x_mask"), **numbers)


def unpacked(text: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Texts that lie one behind the other (sum of lengths, D) as (B, L, D) with their mask (B, L)."""
    mask = np.arange(max(lengths)) < lengths[:, None]
    padded = np.zeros((*mask.shape, text.shape[-1]), np.float32)
    padded[mask] = text
    return padded, mask


def _forward(
    backend: Backend, spec: STDiT3Spec, model: Model, inputs: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The prediction and what the parts gave, under the names of the recorded tensors."""
    latents, given = inputs["x"], given_of(spec, inputs)
    if given.frame_mask is not None and given.frame_mask.all():
        # Only where some frame is clean is timestep 0 embedded, whose results may be recorded all the same.
        clean = _forward(backend, spec, model, {**inputs, "x_mask": np.zeros_like(given.frame_mask)})
        results = _forward(backend, spec, model, {name: inputs[name] for name in inputs if name != "x_mask"})
        return results | {name: clean[name] for name in clean if name.endswith("_t0")}
    names = {name: f"{kind}_{index}" for name in spec.blocks() for kind, index in [name.split("_blocks.")]}
    parts = ("x_embedder", "t_embedder", "fps_embedder", "t_block.1", "y_embedder", "final_layer", *names)
    with backend.record(model, parts) as recorded:
        condition = model.condition(given, LatentShape(*latents.shape[2:]))
        times = backend.asarray(inputs["timestep"].astype(np.float32))
        output = model(backend.asarray(latents), times, condition)
    inner = {name: backend.to_numpy(array) for name, array in recorded.items()}
    results = {"out": backend.to_numpy(output), "pos_emb": backend.to_numpy(condition.positions)[None]}
    # Timestep 0 of clean frames is embedded behind the others.
    batch = len(latents)
    for name, module in (("t_emb", "t_embedder"), ("t_mlp", "t_block.1")):
        results |= {name: inner[module][:batch], f"{name}_t0": inner[module][batch:]}
    results |= {"fps_emb": inner["fps_embedder"], "x_embed": inner["x_embedder"], "final_tokens": inner["final_layer"]}
    results |= {recorded_as: inner[name] for name, recorded_as in names.items()}
    results["temporal_last"] = inner[spec.blocks()[-1]]
    text = given.text if spec.skip_y_embedder else inner["y_embedder"]
    assert text is not None
    mask = np.ones(text.shape[:2], bool) if given.text_mask is None else given.text_mask > 0
    mask = np.tile(mask, (len(text) // len(mask), 1))
    return results | {"y_embed": text[:, None], "y_packed": text[mask][None]}


def _run_captions(case: Case, backend: Backend, spec: STDiT3Spec) -> Iterator[Comparison]:
    """The caption embedder alone; weights that a case does not hold have no part in it."""
    fresh, held = FreshWeights(spec.layout(), 0), case.weights()
    weights = {name: held[name] if name in held else fresh[name] for name in fresh}
    embedder = backend.build(spec, GivenWeights(weights, case.name)).y_embedder
    text = backend.asarray(case.tensors["y"][:, 0])
    is_null = backend.asarray((case.tensors["force_drop_ids"] == 1).astype(np.float32))
    dropped = embedder.dropped(text, is_null)
    for name, array in (("dropped", dropped), ("out_dropped", embedder(dropped)), ("out_plain", embedder(text))):
        yield Comparison(name, backend.to_numpy(array)[:, None])


def _run_training(case: Case, backend: Backend, spec: STDiT3Spec) -> Iterator[Comparison]:
    """Losses, gradients before clipping, and weights after one step with clipping."""
    whole = _batch(case, spec, slice(None))
    options = replace(OPTIONS, frozen=spec.frozen)
    unclipped = replace(options, max_grad_norm=None)
    trainer = backend.train_denoiser(spec, case.weights(), unclipped)
    samples = range(len(whole.latents))
    one_by_one = [trainer.evaluate(_batch(case, spec, slice(i, i + 1)), use_ema=False) for i in samples]
    yield Comparison("loss_per_sample", np.array(one_by_one))
    report = trainer.step([whole], lr=0.0)
    yield Comparison("loss", np.array(report.loss))
    yield Comparison("grad_global_norm", np.array(report.grad_norm))
    share = 1.0 - OPTIONS.optimizer.betas[0]
    gradients = {name: _rounded(moment / share, report.grad_norm) for name, moment in trainer.first_moments().items()}
    for name, gradient in gradients.items():
        yield Comparison(f"grad/{name}", gradient)
    trainer = backend.train_denoiser(spec, case.weights(), options)
    trainer.step([whole], lr=RATE)
    weights = trainer.saved().weights(use_ema=False)
    for name, gradient in gradients.items():
        sizes = np.abs(gradient)
        yield Comparison(f"after/{name}", weights[name], where=sizes > TINY_GRADIENT * sizes.max())


def _rounded(gradient: np.ndarray, norm: float) -> np.ndarray:
    return np.where(np.abs(gradient) > NO_GRADIENT * norm, gradient, 0.0)


def _batch(case: Case, spec: STDiT3Spec, part: slice) -> DiffusionBatch:
    recorded = {name: array[part] for name, array in case.tensors.items() if name in ("x_start", "noise", "t")}
    inputs = {name.removeprefix("kw/"): array[part] for name, array in case.tensors.items() if name.startswith("kw/")}
    inputs |= {name: case.tensors[f"kw/{name}"][:1] for name in ("height", "width")}  # the first counts for all (Q1)
    given = given_of(spec, inputs)
    return DiffusionBatch(
        latents=recorded["x_start"],
        noise=recorded["noise"],
        given=given,
        **RFlowObjective().at(recorded["t"].astype(np.float64), given.frame_mask)._asdict(),
    )
