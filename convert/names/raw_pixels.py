"""RawPixels: it has no weights, so nobody has names for them."""

from ...core.io.weights import STEMS
from ..rules import Rule

RULES: tuple[Rule, ...] = ()
STEM = STEMS[0]
