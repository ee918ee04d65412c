"""DiT and Latte of videos: published files have the names of the layout, and those of pictures other positions."""

from ...core.io.weights import STEMS
from ..rules import Drop
from . import mindone

_COMPUTED = "positions are computed"
RULES = (Drop("pos_embed", why=_COMPUTED), Drop("temp_embed", why=_COMPUTED), *mindone.RULES)
STEM = STEMS[1]
KERNELS = ("x_embedder.proj.weight",)
