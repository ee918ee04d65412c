"""Network calls whose tokens all ranks share, against the same calls by a rank alone; prints what came out as JSON.

For each case: the largest difference in parts of the range, what the rank sent, and what it should have sent.
"""

import json
import sys

import numpy as np
from safetensors.numpy import load, save

from duosora.core.layout import FreshWeights, GivenWeights
from duosora.core.models.opensora_t2v import OpenSoraT2VSpec
from duosora.core.parallel.counting import attention_bytes, prediction_bytes
from duosora.core.parallel.launched import launched
from duosora.core.random import normal
from duosora.core.seam.backend import Backend, get
from duosora.core.seam.group import Group
from duosora.core.seam.models import Given, Model
from duosora.core.seam.ranks import make_plan
from duosora.core.shapes import LatentShape

FRAMES = (1, 5, 13, 29, 45, 61, 77, 93)
HEADS = (4, 3)
TEXT_LENGTH = 5


def spec(heads: int) -> OpenSoraT2VSpec:
    """Two layers of full attention and one of either skiparse kind."""
    return OpenSoraT2VSpec(
        num_layers=4,
        num_attention_heads=heads,
        attention_head_dim=6,
        in_channels=2,
        out_channels=2,
        caption_channels=8,
        sparse_n=2,
    )


def weights(of: OpenSoraT2VSpec) -> GivenWeights:
    """Fresh ones whose output is not zero."""
    fresh = FreshWeights(of.layout(), 0)
    return GivenWeights({name: fresh[name] + 0.1 * normal(fresh.shape(name), 1, name) for name in fresh}, "awake")


def cases() -> list[tuple[LatentShape, int, bool]]:
    """Latent shapes, batch sizes, and whether there are masks; odd counts of tokens, and fewer than ranks."""
    clips = [(LatentShape(frames, 2, 6), 1 + i % 2, i % 4 > 1) for i, frames in enumerate(FRAMES)]
    images = [(LatentShape(1, 2, 2), 2, False), (LatentShape(1, 6, 10), 1, True)]
    return clips + images


def predict(backend: Backend, model: Model, shape: LatentShape, batch: int, masked: bool) -> np.ndarray:
    mask = np.ones((batch, *shape), np.float32)
    mask[0, :, :, shape.width // 2 :] = 0
    text_mask = np.ones((batch, TEXT_LENGTH), np.float32)
    text_mask[-1, 2:] = 0
    text = normal((batch, TEXT_LENGTH, 8), 3, "text")
    latents, timesteps = normal((batch, 2, *shape), 3, "latents"), np.linspace(900, 100, batch)
    with backend.inference():
        given = Given(text=text, text_mask=text_mask if masked else None, latent_mask=mask if masked else None)
        condition = model.condition(given, shape)
        out = model(backend.asarray(latents), backend.asarray(timesteps.astype(np.float32)), condition)
        return backend.to_numpy(out)


def alone(backend: Backend, group: Group, heads: int) -> list[np.ndarray]:
    """What one process predicts of every case; each rank computes some of them."""
    of, mine = spec(heads), cases()[group.index :: group.size]
    model = backend.build(of, weights(of))
    held = save({str(number): predict(backend, model, *case) for number, case in enumerate(mine)})
    parts = [load(part) for part in group.share(held)]
    return [parts[number % group.size][str(number // group.size)] for number in range(len(cases()))]


def compare(backend: Backend, group: Group, heads: int) -> list[dict[str, object]]:
    of = spec(heads)
    together = backend.build(of, weights(of), sequence=group)
    found = []
    for (shape, batch, masked), expected in zip(cases(), alone(backend, group, heads), strict=True):
        sent = -group.bytes_sent
        result = predict(backend, together, shape, batch, masked)
        sent += group.bytes_sent
        tokens, size = of.patch.tokens(shape).num_tokens, group.size
        formula = of.num_layers * attention_bytes(batch, tokens, heads, of.attention_head_dim, 4, size)
        formula += prediction_bytes(batch, tokens, of.patch_size**2 * of.out_channels, 4, size)
        error = float(np.abs(result - expected).max() / np.ptp(expected))
        name = f"{heads} heads, {batch} x {tuple(shape)}{' masked' if masked else ''}"
        found.append({"case": name, "error": error, "sent": sent, "formula": formula})
    return found


def main() -> None:
    backend = get(sys.argv[1], "cpu")
    world = launched().world
    ranks = backend.connect(make_plan(world, sequence=world))
    found = [line for heads in HEADS for line in compare(backend, ranks.sequence, heads)]
    print("found", json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
