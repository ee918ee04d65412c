"""Upstream's options and scheduler settings as this house's samplers."""

import json
from pathlib import Path
from typing import Any

import pytest

from duosora.core.errors import ConfigError
from duosora.core.goldens.case import Case
from duosora.core.goldens.runners.sched import run, sampler_from_upstream
from duosora.core.samplers import LINEAR

DDIM_CONFIG: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "clip_sample": False,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
}


def options(method: str, zero_snr: bool = True, **more: Any) -> dict[str, Any]:
    return {
        "sample_method": method,
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": zero_snr,
        **more,
    }


def test_the_published_default_starts_at_sigma_4096():
    sampler = sampler_from_upstream(options("EulerAncestralDiscrete"), 100)
    assert (sampler.name, sampler.objective, sampler.init_scale) == ("euler_ancestral", "v_prediction", 4096.0)
    assert (sampler.timesteps[0], sampler.timesteps[-1]) == (999, 9)


@pytest.mark.parametrize("method", ["PNDM", "DEISMultistep"])
def test_zero_snr_decides_only_the_spacing_of_samplers_that_drop_it(method):
    sampler = sampler_from_upstream(options(method), 10)
    assert sampler.timesteps[0] == 999
    if sampler.sigmas is not None:
        assert sampler.sigmas[0] == LINEAR.sigmas[999]


def test_flow_matching_takes_none_of_the_options():
    assert sampler_from_upstream(options("FlowMatchEulerDiscrete"), 5).objective == "flow"


def test_other_betas_move_the_sigmas():
    sampler = sampler_from_upstream(options("EulerDiscrete", zero_snr=False, v1_5_scheduler=True), 10)
    assert sampler.sigmas is not None
    assert sampler.sigmas[0] < LINEAR.sigmas[900]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("clip_sample", True),
        ("steps_offset", 1),
        ("set_alpha_to_one", False),
        ("use_karras_sigmas", True),
        ("new_key", 0),
    ],
)
def test_a_setting_that_nothing_implements_is_refused(tmp_path: Path, key: str, value: object):
    entry = {"class": "DDIMScheduler", "scheduler_config": {**DDIM_CONFIG, key: value}}
    case = {"case": "sched/x", "config": {"a": entry}, "tensors": {"a.n5.timesteps": {"role": "output"}}}
    (tmp_path / "case.json").write_text(json.dumps(case), encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"^scheduler_config.{key} = {value!r}: not implemented for ddim$"):
        list(run(Case(tmp_path)))


def test_an_unknown_beta_schedule_is_refused(tmp_path: Path):
    entry = {"class": "DDIMScheduler", "scheduler_config": {**DDIM_CONFIG, "beta_schedule": "squaredcos_cap_v2"}}
    case = {"case": "sched/x", "config": {"a": entry}, "tensors": {"a.n5.timesteps": {"role": "output"}}}
    (tmp_path / "case.json").write_text(json.dumps(case), encoding="utf-8")
    with pytest.raises(ConfigError, match="squaredcos_cap_v2"):
        list(run(Case(tmp_path)))
