"""DiT and Latte of videos: published files have the names of the layout."""

from ...core.io.weights import STEMS
from . import mindone

RULES = mindone.RULES
STEM = STEMS[1]
