"""The forward that all denoisers on tokens share: what sequence parallelism and training know of them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .layers import cast, cat, to_float32


class BlockByBlock(nn.Module):
    """A denoiser whose call has three parts: what comes before the blocks, the blocks one by one, what comes after.

    Who leaves out blocks, moves their weights or compiles them goes through the parts; together they are the call.
    """

    num_blocks: Any
    """Of all blocks in the order of the forward."""
    begin: Any
    """(latents, timestep, condition) -> tokens (B, N, D) before block 0, modulation. Raises: as the forward."""
    run_block: Any
    """(index, tokens, modulation, condition) -> tokens behind that block."""
    finish: Any
    """(tokens behind the last block, modulation, condition) -> prediction (B, Cout, T, H, W) float32."""
    signal: Any
    """(tokens before block 0, modulation, condition) -> what block 0 reads of them, modulated; of families whose spec
    `has_signal`."""
    change: Any
    """(what each token has now (B, N, D), what it had before, condition) -> (ranks, 2) float32: of the tokens of each
    rank that shares them, the sum of the sizes of all differences and that of what was before."""

    def forward(self, latents: Tensor, timestep: Tensor, condition: Any) -> Tensor:
        """Latents (B, C, T, H, W), followed by further channels where the spec has some, and timesteps (B,), whole or
        not -> prediction (B, Cout, T, H, W) float32.

        Raises: ShapeError when the condition was made for other latents.
        """
        tokens, modulation = self.begin(latents, timestep, condition)
        tokens = _through(self, 0, self.num_blocks, tokens, modulation, condition)
        return self.finish(tokens, modulation, condition)

    def run_blocks(self, first: int, end: int, tokens: Tensor, modulation: Any, condition: Any) -> Tensor:
        """Tokens (B, N, D) through the blocks of numbers from `first` to before `end`, for calls in parts: compiled
        where the model is."""
        return _through(self, first, end, tokens, modulation, condition)

    def moved(self, tokens: Tensor, before: Tensor) -> Tensor:
        """How far blocks have moved tokens, in float32."""
        return to_float32(tokens) - to_float32(before)

    def move(self, tokens: Tensor, way: Tensor) -> Tensor:
        """Tokens moved by what `moved` gave."""
        return cast(to_float32(tokens) + way, like=tokens)


class TokenDenoiser(BlockByBlock):
    """A transformer on (B, N, D) tokens, one for each patch of the latents.

    `condition` makes what does not change from step to step. Its `grid` are the tokens, and `along_tokens` names the
    tensors in it that have a row for each token.
    """

    spec: Any
    """A core.models.kinds.DenoiserSpec."""
    blocks: Any
    """() -> all blocks in the order of the forward: recomputing and splitting go along them. `of_text()` of a block are
    its layers that `condition` calls."""
    condition: Any
    """(given, latent) -> Condition."""
    with_frames: Any
    """(condition, frame_mask (B, T)) -> Condition with other frames denoised; where the spec reads the mask."""
    check: Any
    """(latents, condition): raises ShapeError when the condition was made for others."""
    modulate: Any
    """(timestep (B,), condition) -> modulation."""
    embed: Any
    """(latents, condition) -> tokens (B, N, D)."""
    run_block: Any
    """(index, tokens, modulation, condition) -> tokens, through one of `blocks()`, whose numbers begin at 0; each token
    by itself but for self-attention."""
    project: Any
    """(tokens, modulation) -> what each predicts (B, N, outputs)."""
    assemble: Any
    """(predictions of all tokens, condition) -> (B, Cout, T, H, W) float32."""

    @property
    def num_blocks(self) -> int:
        return len(self.spec.blocks())

    def begin(self, latents: Tensor, timestep: Tensor, condition: Any) -> tuple[Tensor, Any]:
        """Tokens (B, N, D) before the first block, and the modulation of all."""
        self.check(latents, condition)
        modulation = self.modulate(timestep, condition)
        return self.embed(latents, condition), modulation

    def finish(self, tokens: Tensor, modulation: Any, condition: Any) -> Tensor:
        """Tokens (B, N, D) behind the last block -> prediction (B, Cout, T, H, W) float32."""
        return self.assemble(self.project(tokens, modulation), condition)

    def change(self, now: Tensor, before: Tensor, condition: Any) -> Tensor:
        """(1, 2): there is one rank."""
        sums = [to_float32(now - before).abs().sum(), to_float32(before).abs().sum()]
        return cat([each.reshape(1, 1) for each in sums], 1)


def _through(model: Any, first: int, end: int, tokens: Tensor, modulation: Any, condition: Any) -> Tensor:
    for index in range(first, end):
        tokens = model.run_block(index, tokens, modulation, condition)
    return tokens
