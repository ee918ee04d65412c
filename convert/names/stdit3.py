"""STDiT3: published files have the names of the layout; PixArt's blocks, from which it starts, are the spatial ones."""

from ...core.io.weights import STEMS
from ..rules import Drop, Rename
from . import mindone

_COMPUTED = "positions are computed"
_SIZES = "sizes enter by the positions"
RULES = (
    Rename("blocks.{}.{*}", "spatial_blocks.{}.{*}"),
    Drop("pos_embed", why=_COMPUTED),
    Drop("pos_embed_temporal", why=_COMPUTED),
    Drop("csize_embedder.{*}", why=_SIZES),
    Drop("ar_embedder.{*}", why=_SIZES),
    *mindone.RULES,
)
STEM = STEMS[1]
