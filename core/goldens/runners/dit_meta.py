"""Family `dit_meta`: forwards of DiT with class labels, training steps, cropped pictures, cached features."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ...data.feature_folder import FeatureFolder
from ...errors import ConfigError
from ...layout import Layout
from ...maths.cover import centre_picture
from ...models.dit_meta import DiTMetaSpec
from ...samplers.guidance import guide
from ...seam.backend import Backend
from ...seam.models import Given, Model
from ...seam.training import AdamW, DiffusionBatch, TrainOptions
from ...shapes import LatentShape
from .. import diffusion_cases
from ..case import Case, Comparison
from ..diffusion import objective_of, options_in
from ..forms import manifest_shapes
from ..tables import same

GRADIENTS = True
GUIDED = re.compile(r"cfg(?P<scale>[\d.]+)\.out")
GUIDED_CHANNELS = 3
LOSSES: Mapping[str, Callable[[DiffusionBatch], DiffusionBatch]] = {
    "loss": lambda batch: batch,
    "mse": lambda batch: replace(batch, bound_weights=None),
    "vb": lambda batch: replace(batch, weights=0.0 * batch.weights),
}
"""What is recorded of a batch, and how that alone becomes its loss."""


def run(case: Case, backend: Backend) -> Iterator[Comparison]:
    """Compute every result of a case of this family. Raises: ConfigError for a table of another kind."""
    recorded = case.tensors
    crops = [name.removesuffix(".picture") for name in recorded if name.endswith(".picture")]
    if case.table:
        yield from diffusion_cases.respacing(case) if "kept" in case.raw else _orders(case)
    elif crops:
        for name in crops:
            cropped = centre_picture(recorded[f"{name}.picture"], case.config[name]["size"])
            yield Comparison(f"{name}.cropped", cropped)
    elif "pattern" in recorded:
        named = diffusion_cases.diffusion_options if "xt" in recorded else diffusion_cases.diffusion
        yield from named(case, backend)
    elif "drop_u" in recorded:
        yield from _training(case, backend)
    elif "initial" in recorded:
        yield from _sampling(case, backend)
    else:
        yield from forwards(case, backend, DiTMetaSpec.from_config(case.config, case.name))


def layout(manifest: Mapping[str, Any]) -> Layout:
    """The layout of a full-size model, of which a manifest tells no more than the shapes."""
    spec = DiTMetaSpec.from_shapes(manifest_shapes(manifest), "manifest")
    assert spec is not None
    return spec.layout()


def _sampling(case: Case, backend: Backend) -> Iterator[Comparison]:
    spec = DiTMetaSpec.from_config(case.config["model"], case.name)
    with backend.inference():
        model = backend.build(spec, case.weights())
        yield from diffusion_cases.guided_runs(case, backend, partial(predict, backend, model), spec.num_classes)


def _training(case: Case, backend: Backend) -> Iterator[Comparison]:
    spec = DiTMetaSpec.from_config(case.config["model"], case.name)
    objective = objective_of(options_in(case.config) | {"learn_sigma": spec.learn_sigma}, case.name)

    def batch(step: int, part: slice) -> DiffusionBatch:
        recorded = {name: case.tensors[name][step][part] for name in ("x0", "noise", "t", "labels", "drop_u")}
        return DiffusionBatch(
            latents=recorded["x0"][:, :, None],
            noise=recorded["noise"][:, :, None],
            given=dropped(spec, recorded["labels"], recorded["drop_u"]),
            **objective.at(recorded["t"])._asdict(),
        )

    yield from training(case, backend, spec, batch)


def _orders(case: Case) -> Iterator[Comparison]:
    """In which order a folder of features is read, and which class goes with which."""
    if "order" not in case.raw:
        raise ConfigError(f"{case.name}: expected a table with the key order")
    for row in case.raw["order"]:
        (latent, label), name = row["item_shapes"], f"{row['files']} files"
        with TemporaryDirectory() as place:
            _write_features(Path(place), row["files"], latent, label)
            folder = FeatureFolder(Path(place))
            items = [folder.read(i) for i in range(len(folder))]
        yield same(f"{name}: features", [int(item.latent.flat[0]) for item in items], row["feature_of_item"])
        yield same(f"{name}: labels", [item.label for item in items], row["label_of_item"])
        yield same(f"{name}: shape", [1, *items[0].latent.shape], latent)


def _write_features(folder: Path, count: int, latent: list[int], label: list[int]) -> None:
    """Files as upstream's extraction writes them, each latent full of its number, each class 100 more."""
    for name, shape, first in (("features", latent, np.float32(0)), ("labels", label, np.int64(100))):
        (folder / f"imagenet256_{name}").mkdir()
        for number in range(count):
            np.save(folder / f"imagenet256_{name}/{number}.npy", np.full(shape, first + number, first.dtype))


