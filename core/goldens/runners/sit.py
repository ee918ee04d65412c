"""Family `sit`: forwards and training steps of SiT; paths, intervals, sampling and likelihoods of interpolants."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ...errors import ConfigError
from ...layout import Layout
from ...maths.interpolants import Interpolant, Interval
from ...models.dit_meta import DiTMetaSpec
from ...samplers.interpolant import SDE, Network, drift_field, log_likelihood, ode
from ...seam.backend import Backend
from ...seam.models import Given
from ...seam.training import DiffusionBatch
from ...train.interpolants import InterpolantObjective
from ..case import Case, Comparison, check_options
from ..tables import same
from . import dit_meta

GRADIENTS = True
RUN_OPTIONS = (
    *("path", "prediction", "method", "num_steps", "form", "diffusion_norm", "last_step", "last_step_size"),
    *("cfg_scale", "reverse", "atol", "rtol"),
)
FORMS = {"SBDM": "sbdm", "inccreasing-decreasing": "increasing-decreasing"}
"""Upstream's names that are not ours."""
NORM = 0.7
"""Of the diffusion that is recorded beside paths, where the case does not say it."""


def run(case: Case, backend: Backend) -> Iterator[Comparison]:
    """Compute every result of a case of this family. Raises: ConfigError for a case of another kind."""
    if case.table:
        yield from _intervals(case)
    elif "combos" in case.config:
        yield from _paths(case, backend)
    elif "runs" in case.config and "x1" in case.tensors:
        yield from _training(case, backend)
    elif "runs" in case.config:
        with backend.inference():
            yield from _sampling(case, backend)
    elif "initial" in case.tensors:
        yield from _samplers(case)
    elif "x" in case.tensors and "pattern" in case.tensors:
        yield from _likelihoods(case)
    else:
        yield from dit_meta.forwards(case, backend, spec_of(case.config, case.name))


def layout(manifest: Mapping[str, Any]) -> Layout:
    """The layout of a full-size model: DiT's."""
    return dit_meta.layout(manifest)


def spec_of(config: Mapping[str, Any], source: str) -> DiTMetaSpec:
    """A SiT of upstream's arguments."""
    return DiTMetaSpec.from_config({**config, "trained_as": "interpolant"}, source)


def _interpolant(path: str, prediction: str) -> Interpolant:
    return Interpolant(path.lower(), prediction)


def _intervals(case: Case) -> Iterator[Comparison]:
    rows = case.raw.get("rows")
    if not isinstance(rows, list):
        raise ConfigError(f"{case.name}: expected a table with the key rows")
    for number, row in enumerate(rows):
        interval = Interval(
            of=_interpolant(row["path"], row["prediction"]),
            train_eps=row["train_eps"],
            sample_eps=row["sample_eps"],
            as_upstream=True,
        )
        yield same(f"{number}.settled_eps", list(interval.eps), row["settled_eps"])
        yield same(f"{number}.interval", list(_asked(interval, row["question"])), row["interval"])


def _asked(interval: Interval, question: Mapping[str, Any]) -> tuple[float, float]:
    if not question.get("eval"):
        return interval.training()
    if question.get("sde"):
        form = question.get("diffusion_form", "SBDM")
        return interval.sde(question["last_step_size"], FORMS.get(form, form))
    return interval.ode(question.get("reverse", False))


