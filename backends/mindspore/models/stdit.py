"""STDiT, built from a core.models.stdit.STDiTSpec.

A transformer on (B, N, D) tokens. A block attends within a frame, then through all frames at one place, where it reads
the raw residual stream, and then to the text. What does not depend on the timestep is a Condition, made once per
sampling run. Attribute names are upstream's, as the weights' names follow from them.
Source: opensora/models/stdit/stdit.py of hpcaitech Open-Sora at v1.0.0 and v1.2.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from mindspore import Tensor, nn

from duosora.core.maths.embeddings import counted_embedding, line_embedding
from duosora.core.models.adaln_single import NORM_EPS, NUM_MODULATIONS
from duosora.core.models.stdit import STDiTSpec
from duosora.core.seam.models import Given
from duosora.core.shapes import LatentShape

from .. import adaln_single
from ..adaln_single import (
    AdaLNSingle,
    Blocks,
    CaptionEmbedder,
    CrossAttention,
    FeedForward,
    FinalLayer,
    PatchEmbed,
    ScalarEmbedder,
    SelfAttention,
    modulate,
    of_tokens,
)
from ..attention import Arrangement, Attend, TextKeys
from ..layers import (
    Identity,
    LayerNorm,
    Linear,
    ModuleList,
    cast,
    cat,
    device_of,
    new_parameter,
    place,
    silu,
    to_float32,
)
from ..operators import addcmul


@dataclass(frozen=True, kw_only=True)
class Condition(adaln_single.SpatialTemporal):
    """What a batch is denoised under and which does not change from step to step."""

    along_tokens: ClassVar[Mapping[str, int]] = {"frame_positions": 0, "rows": 1}

    frame_positions: Tensor
    """(N, D) float32, added to what the first block's temporal attention reads."""


@dataclass(frozen=True)
class Modulation:
    """How a timestep bends the activations: R = 1, or 2 where some frames are modulated as at timestep 0."""

    blocks: Tensor
    """(B, R, 6, D), shared by all blocks."""
    last: Tensor
    """(B, R, D), of the last layer."""
    rows: Tensor | None
    """(B, N, 2), which of two each token takes; None where there is one."""


def create(spec: STDiTSpec, attend: Attend) -> STDiT:
    """The model of a spec, without its weights."""
    return STDiT(spec, attend)


class STDiT(AdaLNSingle):
    """The denoiser; `attend` does all its attention."""

    spec: STDiTSpec

    def __init__(self, spec: STDiTSpec, attend: Attend) -> None:
        super().__init__()
        self.spec = spec
        width = spec.hidden_size
        self.x_embedder = PatchEmbed(spec)
        self.t_embedder = ScalarEmbedder(width)
        self.t_block: Any = ModuleList([Identity(), Linear(width, NUM_MODULATIONS * width)])
        self.y_embedder = CaptionEmbedder(spec)
        self.blocks = Blocks([Block(spec, attend) for _ in range(spec.depth)])
        self.final_layer = FinalLayer(spec)

    def condition(self, given: Given, latent: LatentShape) -> Condition:
        """Everything that does not depend on the timestep; gradients flow through it.

        Raises: ShapeError when something that the model reads is missing or does not fit.
        """
        spec, device = self.spec, device_of(self.final_layer.scale_shift_table)
        settled, grid = spec.settled(given, latent), spec.grid(latent)
        places = counted_embedding(grid.height, grid.width, spec.hidden_size, spec.space_scale)
        frames = line_embedding(grid.frames, spec.hidden_size, spec.time_scale)
        condition = Condition(
            **self.shared(settled, latent, places),
            **self.arrangements(latent),
            frame_positions=place(frames.repeat(grid.height * grid.width, axis=0), device),
        )
        return self.with_frames(condition, settled.frame_mask)

    def modulate(self, timestep: Tensor, condition: Condition) -> Modulation:
        """The modulation of a timestep (B,), and of timestep 0 behind it where some frames are clean."""
        times = to_float32(timestep)
        batch, width = times.shape[0], self.spec.hidden_size
        if condition.rows is not None:
            times = cat([times, 0.0 * times], 0)
        embedded = self.t_embedder(times, condition.frequencies)  # (R * B, D)
        of_blocks = self.t_block[1](silu(embedded))
        return Modulation(
            blocks=of_blocks.reshape(-1, batch, NUM_MODULATIONS, width).swapaxes(0, 1),
            last=embedded.reshape(-1, batch, width).swapaxes(0, 1),
            rows=condition.rows,
        )

    def run_block(self, index: int, x: Tensor, modulation: Modulation, condition: Condition) -> Tensor:
        """Tokens (B, N, D) through block `index`, as `blocks` counts them."""
        bent = modulation.blocks, modulation.rows
        arrangements = condition.spatial, condition.temporal
        kept = None if condition.kept is None else condition.kept[:, index]
        frames = condition.frame_positions if index == 0 else None
        text = *condition.keys_values[index], condition.text
        return self.blocks[index](x, *bent, *arrangements, *text, frames, kept)

    def project(self, x: Tensor, modulation: Modulation) -> Tensor:
        """Tokens (B, N, D) after the last block -> what each predicts (B, N, pt * ph * pw * Cout)."""
        return self.final_layer(x, modulation.last, modulation.rows)


class Block(nn.Cell):
    """Spatial and temporal self-attention, cross-attention, modulated feed-forward, each added to the tokens."""

    def __init__(self, spec: STDiTSpec, attend: Attend) -> None:
        super().__init__()
        width = spec.hidden_size
        self.scale_shift_table = new_parameter(NUM_MODULATIONS, width)
        self.norm1 = LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.attn = SelfAttention(spec, attend, qk_norm=False)
        self.cross_attn = CrossAttention(spec, attend)
        self.norm2 = LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.mlp = FeedForward(width, spec.feed_forward_size, width)
        self.attn_temp = SelfAttention(spec, attend, qk_norm=False)

    def of_text(self) -> tuple[nn.Cell, ...]:
        """The layers that make keys and values of the text."""
        return (self.cross_attn.kv_linear,)

    def construct(
        self,
        x: Tensor,
        modulation: Tensor,
        rows: Tensor | None,
        spatial: Arrangement,
        temporal: Arrangement,
        keys: Tensor,
        values: Tensor,
        text: TextKeys,
        frames: Tensor | None,
        kept: Tensor | None,
    ) -> Tensor:
        """Tokens (B, N, D) and modulation (B, R, 6, D) -> tokens; the rest as in Modulation and Condition.

        frames: positions in time (N, D), of the first block.
        """
        table = self.scale_shift_table + modulation
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = (
            of_tokens(table[:, :, i], rows) for i in range(NUM_MODULATIONS)
        )
        # Also clean frames let in what passes through time by the timestep's gate, as where the model was trained.
        gate_time = table[:, :1, 2]
        if kept is not None:
            attends, feeds = cast(kept[:, 0], like=gate_msa), cast(kept[:, 1], like=gate_mlp)
            gate_msa, gate_time, gate_mlp = gate_msa * attends, gate_time * attends, gate_mlp * feeds
        x = addcmul(x, gate_msa, self.attn(modulate(self.norm1, x, shift_msa, scale_msa), spatial))
        # Time and the text are read from the raw residual stream: no norm, no modulation.
        placed = x if frames is None else x + cast(frames, like=x)
        x = addcmul(x, gate_time, self.attn_temp(placed, temporal))
        x = x + self.cross_attn(x, keys, values, text)
        return addcmul(x, gate_mlp, self.mlp(modulate(self.norm2, x, shift_mlp, scale_mlp)))
