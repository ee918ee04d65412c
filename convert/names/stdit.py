"""STDiT: published files have the names of the layout; PixArt, from which it starts, lacks the temporal attention."""

from ...core.io.weights import STEMS
from ..beginning import Beginning
from ..rules import Drop
from . import mindone

_COMPRESSED = "keys and values are not compressed here"
_SIZES = "sizes do not enter"
RULES = (
    Drop("blocks.{}.attn.sr.{*}", why=_COMPRESSED),
    Drop("blocks.{}.attn.norm.{*}", why=_COMPRESSED),
    Drop("csize_embedder.{*}", why=_SIZES),
    Drop("ar_embedder.{*}", why=_SIZES),
    *mindone.RULES,
)
BEGINNING = Beginning(title="PixArt", lacks=("blocks.{}.attn_temp.{*}",), tables=("y_embedder.y_embedding",))
STEM = STEMS[1]
