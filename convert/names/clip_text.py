"""CLIP's text encoder, out of the whole CLIP too; its projection stays where the model has one."""

from ...core.io.weights import STEMS
from ..rules import Drop
from . import mindone

_OF_PICTURES = "prompts are encoded only"
RULES = (
    Drop("text_model.embeddings.position_ids", why="positions are counted"),
    Drop("vision_model.{*}", why=_OF_PICTURES),
    Drop("visual_projection.{*}", why=_OF_PICTURES),
    Drop("logit_scale", why=_OF_PICTURES),
    *mindone.RULES,
)
STEM = STEMS[1]
