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


Graphs = list[Any]


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Graphs:
    """Those that are made from here on; where there is a break, torch.compile raises."""
    made: Graphs = []

    def counted(graph: Any, inputs: Any) -> Any:
        made.append(graph)
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counted, fullgraph=True))
    return made


def predicted(spec: Any, latent: LatentShape, *models: Any) -> list[torch.Tensor]:
    """What models predict of some latents."""
    backend = backends.get("torch", "cpu")
    given = Given(
        text=normal((1, 5, spec.text_channels), 0, "text"),
        fps=np.array([24.0]),
        height=np.array([64.0]),
        width=np.array([64.0]),
    )
    latents = backend.asarray(normal((1, spec.in_channels, *latent), 0, "latents"))
    times = backend.asarray(np.array([500.0], np.float32))
    with backend.inference():
        return [model(latents, times, model.condition(given, latent)) for model in models]


def built(spec: Any, **options: Any) -> Any:
    return backends.get("torch", "cpu").build(spec, FreshWeights(spec.layout(), 0), **options)


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
def test_blocks_of_a_kind_share_one_graph_without_breaks(spec: Any, kinds: int, graphs: Graphs) -> None:
    expected, found = predicted(spec, LATENT, built(spec), built(spec, compile=True))
    assert len(graphs) == kinds
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6 * float(expected.abs().max()))


@pytest.mark.slow
def test_a_model_of_three_kinds_of_blocks_is_compiled_for_more_than_two_sizes(graphs: Graphs) -> None:
    model = built(SKIPARSE, compile=True)
    for frames in range(1, 5):
        predicted(SKIPARSE, LatentShape(frames, 8, 8), model)
        assert len(graphs) == 3 * frames
