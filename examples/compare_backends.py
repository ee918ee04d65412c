"""One prompt and one seed on both backends; it needs PyTorch and MindSpore.

python examples/compare_backends.py
"""

import numpy as np

import duosora
from duosora.core.seam.backend import available

PROMPT = "a small blue ring moves up on a pink background"


def main() -> None:
    if set(available()) != {"torch", "mindspore"}:
        print(f"installed: {', '.join(available())}; this program compares torch with mindspore")
        return
    # Noise comes from numpy by the seed alone, so both start from the same.
    first, second = (duosora.load("tiny", backend=name, device="cpu")(PROMPT, seed=42, steps=5) for name in available())
    apart = np.abs(first.latents - second.latents).max() / np.ptp(first.latents)
    levels = np.abs(first.frames.astype(int) - second.frames).max()
    print(f"latents differ by {apart:.1e} of their range, pixels by {levels} of 255 levels")


if __name__ == "__main__":
    main()
