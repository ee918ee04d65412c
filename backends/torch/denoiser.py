"""The forward that all denoisers on tokens share: what sequence parallelism and training know of them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class TokenDenoiser(nn.Module):
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
    transform: Any
    """(tokens, modulation, condition) -> tokens, through all blocks; each token by itself but for self-attention."""
    project: Any
    """(tokens, modulation) -> what each predicts (B, N, outputs)."""
    assemble: Any
    """(predictions of all tokens, condition) -> (B, Cout, T, H, W) float32."""

    def forward(self, latents: Tensor, timestep: Tensor, condition: Any) -> Tensor:
        """Latents (B, C, T, H, W), followed by further channels where the spec has some, and timesteps (B,), whole or
        not -> prediction (B, Cout, T, H, W) float32.

        Raises: ShapeError when the condition was made for other latents.
        """
        self.check(latents, condition)
        modulation = self.modulate(timestep, condition)
        tokens = self.transform(self.embed(latents, condition), modulation, condition)
        return self.assemble(self.project(tokens, modulation), condition)
