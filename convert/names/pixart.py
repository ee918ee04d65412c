"""PixArt: published files have the names of the layout, and those of PixArt-alpha kernels of pictures."""

from ...core.io.weights import STEMS
from . import mindone

RULES = mindone.RULES
STEM = STEMS[1]
KERNELS = ("x_embedder.proj.weight",)
