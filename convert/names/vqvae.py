"""VQVAE: VideoGPT's names, which Lightning's checkpoints have as they are."""

from ...core.io.weights import STEMS
from ..rules import Drop
from . import mindone

RULES = (
    Drop("{*}.num_batches_tracked", why="how many batches a norm has seen, which no norm here asks for"),
    *mindone.RULES,
)
STEM = STEMS[0]
TOLD_AT = ("hyper_parameters", "args")
