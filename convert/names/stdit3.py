"""STDiT3: published files have the names of the layout; PixArt's blocks, from which it starts, are the spatial ones."""

from ...core.io.weights import STEMS
from ..beginning import Beginning
from ..rules import Drop, Rename
from . import mindone

_COMPUTED = "positions are computed"
_COMPRESSED = "keys and values are not compressed here"
_SIZES = "sizes enter by the positions"
RULES = (
    Drop("blocks.{}.attn.sr.{*}", why=_COMPRESSED),
    Drop("blocks.{}.attn.norm.{*}", why=_COMPRESSED),
    Rename("blocks.{}.{*}", "spatial_blocks.{}.{*}"),
    Drop("pos_embed", why=_COMPUTED),
    Drop("pos_embed_temporal", why=_COMPUTED),
    Drop("csize_embedder.{*}", why=_SIZES),
    Drop("ar_embedder.{*}", why=_SIZES),
    *mindone.RULES,
)
BEGINNING = Beginning(
    title="PixArt",
    lacks=("temporal_blocks.{*}", "fps_embedder.{*}"),
    may_lack=("spatial_blocks.{}.attn.q_norm.weight", "spatial_blocks.{}.attn.k_norm.weight", "rope.freqs"),
    tables=("y_embedder.y_embedding",),
)
STEM = STEMS[1]
