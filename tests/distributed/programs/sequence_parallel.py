"""Network calls whose tokens all ranks share, against the same calls by a rank alone; prints what came out as JSON.

Of OpenSoraT2V, and of STDiT3, whose blocks attend within frames and through them.

For each case: the largest difference in parts of the range, what the rank sent, and what it should have sent.
"""

import json
import sys
from dataclasses import replace

import numpy as np
from safetensors.numpy import load, save

from duosora.core.layout import Constant, FreshWeights, GivenWeights
from duosora.core.models.opensora_t2v import OpenSoraT2VSpec
from duosora.core.models.stdit3 import STDiT3Spec
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


def frames_spec(heads: int) -> STDiT3Spec:
    """Two pairs of blocks."""
    return STDiT3Spec(
        hidden_size=8 * heads, depth=2, num_heads=heads, in_channels=2, caption_channels=8, model_max_length=TEXT_LENGTH
    )


def weights(of: OpenSoraT2VSpec | STDiT3Spec) -> GivenWeights:
    """Fresh ones whose output is not zero."""
    fresh, layout = FreshWeights(of.layout(), 0), of.layout()
    drawn = {
        name: fresh[name] + (0 if isinstance(layout[name].init, Constant) else 0.1) * normal(fresh.shape(name), 1, name)
        for name in fresh
    }
    return GivenWeights(drawn, "awake")


def cases(of: OpenSoraT2VSpec | STDiT3Spec) -> list[tuple[LatentShape, int, bool]]:
    """Latent shapes, batch sizes, and whether there are masks; odd counts of tokens, and fewer than ranks."""
    if isinstance(of, STDiT3Spec):
        shapes = [LatentShape(3, 5, 9), LatentShape(5, 3, 3), LatentShape(1, 2, 2), LatentShape(4, 2, 6)]
        return [(shape, 1 + i % 2, masked) for i, shape in enumerate(shapes) for masked in (False, True)]
    clips = [(LatentShape(frames, 2, 6), 1 + i % 2, i % 4 > 1) for i, frames in enumerate(FRAMES)]
    images = [(LatentShape(1, 2, 2), 2, False), (LatentShape(1, 6, 10), 1, True)]
    return clips + images


def predict(
    backend: Backend, of: OpenSoraT2VSpec | STDiT3Spec, model: Model, shape: LatentShape, batch: int, masked: bool
) -> np.ndarray:
    text_mask = np.ones((batch, TEXT_LENGTH), np.float32)
    text_mask[-1, 2:] = 0
    text = normal((batch, TEXT_LENGTH, 8), 3, "text")
    latents, timesteps = normal((batch, 2, *shape), 3, "latents"), np.linspace(900, 100, batch)
    given = Given(text=text, text_mask=text_mask if masked else None)
    with backend.inference():
        condition = model.condition(_with_masks(of, given, shape, batch, masked), shape)
        out = model(backend.asarray(latents), backend.asarray(timesteps.astype(np.float32)), condition)
        return backend.to_numpy(out)


def _with_masks(of: OpenSoraT2VSpec | STDiT3Spec, given: Given, shape: LatentShape, batch: int, masked: bool) -> Given:
    """What a family reads beside text; of STDiT3 the first clip's first frame is clean."""
    if isinstance(of, STDiT3Spec):
        moves = np.ones((batch, shape.frames), bool)
        moves[0, 0] = False
        sizes = {name: np.full(1, value) for name, value in (("fps", 24.0), ("height", 64.0), ("width", 96.0))}
        return replace(given, frame_mask=moves if masked else None, **sizes)
    mask = np.ones((batch, *shape), np.float32)
    mask[0, :, :, shape.width // 2 :] = 0
    return replace(given, latent_mask=mask if masked else None)


def alone(backend: Backend, of: OpenSoraT2VSpec | STDiT3Spec, group: Group) -> list[np.ndarray]:
    """What one process predicts of every case; each rank computes some of them."""
    mine = cases(of)[group.index :: group.size]
    model = backend.build(of, weights(of))
    held = save({str(number): predict(backend, of, model, *case) for number, case in enumerate(mine)})
    parts = [load(part) for part in group.share(held)]
    return [parts[number % group.size][str(number // group.size)] for number in range(len(cases(of)))]


def compare(backend: Backend, of: OpenSoraT2VSpec | STDiT3Spec, group: Group) -> list[dict[str, object]]:
    together, costs = backend.build(of, weights(of), sequence=group), of.costs()
    found = []
    for (shape, batch, masked), expected in zip(cases(of), alone(backend, of, group), strict=True):
        sent = -group.bytes_sent
        result = predict(backend, of, together, shape, batch, masked)
        sent += group.bytes_sent
        tokens, size = of.grid(shape).num_tokens, group.size
        formula = costs.layers * attention_bytes(batch, tokens, costs.heads, costs.head_dim, 4, size)
        formula += prediction_bytes(batch, tokens, costs.outputs, 4, size)
        error = float(np.abs(result - expected).max() / np.ptp(expected))
        name = f"{of.family}, {costs.heads} heads, {batch} x {tuple(shape)}{' masked' if masked else ''}"
        found.append({"case": name, "error": error, "sent": sent, "formula": formula})
    return found


def main() -> None:
    backend = get(sys.argv[1], "cpu")
    world = launched().world
    ranks = backend.connect(make_plan(world, sequence=world))
    specs = (make(heads) for heads in HEADS for make in (spec, frames_spec))
    found = [line for of in specs for line in compare(backend, of, ranks.sequence)]
    print("found", json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
