"""The forward that all denoisers on tokens share: what sequence parallelism and training know of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from mindspore import Tensor, nn


class TokenDenoiser(nn.Cell):
    """A transformer on (B, N, D) tokens, one for each patch of the latents.

    `condition` makes what does not change from step to step; its tensors named in `along_tokens` have a row for each
    token, and its `grid` are the tokens. `modulate` makes what a timestep does to the tokens; its tensors named in
    `along_tokens` have a row for each token behind the batch's axis.
    """

    spec: Any
    """A core.models.kinds.DenoiserSpec."""
    blocks: Any
    """() -> all blocks in the order of the forward: recomputing and splitting go along them. `of_text()` of a block are
    its layers that `condition` calls."""
    condition: Any
    """(given, latent) -> Condition."""
    check: Any
    """(latents, condition): raises ShapeError when the condition was made for others."""
    modulate: Any
    """(timestep (B,), condition, frame_mask) -> modulation."""
    embed: Any
    """(latents, condition) -> tokens (B, N, D)."""
    transform: Any
    """(tokens, modulation, condition) -> tokens, through all blocks; each token by itself but for self-attention."""
    project: Any
    """(tokens, modulation) -> what each predicts (B, N, outputs)."""
    assemble: Any
    """(predictions of all tokens, condition) -> (B, Cout, T, H, W) float32."""

    def construct(
        self, latents: Tensor, timestep: Tensor, condition: Any, frame_mask: np.ndarray | None = None
    ) -> Tensor:
        """Latents (B, C, T, H, W), followed by further channels where the spec has some, and timesteps (B,), whole or
        not -> prediction (B, Cout, T, H, W) float32.

        frame_mask: (B, T), False where a frame is clean and not denoised; None: all are denoised. What is predicted for
        clean frames means nothing.
        Raises: ShapeError when the condition was made for other latents.
        """
        self.check(latents, condition)
        modulation = self.modulate(timestep, condition, frame_mask)
        tokens = self.transform(self.embed(latents, condition), modulation, condition)
        return self.assemble(self.project(tokens, modulation), condition)
