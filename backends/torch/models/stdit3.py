"""STDiT3, built from a core.models.stdit3.STDiT3Spec.

A transformer on (B, N, D) tokens in pairs of blocks: spatial ones attend within a frame, temporal ones through all
frames at their rotary positions; each reads the text from the raw residual stream. What does not depend on the timestep
is a Condition, made once per sampling run. Attribute names are upstream's, as the weights' names follow from them.
Source: opensora/models/stdit/stdit3.py of hpcaitech Open-Sora at v1.2.0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from duosora.core.maths.embeddings import grid_embedding
from duosora.core.maths.rope import frame_rope_tables
from duosora.core.models.adaln_single import NORM_EPS, NUM_MODULATIONS, SettledText
from duosora.core.models.stdit3 import STDiT3Spec
from duosora.core.seam.models import Given
from duosora.core.shapes import LatentShape

from .. import adaln_single
from ..adaln_single import (
    AdaLNSingle,
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

    along_tokens: ClassVar[Mapping[str, int]] = {"cosines": 0, "sines": 0, "rows": 1}

    cosines: Tensor
    """(N, K), of the temporal blocks' rotary positions, in the dtype of the weights."""
    sines: Tensor
    frame_rate: Tensor
    """(B, D), embedded."""


@dataclass(frozen=True)
class Modulation:
    """How a timestep bends the activations: R = 1, or 2 where some frames are modulated as at timestep 0."""

    blocks: Tensor
    """(B, R, 6, D), shared by all blocks."""
    last: Tensor
    """(B, R, D), of the last layer."""
    rows: Tensor | None
    """(B, N, 2), which of two each token takes; None where there is one."""


def create(spec: STDiT3Spec, attend: Attend) -> STDiT3:
    """The model of a spec, without its weights."""
    return STDiT3(spec, attend)


class STDiT3(AdaLNSingle):
    """The denoiser; `attend` does all its attention."""

    spec: STDiT3Spec

    def __init__(self, spec: STDiT3Spec, attend: Attend) -> None:
        super().__init__()
        self.spec = spec
        width = spec.hidden_size
        self.x_embedder = PatchEmbed(spec)
        self.t_embedder = ScalarEmbedder(width)
        self.fps_embedder = ScalarEmbedder(width)
        self.t_block: Any = ModuleList([Identity(), Linear(width, NUM_MODULATIONS * width)])
        self.y_embedder = CaptionEmbedder(spec)
        self.spatial_blocks: Any = ModuleList([Block(spec, attend, False) for _ in range(spec.depth)])
        self.temporal_blocks: Any = ModuleList([Block(spec, attend, True) for _ in range(spec.depth)])
        self.final_layer = FinalLayer(spec)

    def blocks(self) -> Iterator[Any]:
        """All blocks in the order of the forward."""
        for spatial, temporal in zip(self.spatial_blocks, self.temporal_blocks, strict=True):
            yield spatial
            yield temporal

    def condition(self, given: Given, latent: LatentShape) -> Condition:
        """Everything that does not depend on the timestep; gradients flow through it.

        Raises: ShapeError when something that the model reads is missing or does not fit.
        """
        spec, device = self.spec, device_of(self.final_layer.scale_shift_table)
        settled, grid = spec.settled(given, latent), spec.grid(latent)
        cosines, sines = frame_rope_tables(grid, spec.head_dim)
        shared = self.shared(settled, latent, grid_embedding(grid.height, grid.width, spec.hidden_size, settled.scale))
        condition = Condition(
            **shared,
            **self.arrangements(latent),
            cosines=cast(place(cosines, device), like=self.final_layer.scale_shift_table),
            sines=cast(place(sines, device), like=self.final_layer.scale_shift_table),
            frame_rate=self.fps_embedder(place(settled.fps, device), shared["frequencies"]),
        )
        return self.with_frames(condition, settled.frame_mask)

    def states(self, settled: SettledText) -> Tensor:
        """Texts (B, L, D), which may come projected already."""
        if not self.spec.skip_y_embedder:
            return super().states(settled)
        like = self.final_layer.scale_shift_table
        return cast(place(settled.text, device_of(like)), like=like)

    def modulate(self, timestep: Tensor, condition: Condition) -> Modulation:
        """The modulation of a timestep (B,), and of timestep 0 behind it where some frames are clean."""
        times, frame_rate = to_float32(timestep), condition.frame_rate
        batch, width = frame_rate.shape
        if condition.rows is not None:
            times = cat([times, 0.0 * times], 0)
            frame_rate = cat([frame_rate, frame_rate], 0)
        embedded = self.t_embedder(times, condition.frequencies) + frame_rate  # (R * B, D)
        of_blocks = self.t_block[1](silu(embedded))
        return Modulation(
            blocks=of_blocks.reshape(-1, batch, NUM_MODULATIONS, width).swapaxes(0, 1),
            last=embedded.reshape(-1, batch, width).swapaxes(0, 1),
            rows=condition.rows,
        )

    def run_block(self, index: int, x: Tensor, modulation: Modulation, condition: Condition) -> Tensor:
        """Tokens (B, N, D) through block `index`, as `blocks` counts them."""
        pair, is_temporal = divmod(index, 2)
        block = (self.temporal_blocks if is_temporal else self.spatial_blocks)[pair]
        arrangement = condition.temporal if is_temporal else condition.spatial
        bent, rope = (modulation.blocks, modulation.rows), (condition.cosines, condition.sines)
        kept = None if condition.kept is None else condition.kept[:, index]
        return block(x, *bent, *rope, arrangement, *condition.keys_values[index], condition.text, kept)

    def project(self, x: Tensor, modulation: Modulation) -> Tensor:
        """Tokens (B, N, D) after the last block -> what each predicts (B, N, pt * ph * pw * Cout)."""
        return self.final_layer(x, modulation.last, modulation.rows)


