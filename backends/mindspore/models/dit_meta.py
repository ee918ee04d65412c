"""DiT and SiT of class labels, built from a core.models.dit_meta.DiTMetaSpec.

A transformer on (B, N, D) tokens of a picture; every block is bent by the sum of the embedded timestep and class.
Attribute names are upstream's, as the weights' names follow from them.
Source: Peebles and Xie 2022, arXiv:2212.09748.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from mindspore import Tensor, mint, nn

from duosora.core.maths.arrangements import spatial_plan
from duosora.core.maths.embeddings import timestep_frequencies
from duosora.core.models.adaln_single import TIMESTEP_CHANNELS
from duosora.core.models.dit_meta import DiTMetaSpec
from duosora.core.seam.models import Given
from duosora.core.shapes import LatentShape

from ..adaln import AdaLNCondition, AdaLNDenoiser, Block, FinalLayer, PatchEmbed, SelfAttention
from ..adaln_single import Blocks, ScalarEmbedder
from ..attention import Arrangement, Attend, place_plan
from ..layers import (
    cast,
    device_of,
    new_parameter,
    place,
    to_float32,
)


@dataclass(frozen=True)
class Condition(AdaLNCondition):
    """What a batch is denoised under and which does not change from step to step."""

    along_tokens: ClassVar[Mapping[str, int]] = {}
    """The tensors that have a row for each token, and along which axis."""

    arrangement: Arrangement
    positions: Tensor
    """(N, D) float32, added to the tokens."""


def create(spec: DiTMetaSpec, attend: Attend) -> DiTMeta:
    """The model of a spec, without its weights."""
    return DiTMeta(spec, attend)


class DiTMeta(AdaLNDenoiser):
    """The denoiser; `attend` does all its attention."""

    def __init__(self, spec: DiTMetaSpec, attend: Attend) -> None:
        super().__init__()
        self.spec = spec
        self.x_embedder = PatchEmbed(spec)
        self.t_embedder = ScalarEmbedder(spec.hidden_size)
        self.y_embedder = LabelEmbedder(spec)
        self.blocks: Any = Blocks([Block(spec, SelfAttention(spec, attend)) for _ in range(spec.depth)])
        self.final_layer = FinalLayer(spec)

    def condition(self, given: Given, latent: LatentShape) -> Condition:
        """Everything that does not depend on the timestep; gradients flow through it.

        Raises: ShapeError when labels are missing or do not fit, or for latents of another size than the model's.
        """
        spec, device = self.spec, device_of(self.final_layer.linear.weight)
        rows, grid = spec.rows(given), spec.grid(latent)
        return Condition(
            batch=len(rows),
            latent=latent,
            grid=grid,
            arrangement=place_plan(spatial_plan(grid), device),
            positions=place(spec.positions(), device),
            about=self.y_embedder(place(np.eye(spec.table_size, dtype=np.float32)[rows], device)),
            frequencies=place(timestep_frequencies(TIMESTEP_CHANNELS), device),
        )

    def embed(self, latents: Tensor, condition: Condition) -> Tensor:
        """Latents (B, C, 1, H, W) -> tokens (B, N, D) at their positions."""
        x = self.x_embedder(cast(latents, like=self.final_layer.linear.weight))
        return x + cast(condition.positions, like=x)

    def run_block(self, index: int, x: Tensor, modulation: Tensor, condition: Condition) -> Tensor:
        """Tokens (B, N, D) through block `index`, as `blocks` counts them."""
        return self.blocks[index](x, modulation, condition.arrangement)

    def assemble(self, patches: Tensor, condition: Condition) -> Tensor:
        """Predictions of all tokens (B, N, p * p * Cout) -> (B, Cout, 1, H, W) float32."""
        spec, grid = self.spec, condition.grid
        patches = patches.reshape(-1, grid.height, grid.width, spec.patch_size, spec.patch_size, spec.out_channels)
        return to_float32(patches.permute(0, 5, 1, 3, 2, 4).reshape(-1, spec.out_channels, *condition.latent))


class LabelEmbedder(nn.Cell):
    """A vector for each class, the last of which may stand for none."""

    def __init__(self, spec: DiTMetaSpec) -> None:
        super().__init__()
        self.embedding_table = Table(spec)

    def construct(self, chosen: Tensor) -> Tensor:
        """Rows (B, classes), 1 at the class and 0 elsewhere -> (B, D)."""
        return self.embedding_table(chosen)


class Table(nn.Cell):
    """Its weights. A product, because its gradient adds up in a fixed order, which that of an index does not."""

    def __init__(self, spec: DiTMetaSpec) -> None:
        super().__init__()
        self.weight = new_parameter(spec.table_size, spec.hidden_size)

    def construct(self, chosen: Tensor) -> Tensor:
        return mint.matmul(cast(chosen, like=self.weight), self.weight)
