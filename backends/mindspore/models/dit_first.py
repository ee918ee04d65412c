"""DiT of Open-Sora's first release, built from a core.models.dit_first.DiTFirstSpec.

A transformer on (B, N, D) tokens, one for each patch of a list; every block is bent by the embedded timestep. Attribute
names are upstream's, as the weights' names follow from them.
Source: open_sora/modeling/dit of hpcaitech Open-Sora before v1.0 (commit 0a4a091).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from mindspore import Tensor, mint, nn

from duosora.core.errors import ShapeError
from duosora.core.maths.embeddings import timestep_frequencies
from duosora.core.maths.skiparse import attention_plan, text_plan, with_mask
from duosora.core.models.dit_first import NORM_EPS, NUM_MODULATIONS, TIMESTEP_CHANNELS, DiTFirstSpec, TextAndPatches
from duosora.core.seam.models import Given
from duosora.core.shapes import LatentShape, TokenGrid

from ..adaln_single import Blocks, FeedForward, ScalarEmbedder, join_heads, modulate, split_heads
from ..attention import Arrangement, Attend, TextKeys, place_plan, place_text
from ..denoiser import TokenDenoiser
from ..layers import (
    Identity,
    LayerNorm,
    Linear,
    ModuleList,
    cast,
    cat,
    device_of,
    linear,
    new_parameter,
    place,
    silu,
    take_tokens,
    to_float32,
)
from ..operators import addcmul


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What a batch is denoised under and which does not change from step to step."""

    along_tokens: ClassVar[Mapping[str, int]] = {"padding": 1, "share": 0}
    """The tensors that have a row for each token, and along which axis."""

    batch: int
    latent: LatentShape
    grid: TokenGrid
    """The patches in one line, behind the tokens of the text where there are some."""
    before: Tensor | None
    """(B, L, D), the text's tokens before the patches; None: there are none."""
    about: Tensor | None
    """(B, D), the vector of the text that bends all blocks; None: none does."""
    texts: tuple[AttendedText, ...]
    """What each block attends to, in the order of the forward; (): patches attend to each other."""
    arrangement: Arrangement
    positions: Tensor
    """(B, N, D) or (1, N, D) float32, added to the tokens."""
    frequencies: Tensor
    """(TIMESTEP_CHANNELS / 2,) float32, of the timestep embedding."""
    padding: Tensor | None
    """(B, N, 1) float32, 1 where a token counts for nothing; None: all count."""
    share: Tensor | None
    """(N, 1) float32, of each token in a mean over all; None as the padding."""


@dataclass(frozen=True)
class AttendedText:
    """Keys and values of a text in one block."""

    keys: Tensor
    """(B, M, A, K), as the values."""
    values: Tensor
    which: TextKeys
    mean: Tensor | None
    """(B, 1, D), of the values of all tokens, padding too; None where nobody asks for it."""


def create(spec: DiTFirstSpec, attend: Attend) -> DiTFirst:
    """The model of a spec, without its weights."""
    return DiTFirst(spec, attend)


