"""mT5 and T5 v1.1: the encoder out of the whole model."""

from ...core.io.weights import STEMS
from ..rules import Drop, Tied
from . import mindone

RULES = (
    Tied("encoder.embed_tokens.weight", "shared.weight"),
    Tied("encoder.embed_tokens.embedding_table", "shared.weight"),
    Drop("decoder.{*}", why="prompts are encoded only"),
    Drop("lm_head.{*}", why="prompts are encoded only"),
    *mindone.RULES,
)
STEM = STEMS[1]
