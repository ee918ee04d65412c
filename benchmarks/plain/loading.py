"""A plain form with the weights of a layout, by their names."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def load(form: type[Model], spec: Any, weights: Any, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Model:
    """The form of a spec, ready for inference. weights: numpy arrays under the names of the spec's layout, all used."""
    with torch.device("meta"):
        model = form(spec)
    state = {name: torch.from_numpy(np.array(weights[name])).to(device, dtype) for name in weights}
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval().requires_grad_(False)