def _paths(case: Case, backend: Backend) -> Iterator[Comparison]:
    """Losses, states, targets, drifts and scores at recorded times, of a network that is a formula."""
    recorded, norm = case.tensors, case.config.get("diffusion_norm", NORM)
    for tag in [name.removesuffix(".x1") for name in recorded if name.endswith(".x1")]:
        path, prediction, weighting = tag.split(".")
        of = _interpolant(path, prediction)
        objective = InterpolantObjective(of=of, weighting=weighting)
        data, noise, drawn = (recorded[f"{tag}.{name}"] for name in ("x1", "x0", "t"))
        times = drawn.astype(np.float64)
        rates = of.rates(times)
        pattern = _repeated(recorded["pattern"], len(data))
        batch = _batch(data, noise, objective, times)
        loss = backend.function("diffusion_loss")
        seen = loss(batch, batch.latents)["model_input"][:, :, 0]
        output = formula(seen, drawn, pattern)
        one_by_one = [
            loss(_batch(data[i : i + 1], noise[i : i + 1], objective, times[i : i + 1]), output[i : i + 1, :, None])
            for i in range(len(data))
        ]
        drift, score = of.drift(times), of.score(times)
        results = {
            "interval": np.array(Interval(of=of, as_upstream=True).training()),
            "loss": np.array([each["loss"] for each in one_by_one]).reshape(-1),
            "xt": seen,
            "ut": _column(rates.alpha_slope) * data + _column(rates.sigma_slope) * noise,
            "drift": _column(drift.of_state) * seen + _column(drift.of_output) * output,
            "score": _column(score.of_state) * seen + _column(score.of_output) * output,
        }
        yield from (Comparison(f"{tag}.{name}", values) for name, values in results.items())
        asked = f"{tag}.diffusion."
        for name in (name for name in recorded if name.startswith(asked)):
            form = name.removeprefix(asked)
            yield Comparison(name, _column(of.diffusion(FORMS.get(form, form), norm, times)))


def _samplers(case: Case) -> Iterator[Comparison]:
    """Runs of a network that is a formula."""
    pattern, state = case.tensors["pattern"], case.tensors["initial"]

    def network(x: np.ndarray, t: float) -> np.ndarray:
        return formula(x, np.float32(t), pattern)

    for name, run in case.config.items():
        check_options(run, f"{case.name}, {name}", RUN_OPTIONS)
        of = _interpolant(run["path"], run["prediction"])
        yield Comparison(f"{name}.states", np.stack(list(_states(case, name, run, of, network, state))))


def _sampling(case: Case, backend: Backend) -> Iterator[Comparison]:
    """Runs of a small model, guided or not; of guided ones the first half is recorded.

    A run that does not say path and prediction is of a velocity on the linear path.
    """
    model = backend.build(spec_of(case.config["model"], case.name), case.weights())
    initial, labels = case.tensors["initial"], case.tensors["labels"]
    nulls = np.full_like(labels, model.spec.num_classes)
    for name, run in case.config["runs"].items():
        check_options(run, f"{case.name}, {name}", RUN_OPTIONS)
        scale = run["cfg_scale"]
        given = labels if scale is None else np.concatenate([labels, nulls])
        state = initial if scale is None else np.concatenate([initial, initial])
        network = _network(backend, model, given, scale)
        of = _interpolant(run.get("path", "linear"), run.get("prediction", "velocity"))
        states = np.stack(list(_states(case, name, run, of, network, state)))
        yield Comparison(f"{name}.states", states[:, : len(initial)])


