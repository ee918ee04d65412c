"""DiT of Open-Sora's first release: files have the names of the layout."""

from ...core.io.weights import STEMS
from . import mindone

RULES = mindone.RULES
STEM = STEMS[1]
