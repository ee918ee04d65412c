"""Training steps by hand: a clip and its caption to latents and states, then the optimiser.

`duosora train` does this with files, many clips and checkpoints.

python examples/training_step.py
"""

import numpy as np

import duosora
from duosora.core import random
from duosora.core.data import moving_shapes
from duosora.core.maths.pixels import from_uint8
from duosora.core.seam.models import Given
from duosora.core.seam.training import DiffusionBatch, TrainOptions
from duosora.core.train.objectives import FlowObjective

STEPS = 3


def main() -> None:
    models = duosora.load("tiny").models
    scene = moving_shapes.training_scenes()[0]
    draw = random.stream(1, "a scene")
    clip, caption = moving_shapes.render(scene, draw), moving_shapes.caption(scene, draw)  # (T, H, W, 3) uint8

    pixels = np.moveaxis(from_uint8(clip), -1, 0)  # (3, T, H, W) in [-1, 1]
    latents = models.encoder(seed=1)(pixels, "latents")[None]  # scaled, as the denoiser sees them
    given = Given(**models.encode([caption]).given([caption]))

    part = models.parts.denoiser
    trainer = models.backend.train_denoiser(part.spec, part.open(), TrainOptions())
    for step in range(STEPS):
        # The objective draws a time and says what the network sees and is to predict at it.
        drawn = FlowObjective().draw(seed=1, samples=[step], step=step)
        noise = random.normal(latents.shape, 1, "noise", step)
        batch = DiffusionBatch(latents=latents, noise=noise, given=given, **drawn._asdict())
        report = trainer.step([batch], lr=1e-5, ema_decay=0.999)
        print(f"step {step}: loss {report.loss:.4f}, gradient norm {report.grad_norm:.3f}")


if __name__ == "__main__":
    main()
