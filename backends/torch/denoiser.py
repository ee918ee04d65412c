"""What denoisers on tokens have in common: the steps of a forward, which ranks that share the tokens take as well."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn


class TokenDenoiser(nn.Module):
    """A transformer between latents and predictions.

    A family writes `condition`, and the steps: `check`, `modulate` (what follows from the timestep), `embed` (latents
    to tokens (B, N, D)), `transform` (all blocks), `project` (what each token predicts) and `assemble`. `along_tokens`
    of what `condition` and `modulate` give names the tensors with a row for each token, in the axis before the last.
    """

    check: Any
    modulate: Any
    embed: Any
    transform: Any
    project: Any
    assemble: Any

    def forward(
        self, latents: Tensor, timestep: Tensor, condition: Any, frame_mask: np.ndarray | None = None
    ) -> Tensor:
        """As core.seam.models.Denoiser. Raises: ShapeError when the condition was made for other latents."""
        self.check(latents, condition)
        masks = () if frame_mask is None else (frame_mask,)
        modulation = self.modulate(timestep, condition, *masks)
        x = self.transform(self.embed(latents, condition), modulation, condition)
        return self.assemble(self.project(x, modulation), condition)
