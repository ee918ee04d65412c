"""OpenSoraVAE 1.2: published names, and older ones of diffusers for the attention of its frames' autoencoder.

The `module` in its names is its own; as wrappers of models have it in theirs too, it is taken off and put back.
"""

from ...core.io.weights import STEMS
from ..rules import Rename
from . import mindone

_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
RULES = (
    *(
        Rename(f"spatial_vae.{{*}}.attentions.0.{old}.{{*}}", f"spatial_vae.module.{{*}}.attentions.0.{new}.{{*}}")
        for old, new in _ATTENTION.items()
    ),
    *(
        Rename(f"spatial_vae.{rule.old}", f"spatial_vae.module.{rule.new}", one_way=rule.one_way)
        for rule in mindone.RULES
    ),
    Rename("spatial_vae.{*}", "spatial_vae.module.{*}"),
    *mindone.RULES,
)
STEM = STEMS[1]
