"""What a network was trained to predict, and how data and noise are read off its prediction.

The state is z = alpha * x_0 + sigma * noise with alpha^2 + sigma^2 = 1; the network predicts the noise (`epsilon`),
alpha * noise - sigma * x_0 (`v_prediction`, Salimans and Ho 2022, arXiv:2202.00512) or x_0 itself (`sample`). Each is
a weighted sum of the others and the state, so the functions here give two weights per timestep: (of the state, of the
prediction). `flow` (noise - x_0 on a straight line) belongs to the flow samplers only.
"""

from __future__ import annotations

import numpy as np

from ..errors import ConfigError

DIFFUSION_OBJECTIVES = ("epsilon", "v_prediction", "sample")


def signal_rate(sigmas: np.ndarray) -> np.ndarray:
    """alpha of a noise-to-signal ratio: 1 / sqrt(1 + sigma^2)."""
    return 1.0 / np.sqrt(1.0 + sigmas**2)


def clean_weights(objective: str, alpha: np.ndarray, sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights of (state, prediction) that give x_0; all float64 of one shape.

    Raises: ConfigError when noise was predicted for a state that holds no data (alpha = 0).
    """
    if objective == "v_prediction":
        return alpha, -sigma
    if objective == "sample":
        return np.zeros_like(alpha), np.ones_like(alpha)
    if np.any(alpha == 0):
        raise ConfigError(
            "sampler.objective = 'epsilon': predicted noise tells nothing about the data where a zero-terminal-SNR run "
            "starts, in noise only; set sampler.spacing to 'leading', take an Euler sampler or a v_prediction model"
        )
    return 1.0 / alpha, -sigma / alpha


def noise_weights(objective: str, alpha: np.ndarray, sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights of (state, prediction) that give the noise; all float64 of one shape."""
    if objective == "v_prediction":
        return sigma, alpha
    if objective == "sample":
        return 1.0 / sigma, -alpha / sigma
    return np.zeros_like(alpha), np.ones_like(alpha)
