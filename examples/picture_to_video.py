"""A video that begins with a picture.

The tiny model for pictures comes untrained, so here the video is noise behind the first frame. With the published files
load("models/any93x640x640_i2v") in its place makes a real one.

python examples/picture_to_video.py [FOLDER]
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

import duosora


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    picture = np.full((64, 64, 3), (250, 200, 210), np.uint8)
    y, x = np.mgrid[:64, :64] - 32
    picture[x**2 + y**2 < 12**2] = (30, 60, 200)
    Image.fromarray(picture).save(folder / "circle.png")

    pipe = duosora.load("tiny_inpaint")
    # condition.images, .indices and .mask_type say which frames are given: here one picture, so the first frame.
    prompt = "a small blue circle moves up on a pink background"
    video = pipe(prompt, images=[folder / "circle.png"], frames=9, steps=5)
    video.save(folder / "from_picture.mp4", overwrite=True)
    given = np.abs(video.frames[0].astype(int) - picture).mean()
    print(f"{len(video.frames)} frames; the first differs from the picture by {given:.0f} of 255 levels")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/examples"))
