"""Family `loss`: losses of training with a recorded prediction, averages of weights, and discriminators."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ...models.config_json import choice
from ...models.patch_discriminator import PatchDiscriminatorSpec
from ...models.wfvae import WFVAESpec
from ...samplers.schedule import Schedule
from ...seam.backend import Backend
from ...seam.models import Given
from ...seam.training import AutoencoderBatch, AutoencoderLosses, Companion, DiffusionBatch, Report, TrainOptions
from ...train.ema import EmaSchedule
from ...train.objectives import FLOW_WEIGHTINGS, DiffusionObjective, Draws, FlowObjective
from ...train.timesteps import TimestepDraw
from ..case import Case, Comparison, check_options

GRADIENTS = True
DIFFUSION_OPTIONS = ("prediction_type", "zero_snr", "snr_gamma", "mask", "noise_offset", "ts")
FLOW_OPTIONS = ("rf_scheduler", "weighting_scheme", "mask", "logit_mean", "logit_std", "mode_scale")
DISCRIMINATOR_OPTIONS = ("input_nc", "ndf", "n_layers")
AUTOENCODER_OPTIONS = ("vae", "variants", "trainer_defaults")
VARIANT_OPTIONS = ("kw", "step", "oi", "wav", "weights")
LOSS_OPTIONS = (
    *("disc_start", "loss_type", "logvar_init", "kl_weight", "wavelet_weight", "perceptual_weight"),
    *("disc_weight", "disc_factor", "disc_loss"),
)
EMA_OPTIONS = ("decay", "update_after_step")


def run(case: Case, backend: Backend) -> Iterator[Comparison]:
    """Compute every output tensor of a case of this family."""
    if "vae" in case.config:
        return _run_autoencoder(case, backend)
    if "n_layers" in case.config:
        return _run_discriminator(case, backend)
    if "model_pred" in case.tensors:
        return _run_diffusion(case, backend)
    return _run_ema(case)


def _run_diffusion(case: Case, backend: Backend) -> Iterator[Comparison]:
    loss_of = backend.function("diffusion_loss")
    outputs = case.outputs()
    for tag, config in case.config.items():
        known = FLOW_OPTIONS if config.get("rf_scheduler") else DIFFUSION_OPTIONS
        check_options(config, f"{case.name}, {tag}", known)
        noise = case.tensors["noise"]
        if config.get("noise_offset"):
            noise = noise + np.float32(config["noise_offset"]) * case.tensors["noise_offset_draw"]
        if config.get("rf_scheduler"):
            uniform, normal = (case.tensors[f"rf_{kind}_draw"] for kind in ("uniform", "normal"))
            draws = _flow(config, f"{case.name}, {tag}", uniform, normal)
            yield Comparison(f"{tag}.timesteps", draws.timesteps)
        else:
            draws = _objective(config).at(case.tensors[config["ts"]])
        batch = DiffusionBatch(
            latents=case.tensors["x0"],
            noise=noise,
            given=Given(latent_mask=case.tensors[config["mask"]]),
            condition=case.tensors.get("condition"),
            **draws._asdict(),
        )
        results = loss_of(batch, case.tensors["model_pred"])
        names = {"loss": "loss", "grad_model_pred": "gradient", "model_input": "model_input"}
        for theirs, ours in names.items():
            if f"{tag}.{theirs}" in outputs:
                yield Comparison(f"{tag}.{theirs}", results[ours])


def _objective(config: Mapping[str, Any]) -> DiffusionObjective:
    return DiffusionObjective(
        kind=config["prediction_type"],
        schedule=Schedule(zero_terminal_snr=config["zero_snr"]),
        snr_gamma=config["snr_gamma"],
        adds_noise_to_sample=True,
    )


def _flow(config: Mapping[str, Any], source: str, uniform: np.ndarray, normal: np.ndarray) -> Draws:
    """Timesteps and coefficients from the recorded draws (B,) of both kinds, of which a scheme takes one."""
    rest = dict(config)
    scheme = choice(rest, source, "weighting_scheme", ("logit_normal", "mode", *FLOW_WEIGHTINGS))
    draw = TimestepDraw(
        kind=scheme if scheme in ("logit_normal", "mode") else "uniform",
        logit_mean=config["logit_mean"],
        logit_std=config["logit_std"],
        mode_scale=config["mode_scale"],
    )
    objective = FlowObjective(weighting=scheme if scheme in FLOW_WEIGHTINGS else "none", on_grid=True)
    drawn = normal if scheme == "logit_normal" else uniform
    return objective.at(objective.sigmas(np.array([draw.shaped(number) for number in drawn.tolist()])))


def _run_discriminator(case: Case, backend: Backend) -> Iterator[Comparison]:
    config = case.config
    check_options(config, case.name, DISCRIMINATOR_OPTIONS)
    spec = PatchDiscriminatorSpec(base_channels=config.get("ndf", 64), num_layers=config["n_layers"])
    video = case.tensors["x"]
    with backend.inference():
        model = backend.build(spec, case.weights())
        yield Comparison("eval.logits", backend.to_numpy(model(backend.asarray(video), False)))
        results = backend.function("judge_in_training")(model, video)
    yield Comparison("train.logits", results["logits"])
    for name in case.outputs():
        if name.startswith("train.updated."):
            yield Comparison(name, results[name.removeprefix("train.updated.")])


def _run_autoencoder(case: Case, backend: Backend) -> Iterator[Comparison]:
    """The reconstruction that all variants start from, and one step of each at learning rate 0."""
    check_options(case.config, case.name, AUTOENCODER_OPTIONS)
    spec = WFVAESpec.from_config(case.config["vae"], case.name)
    with backend.inference():
        video, noise = (backend.asarray(case.tensors[name]) for name in ("x", "posterior_noise"))
        reconstruction = backend.build(spec, case.weights()).reconstruct(video, {"latent": noise})
        yield Comparison("recon", backend.to_numpy(reconstruction.pixels))
    for tag, variant in case.config["variants"].items():
        yield from _run_variant(case, backend, spec, tag, variant)


def _run_variant(
    case: Case, backend: Backend, spec: WFVAESpec, tag: str, variant: Mapping[str, Any]
) -> Iterator[Comparison]:
    settings = variant["kw"]
    check_options(variant, f"{case.name}, {tag}", VARIANT_OPTIONS)
    check_options(settings, f"{case.name}, {tag}", LOSS_OPTIONS)
    choice(dict(settings), f"{case.name}, {tag}", "perceptual_weight", (0, 0.0), 0.0)  # no case holds a VGG
    losses = AutoencoderLosses(
        loss=settings.get("loss_type", "l1"),
        kl_weight=settings.get("kl_weight", 1.0),
        pair_weights={"wavelet": settings["wavelet_weight"]} if variant.get("wav") else {},
        discriminator_weight=settings.get("disc_weight", 1.0),
        discriminator_factor=settings.get("disc_factor", 1.0),
        discriminator_loss=settings.get("disc_loss", "hinge"),
        discriminator_max_grad_norm=None,
        logvar=settings.get("logvar_init", 0.0),
    )
    video = case.tensors["x"]
    weights = case.tensors[f"{tag}.weights"] if variant.get("weights") else None
    batch = AutoencoderBatch(
        video=video,
        noise={"latent": case.tensors["posterior_noise"]},
        update="discriminator" if variant["oi"] else "generator",
        adversarial=variant["step"] >= settings["disc_start"],
        pixel_weights=None if weights is None else _of_pixels(weights, len(video)),
    )
    options = TrainOptions(max_grad_norm=None, keeps_ema=False)
    trainer = backend.train_autoencoder(
        spec, case.weights(), losses, options, Companion(PatchDiscriminatorSpec(), case.weights("weights_disc"))
    )
    report = trainer.step([batch], lr=0.0)
    moments = trainer.first_moments()
    share = 1.0 - options.optimizer.betas[0]
    logged = _logged(report, losses, batch.adversarial)
    for name in case.outputs():
        part = name.removeprefix(f"{tag}.")
        if part == name:
            continue
        if part.startswith("grad."):
            yield Comparison(name, moments[_parameter(part.removeprefix("grad."))] / share)
        elif part.removeprefix("log.train/") in logged:
            yield Comparison(name, np.array(logged[part.removeprefix("log.train/")]))


def _of_pixels(weights: np.ndarray, clips: int) -> np.ndarray:
    """Weights (B * T, C, H, W), upstream's frames being folded into the batch, as they broadcast over the video."""
    of_clips = weights[None] if len(weights) == 1 else weights.reshape(clips, -1, *weights.shape[1:])
    return of_clips.swapaxes(1, 2)