class Block(nn.Module):
    """Modulated self-attention, cross-attention, modulated feed-forward, each added to the tokens."""

    def __init__(self, spec: STDiT3Spec, attend: Attend, is_temporal: bool) -> None:
        super().__init__()
        width = spec.hidden_size
        self.scale_shift_table = new_parameter(NUM_MODULATIONS, width)
        self.norm1 = LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.attn = SelfAttention(spec, attend, spec.qk_norm, "after_norm" if is_temporal else "")
        self.cross_attn = CrossAttention(spec, attend)
        self.norm2 = LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.mlp = FeedForward(width, spec.feed_forward_size, width)

    def of_text(self) -> tuple[nn.Module, ...]:
        """The layers that make keys and values of the text."""
        return (self.cross_attn.kv_linear,)

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        rows: Tensor | None,
        cosines: Tensor,
        sines: Tensor,
        arrangement: Arrangement,
        keys: Tensor,
        values: Tensor,
        text: TextKeys,
        kept: Tensor | None,
    ) -> Tensor:
        """Tokens (B, N, D) and modulation (B, R, 6, D) -> tokens; the rest as in Modulation and Condition."""
        table = self.scale_shift_table + modulation
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = (
            of_tokens(table[:, :, i], rows) for i in range(NUM_MODULATIONS)
        )
        if kept is not None:
            gate_msa, gate_mlp = gate_msa * cast(kept[:, 0], like=gate_msa), gate_mlp * cast(kept[:, 1], like=gate_mlp)
        normed = modulate(self.norm1, x, shift_msa, scale_msa)
        x = addcmul(x, gate_msa, self.attn(normed, arrangement, cosines, sines))
        # The text is read from the raw residual stream: no norm, no modulation, no gate.
        x = x + self.cross_attn(x, keys, values, text)
        return addcmul(x, gate_mlp, self.mlp(modulate(self.norm2, x, shift_mlp, scale_mlp)))
