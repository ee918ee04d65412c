"""How pictures of ImageNet are made square for diffusion models: ADM's crop, which DiT and SiT train on.

Source: Dhariwal and Nichol 2021, arXiv:2105.05233, image_datasets.py of guided-diffusion.
"""

from __future__ import annotations

import numpy as np
from PIL import Image


def square_crop(picture: np.ndarray, size: int) -> np.ndarray:
    """The middle of a picture (H, W, 3) uint8 as a square (size, size, 3); smaller pictures are made larger.

    It is halved by a box filter while its shorter side is at least twice the size, then resized bicubically so that the
    shorter side is the size. Left and top lose the smaller half of what is odd.
    """
    image = Image.fromarray(picture)
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image)[top : top + size, left : left + size]
