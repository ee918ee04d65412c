"""Denoisers compiled block by block; what makes code of the graphs is left out, as it takes long."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo

from duosora.core.layout import FreshWeights
from duosora.core.models import opensora_t2v, stdit3
from duosora.core.random import normal
from duosora.core.seam import backend as backends
from duosora.core.seam.models import Given
from duosora.core.shapes import LatentShape

FULL = replace(opensora_t2v.TINY, num_layers=6, sparse1d=False)
SKIPARSE = replace(opensora_t2v.TINY, num_layers=8, sparse1d=True)
LATENT = LatentShape(3, 8, 8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "kinds"),
    [
        (FULL, 1),
        (SKIPARSE, 3),  # full, "single" and "group"
        (replace(stdit3.TINY, depth=3), 2),  # within frames and through them
    ],
    ids=["full", "skiparse", "stdit3"],
)
def test_blocks_of_a_kind_share_one_graph_without_breaks(
    spec: Any, kinds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = []

    def counted(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counted, fullgraph=True))
    backend, weights = backends.get("torch", "cpu"), FreshWeights(spec.layout(), 0)
    given = Given(
        text=normal((1, 5, spec.text_channels), 0, "text"),
        fps=np.array([24.0]),
        height=np.array([64.0]),
        width=np.array([64.0]),
    )
    latents = backend.asarray(normal((1, spec.in_channels, *LATENT), 0, "latents"))
    results = []
    for compiles in (False, True):
        model = backend.build(spec, weights, compile=compiles)
        with backend.inference():
            condition = model.condition(given, LATENT)
            results.append(model(latents, backend.asarray(np.array([500.0], np.float32)), condition))
    assert len(graphs) == kinds
    torch.testing.assert_close(*results, rtol=0, atol=2e-6 * float(results[0].abs().max()))
