"""Golden cases with options that no recorded case has: right numbers by formulas written here, or refused by name."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from duosora.core.goldens.case import Case, Comparison
from duosora.core.goldens.runners import pipeline
from duosora.core.goldens.suite import Result, run_case
from duosora.core.maths import gaussian
from duosora.core.models.opensora_t2v import OpenSoraT2VSpec
from duosora.core.models.wfvae import WFVAESpec
from duosora.core.pipelines.autoencode import encode_chunks, scale_latents
from duosora.core.samplers.schedule import Schedule
from duosora.core.seam.backend import Backend, get
from duosora.core.seam.models import Given
from duosora.core.shapes import LatentShape

GOLDENS = Path(__file__).parents[1] / "goldens"
LINEAR_TO_NOISE = Schedule(zero_terminal_snr=True)


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


TRAIN_OUTPUTS = ("loss", "step1.proj_out.bias")


@pytest.fixture
def train(tmp_path: Path) -> Copy:
    copy = Copy("train/adamw_3steps", tmp_path)
    copy.raw["config"]["steps"] = 1
    copy.keep_outputs(*TRAIN_OUTPUTS)
    return copy


def test_training_on_samples_compares_the_prediction_less_the_noise_on_upstreams_rotary_tables(
    train: Copy, torch: Backend
):
    config = train.raw["config"]
    config |= {"prediction_type": "sample", "snr_gamma": None}
    config["model"]["interpolation_scale_h"] = 2.0  # the latents are as high as wide
    given = {name: train.tensors[name][0] for name in ("x0", "noise", "timesteps", "encoder_hidden_states")}
    times = given["timesteps"]
    noisy = LINEAR_TO_NOISE.add_noise(given["x0"], given["noise"], times)
    spec = replace(OpenSoraT2VSpec.from_config(config["model"]), rope_shares_tables=True)
    with torch.inference():
        model = torch.build(spec, Case(GOLDENS / "train/adamw_3steps").weights())
        text, mask = given["encoder_hidden_states"][:, 0], train.tensors["encoder_attention_mask"][0][:, 0]
        told = Given(text=text, text_mask=mask, latent_mask=train.tensors["attention_mask"])
        condition = model.condition(told, LatentShape(*noisy.shape[2:]))
        told = model(torch.asarray(noisy), torch.asarray(times.astype(np.float32)), condition)
    errors = (torch.to_numpy(told) - given["noise"] - given["x0"]) ** 2
    valid = np.broadcast_to(train.tensors["attention_mask"][:, None], errors.shape)
    train.put("loss", np.array([(errors * valid).sum() / valid.sum()]), "output")
    train.raw["tolerance"]["loss"] = {"max_abs": 1e-5, "rel": 2e-5}
    train.keep_outputs("loss")
    result = train.run(torch)
    assert not result.error
    assert {verdict.name: verdict.passed for verdict in result.verdicts}["loss"]


def test_a_warm_up_begins_at_a_rate_of_zero(train: Copy, torch: Backend):
    train.raw["config"] |= {"lr_scheduler": "constant_with_warmup", "lr_warmup_steps": 3}
    weights = load_file(train.folder / "weights.safetensors")
    train.put("step1.proj_out.bias", weights["proj_out.bias"], "output")
    train.keep_outputs("step1.proj_out.bias")
    result = train.run(torch)
    assert not result.error
    assert {verdict.name: verdict.max_error for verdict in result.verdicts}["step1.proj_out.bias"] == 0.0


@pytest.mark.parametrize("option", [{"lr_scheduler": "piecewise"}, {"gradient_accumulation_steps": 2}])
def test_an_option_of_training_that_nothing_follows_is_refused(option: dict[str, Any], train: Copy, torch: Backend):
    train.raw["config"] |= option
    assert next(iter(option)) in train.run(torch).error


@pytest.fixture
def inpaint(tmp_path: Path) -> Copy:
    copy = Copy("pipeline/inpaint", tmp_path)
    config = copy.raw["config"]
    copy.raw["config"] = {name: config[name] for name in ("text_encoder", "transformer", "vae", "scheduler", "i2v")}
    return copy


def test_without_crop_for_hw_the_clip_follows_the_picture(inpaint: Copy, torch: Backend):
    inpaint.raw["config"]["i2v"] |= {"crop_for_hw": False, "num_frames": 1, "height": 8, "width": 8}
    noise = np.random.default_rng(0)
    for name, shape in (("vae_noise", (1, 4, 1, 4, 8)), ("initial_latents", (1, 4, 1, 4, 8))):
        inpaint.put(f"i2v.{name}", noise.standard_normal(shape).astype(np.float32), "input")
    inpaint.put("i2v.noises", noise.standard_normal((3, 1, 4, 1, 4, 8)).astype(np.float32), "input")
    inpaint.run(torch)
    case = Case(inpaint.folder)
    with torch.inference():
        got = {each.name: each.got for each in pipeline.run(case, torch)}["i2v.model_inputs"]
        spec = WFVAESpec.from_config(case.config["vae"])
        vae = torch.build(spec, case.weights("weights_vae"))
        clip = case.tensors["image0"][4:36, 3:67].transpose(2, 0, 1)[None, :, None] / np.float32(127.5) - 1
        moments = encode_chunks(torch, vae, spec, clip)
    expected = scale_latents(spec, gaussian.sample(moments, case.tensors["i2v.vae_noise"]))
    np.testing.assert_allclose(got[0, :1, 4:8], expected, atol=2e-5)
    np.testing.assert_array_equal(got[0, :1, 8:], np.zeros((1, 4, 1, 4, 8)))


@pytest.mark.parametrize(
    ("option", "told"), [({"noise_strength": 0.1}, "noise_strength = 0.1"), ({"enable_tiling": True}, "enable_tiling")]
)
def test_an_option_of_sampling_that_nothing_follows_is_refused(
    option: dict[str, Any], told: str, inpaint: Copy, torch: Backend
):
    inpaint.raw["config"]["i2v"] |= option
    assert told in inpaint.run(torch).error


def test_as_many_pictures_as_frames_need_to_be_told_which_count(inpaint: Copy, torch: Backend):
    inpaint.raw["config"]["i2v"]["conditional_pixel_values_path"] = ["image0"] * 9
    assert "mask_type must say which count" in inpaint.run(torch).error


def test_pixel_weights_of_several_clips_and_colours_all_count(tmp_path: Path, torch: Backend):
    copy = Copy("loss/vae_gan", tmp_path)
    copy.raw["config"]["variants"] = {"pixel_weights": copy.raw["config"]["variants"]["pixel_weights"]}
    for name in ("x", "posterior_noise", "recon"):
        copy.tensors[name] = np.repeat(copy.tensors[name], 2, axis=0)
    weights = np.random.default_rng(0).uniform(0.1, 2.0, (18, 3, 1, 1)).astype(np.float32)
    copy.put("pixel_weights.weights", weights, "input")
    errors = np.abs(copy.tensors["x"] - copy.tensors["recon"]).swapaxes(1, 2).reshape(18, 3, 32, 32)
    copy.put("pixel_weights.log.train/rec_loss", np.array((errors * weights).sum() / 18), "output")
    copy.raw["tolerance"]["pixel_weights.log.train/rec_loss"] = {"max_abs": 0.0, "rel": 1e-4}
    copy.keep_outputs("pixel_weights.log.train/rec_loss")
    result = copy.run(torch)
    assert not result.error
    assert {each.name: each.passed for each in result.verdicts}["pixel_weights.log.train/rec_loss"]


@pytest.mark.parametrize(
    ("scheme", "timesteps"),
    [("logit_normal", [696, 488, 268]), ("mode", [609, 365, 289]), ("cosmap", [260, 772, 839])],
)
def test_timesteps_of_flows_follow_from_the_recorded_draws(
    scheme: str, timesteps: list[int], tmp_path: Path, torch: Backend
):
    """The draws and timesteps are those of the recorded case loss/diffusion_t2v."""
    copy = Copy("loss/ema", tmp_path)
    options = {"rf_scheduler": True, "weighting_scheme": scheme, "mask": "ones"}
    copy.raw["config"] = {"rf": options | {"logit_mean": 0.3, "logit_std": 0.7, "mode_scale": 1.29}}
    copy.raw["tensors"], copy.tensors = {}, {}
    for name in ("x0", "noise", "model_pred"):
        copy.put(name, np.zeros((3, 4, 2, 4, 6), np.float32), "input")
    copy.put("ones", np.ones((3, 2, 4, 6), np.float32), "input")
    copy.put("rf_uniform_draw", np.array([0.74025273, 0.22862041, 0.1611564], np.float32), "input")
    copy.put("rf_normal_draw", np.array([-1.60757494, -0.35774577, 1.00824153], np.float32), "input")
    copy.put("rf.timesteps", np.array(timesteps, np.float32), "output")
    assert copy.run(torch).passed
    copy.put("rf.timesteps", np.array(timesteps, np.float32) + 1, "output")
    assert not copy.run(torch).passed


def test_a_mask_whose_sides_are_no_multiples_of_the_latents_is_compressed(tmp_path: Path, torch: Backend):
    copy = Copy("t2v/inpaint_masks", tmp_path)
    copy.put("comp0.mask", np.ones((1, 1, 5, 24, 20), np.float32), "input")
    copy.put("comp0.compressed", np.ones((1, 4, 2, 3, 2), np.float32), "output")
    assert copy.run(torch).passed
