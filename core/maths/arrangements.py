"""Models that look at space and time by turns: their attention plans, and which frame a token belongs to."""

from __future__ import annotations

import numpy as np

from ..shapes import TokenGrid
from .skiparse import AttentionPlan, Run


def spatial_plan(grid: TokenGrid) -> AttentionPlan:
    """The tokens of each frame attend to each other."""
    of_frame = grid.height * grid.width
    return AttentionPlan(runs=(Run(0, grid.frames, of_frame, in_turn=True),), padded_length=of_frame)


def temporal_plan(grid: TokenGrid) -> AttentionPlan:
    """The tokens of each place attend to each other, through all frames."""
    return AttentionPlan(runs=(Run(0, grid.height * grid.width, grid.frames),), padded_length=grid.frames)


def rows_of_tokens(moves: np.ndarray, grid: TokenGrid, patch_time: int) -> np.ndarray | None:
    """For each token which of two rows it takes, (B, N, 2) float32: 1, 0 where a frame moves, 0, 1 where none does.

    moves: (B, T) booleans of latent frames, of which a token spans patch_time, the last ones perhaps fewer. None, where
    all move: there is nothing to choose.
    """
    if moves.all():
        return None
    padding = grid.frames * patch_time - moves.shape[1]
    of_patches = np.pad(moves.astype(bool), ((0, 0), (0, padding))).reshape(-1, grid.frames, patch_time).any(2)
    of_tokens = np.repeat(of_patches, grid.height * grid.width, axis=1)
    return np.stack([of_tokens, ~of_tokens], -1).astype(np.float32)
