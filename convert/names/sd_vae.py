"""SDVAE: diffusers' names, and its older ones of the attention, which most published files have."""

from ...core.io.weights import STEMS
from ...core.models.sd_vae import OLDER_NAMES
from ..rules import Rename
from . import mindone

RULES = (
    *(Rename(f"{{*}}.attentions.0.{old}.{{*}}", f"{{*}}.attentions.0.{new}.{{*}}") for old, new in OLDER_NAMES.items()),
    *mindone.RULES,
)
STEM = STEMS[0]
