"""WFVAE: published names, and those of upstream's tag v1.3.1, which misspells the wavelets' modules."""

from ...core.io.weights import STEMS
from ..rules import Rename
from . import mindone

RULES = (
    Rename("encoder.wavelet_tranform_{*}", "encoder.wavelet_transform_{*}"),
    Rename("decoder.inverse_wavelet_tranform_{*}", "decoder.inverse_wavelet_transform_{*}"),
    *mindone.RULES,
)
STEM = STEMS[0]
