"""Frozen specs of the models and the layout (name, shape, dtype, init) of their weights."""

from importlib import import_module

from .kinds import Family

NAMES = (
    "clip_text",
    "dit",
    "dit_first",
    "dit_meta",
    "opensora_t2v",
    "opensora_vae",
    "pixart",
    "raw_pixels",
    "sd_vae",
    "stdit",
    "stdit2",
    "stdit3",
    "t5",
    "vqvae",
    "wfvae",
)
"""Of all families: a new one is a file of that name in this room, in both backends and in convert/names, and a line."""

FAMILIES: tuple[Family, ...] = tuple(import_module(f".{name}", __name__).FAMILY for name in NAMES)
