"""OpenSoraVAE 1.2: published names, and older ones of diffusers for the attention of its frames' autoencoder.

The `module` in its names is its own; as wrappers of models have it in theirs too, it is taken off and put back.
An autoencoder of pictures, as diffusers names it, is the frames' half, with which training begins.
"""

from ...core.io.weights import STEMS
from ..beginning import Beginning
from ..rules import Rename
from . import mindone

_PICTURES = (
    *(f"encoder.{part}.{{*}}" for part in ("conv_in", "down_blocks", "mid_block", "conv_norm_out", "conv_out")),
    *(f"decoder.{part}.{{*}}" for part in ("conv_in", "mid_block", "up_blocks", "conv_norm_out", "conv_out")),
    *(f"{part}.{kind}" for part in ("quant_conv", "post_quant_conv") for kind in ("weight", "bias")),
)
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
    *(
        Rename(
            f"{half}.mid_block.attentions.0.{old}.{{*}}",
            f"spatial_vae.module.{half}.mid_block.attentions.0.{new}.{{*}}",
        )
        for half in ("encoder", "decoder")
        for old, new in _ATTENTION.items()
    ),
    *(Rename(name, f"spatial_vae.module.{name}") for name in _PICTURES),
    *mindone.RULES,
)
BEGINNING = Beginning(title="an autoencoder of pictures", lacks=("temporal_vae.{*}",), may_lack=("scale", "shift"))
STEM = STEMS[1]
