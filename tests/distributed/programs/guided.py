"""Sampling with guidance on ranks that share the tokens, the halves of guidance, or both, against one rank alone.

Of STDiT3: batches of 1 and 2, texts of unequal lengths under the learned null caption, frames that start late or never,
odd counts of tokens. BACKEND CFG; prints for each case the largest difference of the latents, in parts of their range.
"""

import json
import sys
from functools import partial
from itertools import product

import numpy as np
from safetensors.numpy import load, save

from duosora.core.layout import Constant, FreshWeights, GivenWeights
from duosora.core.models.stdit3 import STDiT3Spec
from duosora.core.parallel.launched import launched
from duosora.core.pipelines.denoise import Guidance, denoise
from duosora.core.random import normal
from duosora.core.samplers import create
from duosora.core.seam.backend import Backend, get
from duosora.core.seam.group import Alone, Group
from duosora.core.seam.models import Given, Model
from duosora.core.seam.ranks import make_plan
from duosora.core.shapes import LatentShape, VideoShape

LENGTHS = (5, 2)
"""Of the texts; at most 6 tokens."""
SPEC = STDiT3Spec(hidden_size=24, depth=2, num_heads=3, in_channels=2, caption_channels=8, model_max_length=6)
"""Heads that neither two nor four ranks divide."""
ODD, PICTURE, FEW = LatentShape(3, 5, 9), LatentShape(1, 2, 6), LatentShape(2, 1, 1)
"""15 tokens in each of 3 frames, 3 in one, and fewer than ranks."""
GUIDANCE, STEPS = Guidance(3.0), 2
CASES = [*product([ODD], (1, 2), (False, True)), (PICTURE, 1, False), (FEW, 2, True)]
"""Shapes, batches, and whether frames are given."""


def weights() -> GivenWeights:
    """Fresh ones of which nothing is zero."""
    layout = SPEC.layout()
    fresh = FreshWeights(layout, 0)
    moved = {name: 0 if isinstance(layout[name].init, Constant) else 0.1 for name in fresh}
    return GivenWeights({name: fresh[name] + moved[name] * normal(fresh.shape(name), 1, name) for name in fresh}, "")


def given(batch: int, halves: Group) -> Given:
    """For both halves of guidance, the null captions first, or this rank's."""
    text, mask = normal((batch, 5, 8), 3, "text"), np.zeros((batch, 5), np.int64)
    for row, length in enumerate(LENGTHS[:batch]):
        mask[row, :length] = 1
    texts, masks, is_null = np.tile(text, (2, 1, 1)), np.tile(mask, (2, 1)), np.repeat([True, False], batch)
    own = slice(None) if halves.size == 1 else slice(halves.index * batch, (halves.index + 1) * batch)
    facts = {name: np.full(batch, value, np.float32) for name, value in (("fps", 24), ("height", 64), ("width", 96))}
    return Given(text=texts[own], text_mask=masks[own], is_null=is_null[own], **facts)


def sampled(backend: Backend, model: Model, halves: Group, shape: LatentShape, batch: int, masked: bool) -> np.ndarray:
    strength = np.ones((batch, shape.frames), np.float32)
    strength[0, 0], strength[-1, -1] = 0.0, 0.6
    with backend.inference():
        return denoise(
            backend,
            model,
            model.condition(given(batch, halves), shape),
            normal((batch, 2, *shape), 3, "latents"),
            create("rflow", STEPS, size=VideoShape(51, 64, 96)),
            GUIDANCE,
            noise=partial(normal, (batch, 2, *shape), 3, "noise"),
            halves=halves,
            strength=strength if masked else None,
        )


def alone(backend: Backend, world: Group) -> list[np.ndarray]:
    """What one process makes of every case; each rank makes some of them."""
    model, mine = backend.build(SPEC, weights()), CASES[world.index :: world.size]
    held = save({str(number): sampled(backend, model, Alone(), *case) for number, case in enumerate(mine)})
    parts = [load(part) for part in world.share(held)]
    return [parts[number % world.size][str(number // world.size)] for number in range(len(CASES))]


def main() -> None:
    backend, has_cfg = get(sys.argv[1], "cpu"), sys.argv[2] == "cfg"
    world = launched().world
    ranks = backend.connect(make_plan(world, world // 2 if has_cfg else world, has_cfg))
    model, found = backend.build(SPEC, weights(), sequence=ranks.sequence), {}
    for case, expected in zip(CASES, alone(backend, ranks.world), strict=True):
        made = sampled(backend, model, ranks.cfg, *case)
        found[str(case)] = float(np.abs(made - expected).max() / np.ptp(expected))
    print("found", json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