def forwards(case: Case, backend: Backend, spec: DiTMetaSpec) -> Iterator[Comparison]:
    """The prediction, and guided ones, which upstream computes for the first half of a batch."""
    given = case.tensors
    with backend.inference():
        model = backend.build(spec, case.weights())
        yield Comparison("out", predict(backend, model, given["x"], given["t"], given["y"]))
        for guided in filter(None, map(GUIDED.fullmatch, given)):
            twice = np.tile(given["x"][: len(given["x"]) // 2], (2, 1, 1, 1))
            out = predict(backend, model, twice, given["cfg.t"], given["cfg.y"])
            yield Comparison(guided[0], both_guided(out, float(guided["scale"])))


def predict(backend: Backend, model: Model, latents: np.ndarray, times: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The network's outputs (B, Cout, H, W) for latents (B, C, H, W): those of them that mean something."""
    condition = model.condition(Given(label=labels), LatentShape(1, *latents.shape[2:]))
    frames = backend.asarray(latents[:, :, None])
    out = backend.to_numpy(model(frames, backend.asarray(times.astype(np.float32)), condition))[:, :, 0]
    return out[:, : latents.shape[1]] if model.spec.output == "mean_and_spare" else out


def both_guided(out: np.ndarray, scale: float, channels: int = GUIDED_CHANNELS) -> np.ndarray:
    """Outputs of [labels, null], with the first channels guided in both halves and the rest as they are."""
    guided = out.copy()
    labels, nulls = np.split(out[:, :channels], 2)
    guided[:, :channels] = np.tile(guide(labels, nulls, scale), (2, 1, 1, 1))
    return guided


def dropped(spec: DiTMetaSpec, labels: np.ndarray, draws: np.ndarray) -> Given:
    """What the network is given in training: draws in [0, 1) say which labels become the null class."""
    return Given(label=labels, is_null=draws < spec.class_dropout_prob)


def training(
    case: Case, backend: Backend, spec: DiTMetaSpec, batch: Callable[[int, slice], DiffusionBatch]
) -> Iterator[Comparison]:
    """Losses and the norm of the gradients of some steps, the first gradients, and what they make of the weights.

    batch: of a step, and which of its samples.
    """
    config = case.config
    optimizer = AdamW(
        betas=tuple(config.get("betas", (0.9, 0.999))),
        eps=config.get("eps", 1e-8),
        weight_decay=config["weight_decay"],
    )
    trainer = backend.train_denoiser(
        spec, case.weights(), TrainOptions(optimizer=optimizer, max_grad_norm=None, keeps_ema=True)
    )
    for step in range(config["steps"]):
        whole = batch(step, slice(None))
        one_by_one = [batch(step, slice(i, i + 1)) for i in range(len(whole.latents))]
        for name, part_of in LOSSES.items():
            losses = [trainer.evaluate(part_of(each), use_ema=False) for each in one_by_one]
            yield Comparison(f"{name}.{step}", np.array(losses))
        report = trainer.step([whole], config["lr"], config["ema_decay_recorded"])
        yield Comparison(f"grad_norm.{step}", np.array([report.grad_norm]))
        if step == 0:
            share = 1.0 - optimizer.betas[0]
            for name, moment in trainer.first_moments().items():
                yield Comparison(f"grad.{name}", moment / share)
    for kind, use_ema in (("param", False), ("ema", True)):
        for name, weight in trainer.saved().weights(use_ema=use_ema).items():
            yield Comparison(f"{kind}.{name}", weight)
