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

from duosora.core.maths.embeddings import timestep_frequencies
from duosora.core.maths.skiparse import attention_plan, text_plan, with_mask
from duosora.core.models.adaln_single import TIMESTEP_CHANNELS
from duosora.core.models.dit_first import DiTFirstSpec, TextAndPatches
from duosora.core.seam.models import Given
from duosora.core.shapes import LatentShape, TokenGrid

from ..adaln import AdaLNCondition, AdaLNDenoiser, Block, FinalLayer, PatchEmbed
from ..adaln_single import Blocks, ScalarEmbedder, join_heads, split_heads
from ..attention import Arrangement, Attend, TextKeys, place_plan, place_text
from ..layers import (
    Linear,
    ModuleList,
    Together,
    cast,
    cat,
    device_of,
    place,
    take_tokens,
    to_float32,
)


@dataclass(frozen=True)
class Condition(AdaLNCondition):
    """What a batch is denoised under and which does not change from step to step."""

    along_tokens: ClassVar[Mapping[str, int]] = {"padding": 1, "share": 0}
    """The tensors that have a row for each token, and along which axis."""

    before: Tensor | None
    """(B, L, D), the text's tokens before the patches; None: there are none."""
    texts: tuple[AttendedText, ...]
    """What each block attends to, in the order of the forward; (): patches attend to each other."""
    arrangement: Arrangement
    positions: Tensor
    """(B, N, D) or (1, N, D) float32, added to the tokens."""
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


class DiTFirst(AdaLNDenoiser):
    """The denoiser; `attend` does all its attention."""

    def __init__(self, spec: DiTFirstSpec, attend: Attend) -> None:
        super().__init__()
        self.spec = spec
        self.video_embedder = PatchEmbed(spec)
        if not spec.attends_to_text:
            self.text_embedder = TextEmbedder(spec)
        self.t_embedder = ScalarEmbedder(spec.hidden_size)
        self.blocks: Any = Blocks([Block(spec, Attention(spec, attend)) for _ in range(spec.depth)])
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
            grid=TokenGrid(1, 1, num_tokens),  # the patches in one line, behind the tokens of the text
            before=before,
            about=about,
            texts=self._texts(settled, is_padding is not None) if spec.attends_to_text else (),
            arrangement=place_plan(plan, device),
            positions=place(spec.placed(settled, num_patches), device),
            frequencies=place(timestep_frequencies(TIMESTEP_CHANNELS), device),
            padding=None if is_padding is None else place(is_padding[..., None].astype(np.float32), device),
            share=None if is_padding is None else place(np.full((num_tokens, 1), 1 / num_tokens, np.float32), device),
        )

    def embed(self, latents: Tensor, condition: Condition) -> Tensor:
        """Latents (B, C, T, H, W) -> tokens (B, N, D) at their positions."""
        x = self.video_embedder(cast(latents, like=self.final_layer.linear.weight))
        if condition.before is not None:
            x = cat([cast(condition.before, like=x), x], 1)
        return x + cast(condition.positions, like=x)

    def run_block(self, index: int, x: Tensor, modulation: Tensor, condition: Condition) -> Tensor:
        """Tokens (B, N, D) through block `index`, as `blocks` counts them."""
        text = condition.texts[index] if condition.texts else None
        return self.blocks[index](x, modulation, condition, text)

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


class Attention(Together):
    """Attention among all tokens, or of each to the text.

    A token of the padding gets the mean of all values, as upstream's finite mask gives it: nobody reads it.
    """

    def __init__(self, spec: DiTFirstSpec, attend: Attend) -> None:
        super().__init__()
        width = spec.hidden_size
        attended = spec.text_embed_dim if spec.attends_to_text else width
        self.attend, self.num_heads, self.attends_to_text = attend, spec.num_heads, spec.attends_to_text
        self.to_q = Linear(width, width)
        self.to_k = Linear(attended, width)
        self.to_v = Linear(attended, width)
        self.to_out: Any = ModuleList([Linear(width, width)])
        self.together = ("to_k", "to_v") if spec.attends_to_text else ("to_q", "to_k", "to_v")

    def of_text(self) -> tuple[nn.Cell, ...]:
        """The layers that make keys and values of the text."""
        return (self.to_k, self.to_v) if self.attends_to_text else ()

    def attended(self, text: Tensor, which: TextKeys, mean: Tensor | None) -> AttendedText:
        """Keys and values of texts (B, M, E). mean: (B, 1, E) of all their tokens."""
        keys, values = (split_heads(made, self.num_heads) for made in self.products(text))
        return AttendedText(keys, values, which, None if mean is None else self.to_v(mean))

    def construct(self, x: Tensor, condition: Condition, text: AttendedText | None) -> Tensor:
        """text: attended to instead of the tokens."""
        if text is None:
            queries, keys, values = self.products(x)
            q, k, v = (split_heads(made, self.num_heads) for made in (queries, keys, values))
            mixed = join_heads(self.attend.self_attention(q, k, v, condition.arrangement))
            if condition.padding is not None and condition.share is not None:
                mean = self.attend.total(to_float32(values) * condition.share)
                mixed = self._in_padding(mixed, mean, condition.padding)
        else:
            q = split_heads(self.to_q(x), self.num_heads)
            mixed = join_heads(self.attend.cross_attention(q, text.keys, text.values, text.which))
            if condition.padding is not None and text.mean is not None:
                mixed = self._in_padding(mixed, text.mean, condition.padding)
        return self.to_out[0](mixed)

    def _in_padding(self, mixed: Tensor, mean: Tensor, padding: Tensor) -> Tensor:
        padding = cast(padding, like=mixed)
        return mixed * (1 - padding) + cast(mean, like=mixed) * padding


class TextEmbedder(nn.Cell):
    """Brings what is said of a text to the model's width."""

    def __init__(self, spec: DiTFirstSpec) -> None:
        super().__init__()
        self.proj = Linear(spec.text_embed_dim, spec.hidden_size)

    def construct(self, text: Tensor) -> Tensor:
        """(B, E) or (B, L, E) -> the same of D."""
        return self.proj(text)
