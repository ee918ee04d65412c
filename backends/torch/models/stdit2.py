"""STDiT2, built from a core.models.stdit2.STDiT2Spec.

A transformer on (B, N, D) tokens. A block attends within a frame, under a modulation of timestep and size, then through
all frames at one place, under one of timestep, length and frame rate, and then to the text. What does not depend on the
timestep is a Condition, made once per sampling run. Attribute names are upstream's, as the weights' names follow from
them.
Source: opensora/models/stdit/stdit2.py of hpcaitech Open-Sora at v1.1.0 and v1.2.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from duosora.core.maths.embeddings import grid_embedding
from duosora.core.maths.rope import frame_rope_tables
from duosora.core.models.adaln_single import NORM_EPS, NUM_MODULATIONS
from duosora.core.models.stdit2 import NUM_SIZES, NUM_TEMPORAL, STDiT2Spec
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
    Turn,
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

    along_tokens: ClassVar[Mapping[str, int]] = {"cosines": 0, "sines": 0, "rows": 1}

    cosines: Tensor
    """(N, K), of the temporal attentions' rotary positions, in the dtype of the weights."""
    sines: Tensor
    size: Tensor
    """(B, D), height, width and their ratio, embedded."""
    length: Tensor
    """(B, D), number of frames and frame rate, embedded."""


@dataclass(frozen=True)
class Modulation:
    """How a timestep bends the activations: R = 1, or 2 where some frames are modulated as at timestep 0."""

    blocks: Tensor
    """(B, R, 6, D), of timestep and size, shared by all blocks."""
    temporal: Tensor
    """(B, R, 3, D), of timestep and length, for their temporal attentions."""
    last: Tensor
    """(B, R, D), of the last layer."""
    rows: Tensor | None
    """(B, N, 2), which of two each token takes; None where there is one."""


def create(spec: STDiT2Spec, attend: Attend) -> STDiT2:
    """The model of a spec, without its weights."""
    return STDiT2(spec, attend)


