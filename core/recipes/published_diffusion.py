"""What recipes share whose models are sampled and trained by the diffusion of DiT: its own, and Open-Sora's up to 1.1.

Source: sample.py and train.py of facebookresearch DiT; arXiv:2212.09748.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SAMPLING: Mapping[str, Any] = {
    "sampler.name": "iddpm",
    "sampler.objective": "epsilon",
    "sampler.schedule": "linear",
    "sampler.zero_terminal_snr": False,
}
"""Settings of `duosora sample`."""
TRAINING: Mapping[str, Any] = {
    "data.clean_captions": False,
    "data.aesthetic_sentences": False,
    "objective.kind": "epsilon",
    "objective.schedule": "linear",
    "objective.zero_terminal_snr": False,
    "objective.bound": "hybrid",
    "objective.timesteps.kind": "uniform",
    "autoencoder.pair_weights": {},
    "optimizer.eps": 1e-8,
    "optimizer.weight_decay": 0.0,
    "ema.decay": 0.9999,
    "ema.warms_up": False,
}
"""Those of `duosora train`."""
