"""The parts of denoisers with plain adaLN blocks, built from a core.models.adaln.AdaLNSpec.

Every block makes its own modulation of one vector: of the embedded timestep and what else bends it. Attribute names
are upstream's, as the weights' names follow from them.
Source: Peebles and Xie 2022, arXiv:2212.09748.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from duosora.core.errors import ShapeError
from duosora.core.models.adaln import AdaLNSpec
from duosora.core.models.adaln_single import NORM_EPS, NUM_MODULATIONS
from duosora.core.shapes import LatentShape, TokenGrid

from .adaln_single import FeedForward, join_heads, modulate, split_heads
from .attention import Arrangement, Attend
from .denoiser import TokenDenoiser
from .layers import Identity, LayerNorm, Linear, ModuleList, kernel, linear, new_parameter, silu, to_float32
from .operators import addcmul


@dataclass(frozen=True)
class AdaLNCondition:
    """What a batch is denoised under and which does not change from step to step."""

    batch: int
    latent: LatentShape
    grid: TokenGrid
    about: Tensor | None
    """(B, D), the embedded class or text that bends all blocks; None: none does."""
    frequencies: Tensor
    """(TIMESTEP_CHANNELS / 2,) float32, of the timestep embedding."""


class AdaLNDenoiser(TokenDenoiser):
    """What such a denoiser has in common with others; the rest of it is its own."""

    blocks: Any
    t_embedder: Any
    final_layer: Any

    def check(self, latents: Tensor, condition: Any) -> None:
        """Raises: ShapeError when the condition was made for other latents."""
        made_for = (condition.batch, self.spec.in_channels, *condition.latent)
        if tuple(latents.shape) != made_for:
            raise ShapeError(f"latents of {_sizes(latents.shape)} came with a condition for {_sizes(made_for)}")

    def modulate(self, timestep: Tensor, condition: Any) -> Tensor:
        """What bends all layers: of a timestep (B,), and the class or text where that does, (B, D)."""
        embedded = self.t_embedder(to_float32(timestep), condition.frequencies)
        return silu(embedded if condition.about is None else embedded + condition.about)

    def signal(self, x: Tensor, modulation: Tensor, condition: Any) -> Tensor:
        """What the first block's attention reads of tokens (B, N, D)."""
        block = next(iter(self.blocks()))
        shift, scale = block.adaLN_modulation[1](modulation).reshape(x.shape[0], 1, -1).chunk(NUM_MODULATIONS, -1)[:2]
        return modulate(block.norm1, x, shift, scale)

    def project(self, x: Tensor, modulation: Tensor) -> Tensor:
        """Tokens (B, N, D) after the last block -> what each predicts (B, N, outputs)."""
        return self.final_layer(x, modulation)


class Block(nn.Module):
    """Modulated attention and modulated feed-forward, each added to the tokens."""

    def __init__(self, spec: AdaLNSpec, attn: nn.Module) -> None:
        super().__init__()
        width = spec.hidden_size
        self.norm1 = LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.attn: Any = attn
        self.norm2 = LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.mlp = FeedForward(width, spec.feed_forward_size, width)
        self.adaLN_modulation: Any = ModuleList([Identity(), Linear(width, NUM_MODULATIONS * width)])

    def of_text(self) -> tuple[nn.Module, ...]:
        """The layers that make keys and values of the text."""
        return self.attn.of_text()

    def forward(self, x: Tensor, modulation: Tensor, *attended: Any) -> Tensor:
        """Tokens (B, N, D) and what bends them (B, D) -> tokens. attended: what the attention asks for."""
        bent = self.adaLN_modulation[1](modulation).reshape(x.shape[0], 1, -1)
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = bent.chunk(NUM_MODULATIONS, -1)
        x = addcmul(x, gate_msa, self.attn(modulate(self.norm1, x, shift_msa, scale_msa), *attended))
        return addcmul(x, gate_mlp, self.mlp(modulate(self.norm2, x, shift_mlp, scale_mlp)))


class SelfAttention(nn.Module):
    """Attention among the tokens that an arrangement puts together."""

    def __init__(self, spec: AdaLNSpec, attend: Attend) -> None:
        super().__init__()
        width = spec.hidden_size
        self.attend, self.num_heads = attend, spec.num_heads
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)

    def of_text(self) -> tuple[nn.Module, ...]:
        """As a block's: there is none."""
        return ()

    def forward(self, x: Tensor, arrangement: Arrangement) -> Tensor:
        q, k, v = (split_heads(part, self.num_heads) for part in self.qkv(x).chunk(3, -1))
        return self.proj(join_heads(self.attend.self_attention(q, k, v, arrangement)))


class FinalLayer(nn.Module):
    """A modulated norm and what each token predicts."""

    def __init__(self, spec: AdaLNSpec) -> None:
        super().__init__()
        width = spec.hidden_size
        self.norm_final = LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.linear = Linear(width, spec.patch_outputs)
        self.adaLN_modulation: Any = ModuleList([Identity(), Linear(width, 2 * width)])

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """Tokens (B, N, D) and what bends them (B, D) -> (B, N, outputs)."""
        shift, scale = self.adaLN_modulation[1](modulation).reshape(x.shape[0], 1, -1).chunk(2, -1)
        return self.linear(modulate(self.norm_final, x, shift, scale))


class PatchEmbed(nn.Module):
    """A convolution within frames whose steps are as long as its kernel, and whose outputs are the tokens."""

    def __init__(self, spec: AdaLNSpec) -> None:
        super().__init__()
        self.proj = PatchProjection(spec)

    def forward(self, latents: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, N, D)."""
        return self.proj(latents)


class PatchProjection(nn.Module):
    """Its weights. Patches do not overlap, so one matrix product does it and leaves the tokens in order."""

    def __init__(self, spec: AdaLNSpec) -> None:
        super().__init__()
        self.patch_size, _ = spec.kernel
        self.weight = new_parameter(spec.hidden_size, spec.in_channels, *spec.kernel)
        self.bias = new_parameter(spec.hidden_size)

    def forward(self, latents: Tensor) -> Tensor:
        size = self.patch_size
        batch, channels, frames, height, width = latents.shape
        patches = latents.reshape(batch, channels, frames, height // size, size, width // size, size)
        patches = patches.permute(0, 2, 3, 5, 1, 4, 6).reshape(batch, -1, channels * size * size)
        return linear(patches, kernel(self).reshape(self.weight.shape[0], -1), self.bias)


def _sizes(shape: Any) -> str:
    return " x ".join(map(str, shape))
