"""STDiT2: published files have the names of the layout; PixArt, from which it starts, knows nothing of time."""

from ...core.io.weights import STEMS
from ..beginning import Beginning
from ..rules import Drop
from . import mindone

_COMPUTED = "positions are computed"
_COMPRESSED = "keys and values are not compressed here"
RULES = (
    Drop("blocks.{}.attn.sr.{*}", why=_COMPRESSED),
    Drop("blocks.{}.attn.norm.{*}", why=_COMPRESSED),
    Drop("pos_embed", why=_COMPUTED),
    Drop("pos_embed_temporal", why=_COMPUTED),
    *mindone.RULES,
)
BEGINNING = Beginning(
    title="PixArt",
    lacks=(
        *("blocks.{}.attn_temp.{*}", "blocks.{}.scale_shift_table_temporal", "t_block_temp.{*}"),
        *("fl_embedder.{*}", "fps_embedder.{*}"),
    ),
    may_lack=(
        *("blocks.{}.attn.q_norm.weight", "blocks.{}.attn.k_norm.weight"),
        *("csize_embedder.{*}", "ar_embedder.{*}"),
    ),
    tables=("y_embedder.y_embedding",),
)
STEM = STEMS[1]