class DiTFirst(TokenDenoiser):
    """The denoiser; `attend` does all its attention."""

    def __init__(self, spec: DiTFirstSpec, attend: Attend) -> None:
        super().__init__()
        self.spec = spec
        self.video_embedder = PatchEmbed(spec)
        if not spec.attends_to_text:
            self.text_embedder = TextEmbedder(spec)
        self.t_embedder = ScalarEmbedder(spec.hidden_size)
        self.blocks: Any = Blocks([Block(spec, attend) for _ in range(spec.depth)])
        self.final_layer = FinalLayer(spec)

    def condition(self, given: Given, latent: LatentShape) -> Condition:
        """Everything that does not depend on the timestep; gradients flow through it.

        Raises: ShapeError when something that the model reads is missing or does not fit.
        """
        spec, device = self.spec, device_of(self.final_layer.linear.weight)
        settled, num_patches = spec.settled(given, latent), spec.grid(latent).num_tokens
        before, about = None, None
        if not spec.attends_to_text:
            embedded = self.text_embedder(self._placed(settled.text))
            before, about = (None, embedded) if spec.pools else (embedded, None)
        num_tokens = num_patches + (0 if before is None else before.shape[1])
        spec.check_places(num_tokens)
        valid = settled.tokens(num_patches, joined=before is not None)
        is_padding = settled.padding(valid, num_patches, attended=spec.attends_to_text)
        plan = with_mask(attention_plan(num_tokens), None if spec.attends_to_text else valid)
        return Condition(
            batch=len(settled.text),
            latent=latent,
            grid=TokenGrid(1, 1, num_tokens),
            before=before,
            about=about,
            texts=self._texts(settled, is_padding is not None) if spec.attends_to_text else (),
            arrangement=place_plan(plan, device),
            positions=place(spec.placed(settled, num_patches), device),
            frequencies=place(timestep_frequencies(TIMESTEP_CHANNELS), device),
            padding=None if is_padding is None else place(is_padding[..., None].astype(np.float32), device),
            share=None if is_padding is None else place(np.full((num_tokens, 1), 1 / num_tokens, np.float32), device),
        )

    def check(self, latents: Tensor, condition: Condition) -> None:
        """Raises: ShapeError when the condition was made for other latents."""
        made_for = (condition.batch, self.spec.in_channels, *condition.latent)
        if tuple(latents.shape) != made_for:
            raise ShapeError(f"latents of {_sizes(latents.shape)} came with a condition for {_sizes(made_for)}")

    def modulate(self, timestep: Tensor, condition: Condition) -> Tensor:
        """What bends all layers: of a timestep (B,), and the vector of the text where that does, (B, D)."""
        embedded = self.t_embedder(to_float32(timestep), condition.frequencies)
        return silu(embedded if condition.about is None else embedded + condition.about)

    def embed(self, latents: Tensor, condition: Condition) -> Tensor:
        """Latents (B, C, T, H, W) -> tokens (B, N, D) at their positions."""
        x = self.video_embedder(cast(latents, like=self.final_layer.linear.weight))
        if condition.before is not None:
            x = cat([cast(condition.before, like=x), x], 1)
        return x + cast(condition.positions, like=x)

    def transform(self, x: Tensor, modulation: Tensor, condition: Condition) -> Tensor:
        """Tokens (B, N, D) through all blocks."""
        for i, block in enumerate(self.blocks()):
            x = block(x, modulation, condition, condition.texts[i] if condition.texts else None)
        return x

    def project(self, x: Tensor, modulation: Tensor) -> Tensor:
        """Tokens (B, N, D) after the last block -> what each predicts (B, N, Cout * p * p)."""
        return self.final_layer(x, modulation)

    def assemble(self, patches: Tensor, condition: Condition) -> Tensor:
        """Predictions of all tokens (B, N, Cout * p * p) -> (B, Cout, T, H, W) float32."""
        spec, (frames, height, width) = self.spec, condition.latent
        size = spec.patch_size
        text_tokens = 0 if condition.before is None else condition.before.shape[1]
        patches = patches[:, text_tokens:]
        patches = patches.reshape(-1, frames, height // size, width // size, spec.out_channels, size, size)
        return to_float32(patches.permute(0, 4, 1, 2, 5, 3, 6).reshape(-1, spec.out_channels, *condition.latent))

    def _texts(self, settled: TextAndPatches, with_means: bool) -> tuple[AttendedText, ...]:
        """Of each block, with padding of the texts cut off."""
        text = self._placed(settled.text)
        mean = mint.mean(text, 1, keepdim=True) if with_means else None
        plan = text_plan(settled.text_mask, text.shape[1])
        if plan.index is not None:
            text = take_tokens(text, place(plan.index, device_of(text)))
        which = place_text(plan, text.shape[1], device_of(text))
        return tuple(block.attn.attended(text, which, mean) for block in self.blocks())

    def _placed(self, text: np.ndarray) -> Tensor:
        like = self.final_layer.linear.weight
        return cast(place(text, device_of(like)), like=like)


class Block(nn.Cell):
    """Modulated attention and modulated feed-forward, each added to the tokens."""

    def __init__(self, spec: DiTFirstSpec, attend: Attend) -> None:
        super().__init__()
        width = spec.hidden_size
        self.attends_to_text = spec.attends_to_text
        self.norm1 = LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.attn = Attention(spec, attend)
        self.norm2 = LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.mlp = FeedForward(width, spec.feed_forward_size, width)
        self.adaLN_modulation: Any = ModuleList([Identity(), Linear(width, NUM_MODULATIONS * width)])

    def of_text(self) -> tuple[nn.Cell, ...]:
        """The layers that make keys and values of the text."""
        return (self.attn.to_k, self.attn.to_v) if self.attends_to_text else ()

    def construct(self, x: Tensor, modulation: Tensor, condition: Condition, text: AttendedText | None) -> Tensor:
        """Tokens (B, N, D) and what bends them (B, D) -> tokens. text: attended to instead of the tokens."""
        table = self.adaLN_modulation[1](modulation).reshape(x.shape[0], NUM_MODULATIONS, -1)
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = (
            table[:, i : i + 1] for i in range(NUM_MODULATIONS)
        )
        x = addcmul(x, gate_msa, self.attn(modulate(self.norm1(x), shift_msa, scale_msa), condition, text))
        return addcmul(x, gate_mlp, self.mlp(modulate(self.norm2(x), shift_mlp, scale_mlp)))


class Attention(nn.Cell):
    """Attention among all tokens, or of each to the text.

    A token of the padding gets the mean of all values, as upstream's finite mask gives it: nobody reads it.
    """

    def __init__(self, spec: DiTFirstSpec, attend: Attend) -> None:
        super().__init__()
        width = spec.hidden_size
        attended = spec.text_embed_dim if spec.attends_to_text else width
        self.attend, self.num_heads = attend, spec.num_heads
        self.to_q = Linear(width, width)
        self.to_k = Linear(attended, width)
        self.to_v = Linear(attended, width)
        self.to_out: Any = ModuleList([Linear(width, width)])

    def attended(self, text: Tensor, which: TextKeys, mean: Tensor | None) -> AttendedText:
        """Keys and values of texts (B, M, E). mean: (B, 1, E) of all their tokens."""
        keys, values = (split_heads(made, self.num_heads) for made in (self.to_k(text), self.to_v(text)))
        return AttendedText(keys, values, which, None if mean is None else self.to_v(mean))

    def construct(self, x: Tensor, condition: Condition, text: AttendedText | None) -> Tensor:
        q = split_heads(self.to_q(x), self.num_heads)
        if text is None:
            values = self.to_v(x)
            k, v = split_heads(self.to_k(x), self.num_heads), split_heads(values, self.num_heads)
            mixed = join_heads(self.attend.self_attention(q, k, v, condition.arrangement))
            if condition.padding is not None and condition.share is not None:
                mean = self.attend.total(to_float32(values) * condition.share)
                mixed = self._in_padding(mixed, mean, condition.padding)
        else:
            mixed = join_heads(self.attend.cross_attention(q, text.keys, text.values, text.which))
            if condition.padding is not None and text.mean is not None:
                mixed = self._in_padding(mixed, text.mean, condition.padding)
        return self.to_out[0](mixed)

    def _in_padding(self, mixed: Tensor, mean: Tensor, padding: Tensor) -> Tensor:
        padding = cast(padding, like=mixed)
        return mixed * (1 - padding) + cast(mean, like=mixed) * padding


class FinalLayer(nn.Cell):
    """A modulated norm and what each token predicts."""

    def __init__(self, spec: DiTFirstSpec) -> None:
        super().__init__()
        width = spec.hidden_size
        self.norm_final = LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.linear = Linear(width, spec.patch_outputs)
        self.adaLN_modulation: Any = ModuleList([Identity(), Linear(width, 2 * width)])

    def construct(self, x: Tensor, modulation: Tensor) -> Tensor:
        """Tokens (B, N, D) and what bends them (B, D) -> (B, N, outputs)."""
        table = self.adaLN_modulation[1](modulation).reshape(x.shape[0], 2, -1)
        return self.linear(modulate(self.norm_final(x), table[:, :1], table[:, 1:]))


class PatchEmbed(nn.Cell):
    """A convolution whose steps are as long as its kernel, and whose outputs are the tokens."""

    def __init__(self, spec: DiTFirstSpec) -> None:
        super().__init__()
        self.proj = PatchProjection(spec)

    def construct(self, latents: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, N, D)."""
        return self.proj(latents)


class PatchProjection(nn.Cell):
    """Its weights. Patches do not overlap, so one matrix product does it and leaves the tokens in order."""

    def __init__(self, spec: DiTFirstSpec) -> None:
        super().__init__()
        self.patch_size = spec.patch_size
        self.weight = new_parameter(spec.hidden_size, spec.in_channels, spec.patch_size, spec.patch_size)
        self.bias = new_parameter(spec.hidden_size)

    def construct(self, latents: Tensor) -> Tensor:
        size = self.patch_size
        batch, channels, frames, height, width = latents.shape
        patches = latents.reshape(batch, channels, frames, height // size, size, width // size, size)
        patches = patches.permute(0, 2, 3, 5, 1, 4, 6).reshape(batch, -1, channels * size * size)
        return linear(patches, self.weight.reshape(self.weight.shape[0], -1), self.bias)


class TextEmbedder(nn.Cell):
    """Brings what is said of a text to the model's width."""

    def __init__(self, spec: DiTFirstSpec) -> None:
        super().__init__()
        self.proj = Linear(spec.text_embed_dim, spec.hidden_size)

    def construct(self, text: Tensor) -> Tensor:
        """(B, E) or (B, L, E) -> the same of D."""
        return self.proj(text)


def _sizes(shape: Any) -> str:
    return " x ".join(map(str, shape))
