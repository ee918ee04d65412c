"""mT5: the encoder out of the whole model."""

from ..rules import Drop, Tied
from . import mindone

RULES = (
    Tied("encoder.embed_tokens.weight", "shared.weight"),
    Tied("encoder.embed_tokens.embedding_table", "shared.weight"),
    Drop("decoder.{*}", why="prompts are encoded only"),
    Drop("lm_head.{*}", why="prompts are encoded only"),
    *mindone.RULES,
)
