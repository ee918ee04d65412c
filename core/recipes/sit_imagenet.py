"""SiT: pictures of the classes of ImageNet, along an interpolant between noise and latents.

What it does not say otherwise is as DiT has it, whose network it is.
Source: sample.py, sample_ddp.py and train.py of willisma SiT; arXiv:2401.08740.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .dit_imagenet import RECIPE as DIT
from .dit_imagenet import SIZES
from .recipe import Recipe


def is_of_interpolant(spec: Any) -> bool:
    """Whether a denoiser is a SiT of classes, trained as interpolant."""
    return getattr(spec, "trained_as", None) == "interpolant"


OF_DIFFUSION = ("schedule", "zero_terminal_snr", "bound")
"""Settings that an interpolant has no use for."""

RECIPE: Recipe = replace(
    DIT,
    name="sit_imagenet",
    title="SiT",
    parts={
        "denoiser": ("sit_xl_2", *(f"sit_{size}" for size in SIZES if size != "xl_2")),
        "vae": DIT.parts["vae"],
    },
    suits=is_of_interpolant,
    sampling={
        **{path: value for path, value in DIT.sampling.items() if not path.endswith(OF_DIFFUSION)},
        "sampler.name": "interpolant_sde",
        "sampler.objective": "velocity",
        "sampler.path": "linear",
    },
    training={
        **{path: value for path, value in DIT.training.items() if not path.endswith(OF_DIFFUSION)},
        "objective.kind": "velocity",
        "objective.path": "linear",
    },
)
