"""A sampler of one's own: Euler steps over the denoiser, with guidance, written out.

It runs on both backends: tensors are added, multiplied and sliced, and the backend does the rest.

python examples/own_sampler_loop.py [FOLDER]
"""

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np

import duosora
from duosora.core.io.video import write_video
from duosora.core.maths.pixels import to_uint8
from duosora.core.seam.models import Given
from duosora.core.shapes import VideoShape

PROMPT, SIZE, STEPS, GUIDANCE, SHIFT = "a red circle moves right over white", VideoShape(17, 64, 64), 25, 4.0, 3.0


def main(folder: Path) -> None:
    models = duosora.load("tiny").models
    backend, denoiser = models.backend, models.model("denoiser")
    texts = models.encode(["", PROMPT]).given(["", PROMPT])

    times = np.linspace(1.0, 0.0, STEPS + 1)  # 1: noise, 0: a video
    times = SHIFT * times / (1.0 + (SHIFT - 1.0) * times)  # more steps where there is much noise
    with backend.inference():
        # What does not change from step to step is computed once.
        condition = denoiser.condition(Given(**texts), models.sizes(SIZE).latent)
        x = backend.asarray(models.noise(SIZE, seed=42)[None])  # (1, C, T, H, W)
        for now, then in pairwise(times):
            told = backend.asarray(np.full(2, 1000 * now, np.float32))
            without, with_prompt = denoiser(backend.concat([x, x], 0), told, condition)  # velocity: noise - video
            velocity = without + GUIDANCE * (with_prompt - without)
            x = x + float(then - now) * velocity[None]
    frames = np.concatenate([to_uint8(chunk)[0] for chunk in models.decode(backend.to_numpy(x), SIZE.frames)])
    write_video(folder / "own_loop.mp4", frames, fps=8.0, overwrite=True)
    print(f"{len(frames)} frames in {folder / 'own_loop.mp4'}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/examples"))