def _network(backend: Backend, model: Any, labels: np.ndarray, scale: float | None) -> Network:
    def network(x: np.ndarray, t: float) -> np.ndarray:
        times = np.full(len(x), t, np.float32)
        if scale is None:
            return dit_meta.predict(backend, model, x, times, labels)
        half = x[: len(x) // 2]
        out = dit_meta.predict(backend, model, np.concatenate([half, half]), times, labels)
        return dit_meta.both_guided(out, scale)

    return network


def _states(
    case: Case, name: str, run: Mapping[str, Any], of: Interpolant, network: Network, state: np.ndarray
) -> Iterator[np.ndarray]:
    interval = Interval(of=of, as_upstream=True)
    if name.startswith("ode."):
        limits = {limit: run[limit] for limit in ("atol", "rtol") if limit in run}
        return ode(
            network, state, interval, run["num_steps"], run["method"], reverse=run.get("reverse", False), **limits
        )
    sde = SDE(
        interval=interval,
        steps=run["num_steps"],
        method=run["method"].lower(),
        form=FORMS.get(run["form"], run["form"]),
        norm=run["diffusion_norm"],
        last_step=(run["last_step"] or "none").lower(),
        last_step_size=run["last_step_size"],
    )
    noises = case.tensors[f"{name}.noises"]
    return sde.run(network, state, lambda i: noises[i])


def _likelihoods(case: Case) -> Iterator[Comparison]:
    """Of a network that is a formula, whose derivative is known, with recorded probes."""
    data, pattern = case.tensors["x"], case.tensors["pattern"]
    for name, run in case.config.items():
        check_options(run, f"{case.name}, {name}", RUN_OPTIONS)
        of = _interpolant(run["path"], run["prediction"])
        interval = Interval(of=of, as_upstream=True)
        change = _change(of, pattern, iter(case.tensors[f"{name}.probes"]))
        logp, noise = log_likelihood(change, data, interval, run["num_steps"], run["method"])
        yield Comparison(f"{name}.logp", logp)
        yield Comparison(f"{name}.latent", noise)


def _change(
    of: Interpolant, pattern: np.ndarray, probes: Iterator[np.ndarray]
) -> Callable[[np.ndarray, float], tuple[np.ndarray, np.ndarray]]:
    def curved(x: np.ndarray, t: float) -> np.ndarray:
        return formula(x, np.float32(t), pattern) - np.float32(0.1) * x**3

    field = drift_field(curved, of)

    def change(x: np.ndarray, t: float) -> tuple[np.ndarray, np.ndarray]:
        probe, drift = next(probes), of.drift(np.float64(t))
        slopes = float(drift.of_state) + float(drift.of_output) * (-0.7 - 0.3 * x**2)
        return field(x, t), (probe * slopes * probe).reshape(len(x), -1).sum(1)

    return change


def _training(case: Case, backend: Backend) -> Iterator[Comparison]:
    """Losses, the first gradients, and weights and their average after some steps, of each kind of training."""
    spec = spec_of(case.config["model"], case.name)
    for run in case.config["runs"]:
        weighting = run["loss_weight"] or "none"
        tag = f"{run['path']}.{run['prediction']}.{weighting}"
        objective = InterpolantObjective(of=_interpolant(run["path"], run["prediction"]), weighting=weighting)

        def batch(step: int, part: slice, objective: InterpolantObjective = objective) -> DiffusionBatch:
            recorded = {name: case.tensors[name][step][part] for name in ("x1", "x0", "u", "labels", "drop_u")}
            given = dit_meta.dropped(spec, recorded["labels"], recorded["drop_u"])
            times = objective.at_draws(recorded["u"])
            return _batch(recorded["x1"], recorded["x0"], objective, times, given)

        for comparison in dit_meta.training(case, backend, spec, batch):
            yield Comparison(f"{tag}.{comparison.name}", comparison.got, where=comparison.where)


def _batch(
    data: np.ndarray,
    noise: np.ndarray,
    objective: InterpolantObjective,
    times: np.ndarray,
    given: Given | None = None,
) -> DiffusionBatch:
    return DiffusionBatch(
        latents=data[:, :, None],
        noise=noise[:, :, None],
        given=given or Given(),
        **objective.at(times)._asdict(),
    )


def formula(x: np.ndarray, times: np.ndarray | np.float32, pattern: np.ndarray) -> np.ndarray:
    """The network of the cases."""
    if np.ndim(times):
        times = np.asarray(times).reshape(-1, 1, 1, 1)
    return (np.float32(-0.7) * x + np.float32(0.4) * pattern * np.cos(np.float32(2) * times)).astype(np.float32)


def _repeated(pattern: np.ndarray, batch: int) -> np.ndarray:
    return np.tile(pattern, (batch // len(pattern), 1, 1, 1))


def _column(values: np.ndarray) -> np.ndarray:
    return np.asarray(values).reshape(-1, 1, 1, 1)