def _logged(report: Report, losses: AutoencoderLosses, adversarial: bool) -> dict[str, float]:
    """A step's numbers under the names that upstream logs them by."""
    parts = report.parts
    if report.updated == "discriminator":
        logits = {name: parts[name] for name in ("logits_real", "logits_fake")}
        return {"loss": report.loss, "disc_loss": report.loss, **logits}
    return {
        "loss": report.loss,
        "total_loss": report.loss,
        "nll_loss": parts["nll"],
        "rec_loss": parts["reconstruction"],
        "kl_loss": parts["kl"],
        "wl_loss": parts.get("wavelet", 0.0),
        "g_loss": parts.get("adversarial", 0.0),
        "d_weight": parts.get("adversarial_weight", 0.0),
        "disc_factor": losses.discriminator_factor if adversarial else 0.0,
        "logvar": losses.logvar,
    }


def _parameter(name: str) -> str:
    """Our name of a weight whose gradient is recorded; the discriminator's last layer is told as `last`."""
    last = f"main.{3 * PatchDiscriminatorSpec().num_layers + 2}"
    return name.replace("disc.last", f"discriminator.{last}").replace("disc.", "discriminator.")


def _run_ema(case: Case) -> Iterator[Comparison]:
    parameters = case.tensors["params"].astype(np.float64)
    for tag, config in case.config.items():
        check_options(config, f"{case.name}, {tag}", EMA_OPTIONS)
        schedule = EmaSchedule(
            decay=config["decay"],
            warms_up="update_after_step" in config,
            start_step=config.get("update_after_step", 0),
        )
        shadow = parameters[0]
        shadows, decays = [], []
        for update in range(1, len(parameters)):
            decay = schedule.at(update)
            shadow = decay * shadow + (1 - decay) * parameters[update]
            decays.append(decay)
            shadows.append(shadow)
        yield Comparison(f"{tag}.shadow", np.stack(shadows))
        if f"{tag}.decays" in case.outputs():
            yield Comparison(f"{tag}.decays", np.array(decays))
