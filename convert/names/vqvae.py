"""VQVAE: VideoGPT's names, which Lightning's checkpoints have as they are."""

from ...core.io.weights import STEMS
from . import mindone

RULES = mindone.RULES
STEM = STEMS[0]
