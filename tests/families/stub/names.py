"""What MindSpore's own layers call its weights."""

from ...core.io.weights import STEMS
from . import mindone

RULES = mindone.RULES
STEM = STEMS[0]
