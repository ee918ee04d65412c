"""The sampling loop of a plain script: guidance in one batch, ancestral Euler steps on v-predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def sample(
    model: Any,
    latents: Tensor,
    text: Tensor,
    text_mask: Tensor,
    timesteps: Sequence[float],
    sigmas: Sequence[float],
    guidance_scale: float,
    draw: Callable[[int], Tensor],
) -> Tensor:
    """From unit noise (B, C, T, H, W) to latents. text (2B, L, channels): the negative ones first.

    timesteps: one for each step; sigmas: one more, down to 0. draw: unit noise of step i.
    """
    device = latents.device
    times = torch.tensor(timesteps, dtype=torch.float32, device=device)
    sigma_table = torch.tensor(sigmas, dtype=torch.float32, device=device)
    latents = latents * sigma_table[0]
    for i, time in enumerate(times):
        sigma, sigma_to = sigma_table[i], sigma_table[i + 1]
        model_input = torch.cat([latents] * 2) / (sigma**2 + 1) ** 0.5
        output = model(model_input.to(text.dtype), time.expand(model_input.shape[0]), text, text_mask).float()
        if torch.isnan(output).any():
            raise ValueError(f"step {i}: the prediction holds NaN")
        negative, positive = output.chunk(2)
        output = negative + guidance_scale * (positive - negative)
        clean = output * (-sigma / (sigma**2 + 1) ** 0.5) + latents / (sigma**2 + 1)
        sigma_up = (sigma_to**2 * (sigma**2 - sigma_to**2) / sigma**2) ** 0.5
        sigma_down = (sigma_to**2 - sigma_up**2) ** 0.5
        derivative = (latents - clean) / sigma
        latents = latents + derivative * (sigma_down - sigma)
        latents = latents + draw(i).to(device) * sigma_up
    return latents
