"""A video from a prompt, and two more from the models that are loaded already.

python examples/text_to_video.py [FOLDER]
"""

import sys
from pathlib import Path

import duosora


def main(folder: Path) -> None:
    # Another recipe, such as "opensora_plan_v1_3", looks for its published files in the folder `models`.
    pipe = duosora.load("tiny", models="models")

    video = pipe("a small blue ring moves up on a pink background", seed=42)
    print(video, video.frames.shape)  # (T, H, W, 3) uint8
    video.save(folder / "ring.mp4", overwrite=True)  # and ring.json, whose "config" makes it again

    # Several prompts give a list. Settings have the names of `duosora settings`, or their last part.
    prompts = ["a big green bar moves left over black", "a red circle moves right over white"]
    for number, video in enumerate(pipe(prompts, seed=7, steps=10, settings={"sampler.guidance": 3.0})):
        video.save(folder / f"{number}.mp4", overwrite=True)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/examples"))
