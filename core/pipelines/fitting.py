"""Whether models that are found belong together and to the sampler: what a denoiser was trained with, and predicts."""

from __future__ import annotations

from .. import samplers
from ..config.schema import ModelSettings
from ..errors import ConfigError, DuosoraError
from ..models.finding import Part, open_part
from ..recipes.recipe import Recipe
from ..samplers import Sampler
from .practice import Practice
from .settings import with_companions


def check_scale(model: ModelSettings, recipe: Recipe, denoiser: Part, vae: Part) -> None:
    """See that latents have the scale that the denoiser was trained on: that of its run's autoencoder, and of a
    published denoiser the recipe's.

    Raises: ConfigError.
    """
    expected = None if denoiser.is_fresh else _trained_with(model, recipe, denoiser)
    if expected is None or expected.spec.latent_channels != vae.spec.latent_channels:
        return
    if (vae.spec.scale, vae.spec.shift) != (expected.spec.scale, expected.spec.shift):
        raise ConfigError(
            f"model.vae = {vae.source}: latents have {_numbers(vae)}, but {denoiser.source} was trained on those of "
            f"{expected.source}, with {_numbers(expected)}; name that autoencoder, or correct its config.json"
        )


def check_range(sampler: Sampler, denoiser: Part) -> None:
    """See that a denoiser predicts its variance where the sampler reads it. Raises: ConfigError."""
    if sampler.reads_range and denoiser.spec.output != "mean_and_range":
        raise ConfigError(
            f"sampler.name = {sampler.name}: reads a variance, which {denoiser.source} does not predict; set "
            "sampler.options.variance to fixed_large or fixed_small, or take another sampler"
        )


def check_channels(guided: int | None, denoiser: Part) -> None:
    """See that a denoiser has the channels that somebody wants guided. Raises: ConfigError."""
    channels = denoiser.spec.latent_channels
    if guided is not None and guided > channels:
        raise ConfigError(
            f"sampler.guidance_channels = {guided}: latents of {denoiser.source} have {channels} channels; null guides "
            "all"
        )


def check_objective(sampler: str, practice: Practice) -> None:
    """See that a sampler takes what the denoiser was trained to predict, where that is known.

    Raises: ConfigError naming the samplers that do.
    """
    takes, trained = samplers.resolve(sampler).objectives, practice.objective
    if trained is None or trained in takes:
        return
    able = ", ".join(each.name for each in samplers.SAMPLERS if trained in each.objectives)
    raise ConfigError(
        f"sampler.name = {sampler}: takes {' or '.join(takes)}, but {practice.source} was trained with {trained}; "
        f"take one of {able}"
    )


def _trained_with(model: ModelSettings, recipe: Recipe, denoiser: Part) -> Part | None:
    """The autoencoder that a denoiser goes with; None where nobody knows, or it is no more there."""
    try:
        named = with_companions(model.model_copy(update={"vae": None})).vae or _published_with(recipe, denoiser)
        return None if named is None else open_part("vae", str(named))
    except DuosoraError:
        return None


def _published_with(recipe: Recipe, denoiser: Part) -> str | None:
    specs = (denoiser.family.presets.get(preset) for preset in recipe.parts.get("denoiser", ()))
    return recipe.part("vae") if denoiser.spec in specs else None


def _numbers(vae: Part) -> str:
    """Shift and scale of each channel, or of all where they are the same."""
    said = []
    for values in (vae.spec.shift, vae.spec.scale):
        different = list(dict.fromkeys(f"{value:.4g}" for value in values))
        said.append(different[0] if len(different) == 1 else ", ".join(f"{value:.4g}" for value in values))
    return f"shift {said[0]} and scale {said[1]}"
