"""Golden cases with options that no recorded case has: right numbers by formulas written here, or refused by name."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from duosora.core.backend import Backend, get
from duosora.core.goldens.case import Case, Comparison
from duosora.core.goldens.suite import Result, run_case

GOLDENS = Path(__file__).parents[1] / "goldens"


@pytest.fixture(scope="module")
def torch() -> Backend:
    return get("torch", "cpu")


class Copy:
    """A recorded case that may be changed."""

    def __init__(self, name: str, folder: Path) -> None:
        self.folder = folder / name
        shutil.copytree(GOLDENS / name, self.folder)
        self.raw: dict[str, Any] = json.loads((self.folder / "case.json").read_text())
        self.tensors = load_file(self.folder / "io.safetensors")

    def put(self, name: str, values: np.ndarray, role: str) -> None:
        self.tensors[name] = values
        self.raw["tensors"][name] = {"role": role}

    def keep_outputs(self, *names: str) -> None:
        for name, entry in self.raw["tensors"].items():
            if entry["role"] == "output" and name not in names:
                entry["role"] = "none"

    def run(self, backend: Backend) -> Result:
        (self.folder / "case.json").write_text(json.dumps(self.raw))
        save_file(self.tensors, self.folder / "io.safetensors")
        return run_case(Case(self.folder), backend)


def test_a_case_of_another_form_is_told_in_one_line_and_does_not_stop_the_others(tmp_path: Path, torch: Backend):
    copy = Copy("loss/ema", tmp_path)
    del copy.raw["config"]["vae_ema"]["decay"]
    result = copy.run(torch)
    assert not result.passed
    assert "cannot be run as a case of loss" in result.error
    assert "'decay'" in result.error
    assert "\n" not in result.error


def test_nan_where_the_golden_is_a_number_fails_beside_a_golden_nan(tmp_path: Path):
    copy = Copy("loss/ema", tmp_path)
    copy.put("loss", np.array([1.0, np.nan, 2.0], np.float32), "output")
    copy.run(get("torch", "cpu"))
    case = Case(copy.folder)
    assert case.judge(Comparison("loss", np.array([1.0, np.nan, 2.0]))).passed
    assert not case.judge(Comparison("loss", np.array([np.nan, np.nan, 2.0]))).passed


UNKNOWN = {
    "loss/ema": ("vae_ema", "power"),
    "loss/vae_gan": ("variants", "before_disc", "kw", "disc_num_layers"),
    "data/frame_index": ("force", "ood_img_ratio"),
    "data/length_sampler": ("grouped", "megabatch"),
    "t2v/inpaint_masks": ("processor", "spatial_ratio"),
    "t2v/rope3d": ("plain", "base"),
    "t2v/sparse_mask": ("n1", "window"),
    "sched/tables": ("ddpm", "snr_gamma"),
    "pipeline/t2v": ("scheduler", "shift"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_option_that_no_runner_follows_is_refused_by_name(name: str, tmp_path: Path, torch: Backend):
    copy = Copy(name, tmp_path)
    *path, option = UNKNOWN[name]
    config = copy.raw["config"]
    for key in path:
        config = config[key]
    config[option] = 3
    assert f"{option} = 3: unknown option" in copy.run(torch).error


def test_an_unknown_form_of_cleaned_captions_is_refused(tmp_path: Path, torch: Backend):
    copy = Copy("data/text_clean", tmp_path)
    copy.raw["results"][0]["str_latin"] = "a dog"
    assert "str_latin = 'a dog': unknown option" in copy.run(torch).error


def test_a_perceptual_loss_without_its_network_is_refused(tmp_path: Path, torch: Backend):
    copy = Copy("loss/vae_gan", tmp_path)
    copy.raw["config"]["variants"]["before_disc"]["kw"]["perceptual_weight"] = 1.0
    assert "perceptual_weight = 1.0" in copy.run(torch).error


def test_what_a_runner_computes_beyond_the_record_is_not_compared(tmp_path: Path, torch: Backend):
    copy = Copy("sched/tables", tmp_path)
    for name in ("flow.timesteps", "flow.sigmas"):
        del copy.raw["tensors"][name], copy.tensors[name]
    assert copy.run(torch).passed
