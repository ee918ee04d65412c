"""Training steps of a plain script: torch's AdamW as it comes, clipping, an average of the weights tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Trainer:
    """A model, its optimiser and its average."""

    def __init__(self, model: nn.Module, lr: float, eps: float = 1e-15, weight_decay: float = 0.01) -> None:
        """A parameter that holds a constant filter, by its name, is not trained."""
        self.model = model.train()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("wavelet_transform" not in name)
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=lr, eps=eps, weight_decay=weight_decay)
        self.average = [parameter.detach().clone() for parameter in self.parameters]

    def step(self, loss_of: Callable[[Any], Tensor], ema_decay: float) -> float:
        """A step down a loss of the model; the loss before it."""
        loss = loss_of(self.model)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            for mean, parameter in zip(self.average, self.parameters, strict=True):
                mean.sub_((1.0 - ema_decay) * (mean - parameter))
        return loss.item()


def diffusion_loss(
    model: Any, latents: Tensor, noise: Tensor, alpha: Tensor, timesteps: Tensor, text: Tensor, text_mask: Tensor
) -> Tensor:
    """The mean squared error of v-predictions. alpha (B,): how much of the latents is left, in power."""
    signal, spread = (alpha**0.5)[:, None, None, None, None], ((1 - alpha) ** 0.5)[:, None, None, None, None]
    noised = signal * latents + spread * noise
    prediction = model(noised, timesteps, text, text_mask)
    return functional.mse_loss(prediction.float(), signal * noise - spread * latents)


def autoencoder_loss(model: Any, video: Tensor, noise: Tensor, kl_weight: float = 1e-6) -> Tensor:
    """The absolute error of pixels by clip and frame, and the KL divergence of the latents by clip."""
    pixels, mean, log_variance, _, _ = model.reconstruct(video, noise)
    batch, _, frames, _, _ = video.shape
    error = (pixels - video).abs().sum() / (batch * frames)
    kl = 0.5 * (mean**2 + log_variance.exp() - 1.0 - log_variance).sum() / batch
    return error + kl_weight * kl