class STDiT2(AdaLNSingle):
    """The denoiser; `attend` does all its attention."""

    spec: STDiT2Spec

    def __init__(self, spec: STDiT2Spec, attend: Attend) -> None:
        super().__init__()
        self.spec = spec
        width = spec.hidden_size
        self.x_embedder = PatchEmbed(spec)
        self.t_embedder = ScalarEmbedder(width)
        self.t_block: Any = ModuleList([Identity(), Linear(width, NUM_MODULATIONS * width)])
        self.t_block_temp: Any = ModuleList([Identity(), Linear(width, NUM_TEMPORAL * width)])
        self.y_embedder = CaptionEmbedder(spec)
        self.blocks = Blocks([Block(spec, attend) for _ in range(spec.depth)])
        self.final_layer = FinalLayer(spec)
        self.csize_embedder = ScalarEmbedder(width // NUM_SIZES)
        self.ar_embedder = ScalarEmbedder(width // NUM_SIZES)
        self.fl_embedder = ScalarEmbedder(width)
        self.fps_embedder = ScalarEmbedder(width)

    def condition(self, given: Given, latent: LatentShape) -> Condition:
        """Everything that does not depend on the timestep; gradients flow through it.

        Raises: ShapeError when something that the model reads is missing or does not fit.
        """
        spec, device = self.spec, device_of(self.final_layer.scale_shift_table)
        settled, grid = spec.settled(given, latent), spec.grid(latent)
        cosines, sines = frame_rope_tables(grid, spec.head_dim)
        shared = self.shared(settled, latent, grid_embedding(grid.height, grid.width, spec.hidden_size, settled.scale))
        frequencies = shared["frequencies"]
        height, width = (self.csize_embedder(place(sides, device), frequencies) for sides in settled.sides.T)
        ratio = self.ar_embedder(place(settled.ratio, device), frequencies)
        num_frames = self.fl_embedder(place(settled.num_frames, device), frequencies)
        condition = Condition(
            **shared,
            **self.arrangements(latent),
            cosines=cast(place(cosines, device), like=self.final_layer.scale_shift_table),
            sines=cast(place(sines, device), like=self.final_layer.scale_shift_table),
            size=cat([height, width, ratio], 1),
            length=num_frames + self.fps_embedder(place(settled.fps, device), frequencies),
        )
        return self.with_frames(condition, settled.frame_mask)

    def modulate(self, timestep: Tensor, condition: Condition) -> Modulation:
        """The modulation of a timestep (B,), and of timestep 0 behind it where some frames are clean."""
        times, size, length = to_float32(timestep), condition.size, condition.length
        batch, width = size.shape
        if condition.rows is not None:
            times = cat([times, 0.0 * times], 0)
            size, length = cat([size, size], 0), cat([length, length], 0)
        embedded = self.t_embedder(times, condition.frequencies)  # (R * B, D)
        of_blocks, of_time = self.t_block[1](silu(embedded + size)), self.t_block_temp[1](silu(embedded + length))
        # The last layer sees the size in clean frames only, as where the model was trained.
        last = embedded if condition.rows is None else cat([embedded[:batch], embedded[batch:] + size[batch:]], 0)
        return Modulation(
            blocks=of_blocks.reshape(-1, batch, NUM_MODULATIONS, width).swapaxes(0, 1),
            temporal=of_time.reshape(-1, batch, NUM_TEMPORAL, width).swapaxes(0, 1),
            last=last.reshape(-1, batch, width).swapaxes(0, 1),
            rows=condition.rows,
        )

    def run_block(self, index: int, x: Tensor, modulation: Modulation, condition: Condition) -> Tensor:
        """Tokens (B, N, D) through block `index`, as `blocks` counts them."""
        bent = modulation.blocks, modulation.temporal, modulation.rows
        plans = condition.spatial, condition.temporal, condition.cosines, condition.sines
        kept = None if condition.kept is None else condition.kept[:, index]
        return self.blocks[index](x, *bent, *plans, *condition.keys_values[index], condition.text, kept)

    def project(self, x: Tensor, modulation: Modulation) -> Tensor:
        """Tokens (B, N, D) after the last block -> what each predicts (B, N, pt * ph * pw * Cout)."""
        return self.final_layer(x, modulation.last, modulation.rows)


class Block(nn.Module):
    """Spatial and temporal self-attention, cross-attention, modulated feed-forward, each added to the tokens."""

    def __init__(self, spec: STDiT2Spec, attend: Attend) -> None:
        super().__init__()
        width = spec.hidden_size
        turn: Turn = "before_norm" if spec.qk_norm_legacy else "after_norm"
        self.scale_shift_table = new_parameter(NUM_MODULATIONS, width)
        self.scale_shift_table_temporal = new_parameter(NUM_TEMPORAL, width)
        self.norm1 = LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.attn = SelfAttention(spec, attend, spec.qk_norm)
        self.cross_attn = CrossAttention(spec, attend)
        self.norm2 = LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.mlp = FeedForward(width, spec.feed_forward_size, width)
        self.norm_temp = LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.attn_temp = SelfAttention(spec, attend, spec.qk_norm, turn)

    def of_text(self) -> tuple[nn.Module, ...]:
        """The layers that make keys and values of the text."""
        return (self.cross_attn.kv_linear,)

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        of_time: Tensor,
        rows: Tensor | None,
        spatial: Arrangement,
        temporal: Arrangement,
        cosines: Tensor,
        sines: Tensor,
        keys: Tensor,
        values: Tensor,
        text: TextKeys,
        kept: Tensor | None,
    ) -> Tensor:
        """Tokens (B, N, D), modulation (B, R, 6, D) and that of the temporal attention (B, R, 3, D) -> tokens; the rest
        as in Modulation and Condition."""
        table, table_time = self.scale_shift_table + modulation, self.scale_shift_table_temporal + of_time
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = (
            of_tokens(table[:, :, i], rows) for i in range(NUM_MODULATIONS)
        )
        shift_time, scale_time, gate_time = (of_tokens(table_time[:, :, i], rows) for i in range(NUM_TEMPORAL))
        if kept is not None:
            attends, feeds = cast(kept[:, 0], like=gate_msa), cast(kept[:, 1], like=gate_mlp)
            gate_msa, gate_time, gate_mlp = gate_msa * attends, gate_time * attends, gate_mlp * feeds
        x = addcmul(x, gate_msa, self.attn(modulate(self.norm1, x, shift_msa, scale_msa), spatial))
        normed = modulate(self.norm_temp, x, shift_time, scale_time)
        x = addcmul(x, gate_time, self.attn_temp(normed, temporal, cosines, sines))
        # The text is read from the raw residual stream: no norm, no modulation, no gate.
        x = x + self.cross_attn(x, keys, values, text)
        return addcmul(x, gate_mlp, self.mlp(modulate(self.norm2, x, shift_mlp, scale_mlp)))
