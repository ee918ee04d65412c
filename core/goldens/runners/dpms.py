"""Family `dpms`: sampling runs of DPM-Solver++, with the formula of family `iddpm` for a model."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...samplers.dpm_solver import DPMSolver
from ...samplers.guidance import guide
from ...seam.backend import Backend
from ..case import Case, Comparison, check_options
from .iddpm import CFG_SCALE, formula

INPUTS = r"z_init|y_cond|y_null|text_mask"
OPTIONS = ("type", "num_sampling_steps", "cfg_scale")


def run(case: Case, backend: Backend) -> Iterator[Comparison]:
    """Compute every output tensor of a case of this family."""
    options, recorded = case.raw["scheduler"], case.tensors
    check_options(options, f"{case.name}, scheduler", OPTIONS)
    scale, batch, count = options.get("cfg_scale", CFG_SCALE), *recorded["z_init"].shape[:2]
    without = np.tile(recorded["y_null"], (batch, 1, 1, 1))
    texts = recorded["y_cond"] if scale == 1.0 else np.concatenate([without, recorded["y_cond"]])
    sampler = DPMSolver(options["num_sampling_steps"])
    x, seen = backend.asarray(recorded["z_init"]), []
    for i, time in enumerate(sampler.timesteps):
        latents = np.concatenate([backend.to_numpy(x)] * (len(texts) // batch))
        seen.append(latents)
        noise = backend.asarray(formula(latents, np.full(len(texts), time), texts, None)[:, :count])
        x = sampler.step(x, noise if scale == 1.0 else guide(noise[batch:], noise[:batch], scale), i)
    yield Comparison("model_t", sampler.timesteps[:, None])
    yield Comparison("model_x", np.stack(seen))
    yield Comparison("out", backend.to_numpy(x))
