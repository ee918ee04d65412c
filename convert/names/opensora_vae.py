"""OpenSoraVAE 1.2: published names, and older ones of diffusers for the attention of its frames' autoencoder.

The `module` in its names is its own; as wrappers of models have it in theirs too, it is taken off and put back.
Training begins with the autoencoder of frames alone, which diffusers calls AutoencoderKL.
"""

from ...core.io.weights import STEMS
from ...core.models.sd_vae import OLDER_NAMES
from ..beginning import Beginning
from ..rules import Rename
from . import mindone

_PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
"""Of the autoencoder of frames by itself."""
RULES = (
    *(
        Rename(f"{before}{{*}}.attentions.0.{old}.{{*}}", f"spatial_vae.module.{{*}}.attentions.0.{new}.{{*}}")
        for old, new in OLDER_NAMES.items()
        for before in ("spatial_vae.", "")
    ),
    *(
        Rename(f"spatial_vae.{rule.old}", f"spatial_vae.module.{rule.new}", one_way=rule.one_way)
        for rule in mindone.RULES
    ),
    Rename("spatial_vae.{*}", "spatial_vae.module.{*}"),
    *(Rename(f"{part}{{*}}", f"spatial_vae.module.{part}{{*}}") for part in _PARTS),
    *mindone.RULES,
)
BEGINNING = Beginning(title="an autoencoder of frames", lacks=("temporal_vae.{*}",), may_lack=("scale", "shift"))
STEM = STEMS[1]
