"""The group `data` of a training run: where clips come from, how they are cut, grouped and described.

Lengths and rates are left to recipes; `upstream` holds the habits of Open-Sora Plan v1.3 that are not right.
"""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from .buckets import BucketRow
from .media import MediaSettings
from .schema import Count, Positive, Reader
from .settings import Settings, by_recipe

Weight = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
ShapeColour = Literal["red", "green", "blue", "yellow", "purple", "orange", "cyan", "teal"]


class ImageMaskWeights(Settings):
    """Relative frequency of each mask for pictures. All zero: equal frequency."""

    t2iv: Weight = 0.0
    """Nothing is given; the picture is made from the text alone."""
    clear: Weight = 0.0
    """The whole picture is given."""


class VideoMaskWeights(Settings):
    """Relative frequency of each mask for videos. All zero: equal frequency."""

    t2iv: Weight = 1.0
    """No frame is given; the video is made from the text alone."""
    i2v: Weight = 8.0
    """The first frame is given."""
    transition: Weight = 8.0
    """The first and the last frame are given."""
    continuation: Weight = 2.0
    """The first few frames are given."""
    clear: Weight = 0.0
    """All frames are given."""
    random_temporal: Weight = 1.0
    """A few random frames are given."""


class MaskSettings(Settings):
    """The frames that an inpaint model gets in training."""

    video: VideoMaskWeights = VideoMaskWeights()
    image: ImageMaskWeights = ImageMaskWeights()
    min_clear: Share = 0.0
    """Smallest share of a video's frames that `continuation` and `random_temporal` give."""
    max_clear: Share = 1.0
    """Largest share of a video's frames that they give."""
    default_text: Share = 0.5
    """Share of the dropped captions that become a general sentence instead of an empty text."""


class StrideSettings(Settings):
    """Clips for an autoencoder: from videos without captions, at a frame stride, from a random start."""

    sample_rate: Count = 2
    """Take every n-th frame."""
    dynamic_sample: bool = False
    """Draw the stride of each clip from 1 to `sample_rate`."""
    random_window: bool = False
    """Crop a random window of height x width pixels instead of resizing the whole frame. It shows more varied content
    for the same work."""
    by_shorter_side: bool = False
    """Resize before cropping, not after it: the shorter side to height = width, then cut the middle of the longer one,
    which is rounded up, as VideoGPT does."""


class UpstreamHabits(Settings):
    """Faults of Open-Sora Plan v1.3's data pipeline, for runs that must reproduce it exactly. docs/data.md explains
    them."""

    always_29_frames: bool = False
    """Drop videos of fewer than 29 frames even if `frames` is smaller (quirk Q34)."""
    speed_up_unplanned: bool = False
    """Apply `speed_factor` when a clip is read but not when its length is planned (quirk Q35)."""
    last_start_unused: bool = False
    """Never start a temporal crop at the last possible frame (quirk Q36)."""
    captions_as_lists: bool = False
    """Clean captions as the printed form of a list that holds them (quirk Q15)."""
    size_before_crop: bool = False
    """Plan sizes from the annotation's height and width even if it names a crop."""
    mixed_groups: bool = False
    """Let the rest of a bucket share its mega-batch with the next bucket, and replace the minority of mixed batches."""


class DataSettings(Settings):
    """Clips, pictures and their captions."""

    choice = "buckets"

    kind: Literal["files", "moving_shapes", "class_folders", "features"] = "files"
    """moving_shapes draws the clips of the tiny model's world. It uses only the settings for batches, captions and
    workers, and frames, height and width where less of a clip is wanted. class_folders: `files` is a folder with a
    folder of pictures for each class. features: `files` is a cache of their latents, or Mini Sora's two folders of
    .npy."""
    drawn_clips: Count | None = None
    """moving_shapes: draw this many clips and repeat them every epoch, so that their latents can be cached. Default:
    new clips every epoch."""
    scores: bool = False
    """moving_shapes: clips differ in frame rate, motion and sharpness of the outline, and captions end with scores of
    the last two, as those of Open-Sora 1.2 do."""
    colours: tuple[ShapeColour, ...] = ()
    """moving_shapes: colours of the shapes; one that stands there twice is seen twice as often. The tiny
    models were trained on all but cyan and teal. Default: all but these."""
    files: tuple[Path, ...] = ()
    """Annotations (upstream's .txt lists, .json, .jsonl, .ndjson, .csv, .tsv, .parquet), or folders, whose videos have
    no captions."""
    root: Path | None = None
    """Folder that paths in annotations are relative to. Default: the annotation's folder. Lines of a .txt list name
    their own."""
    probe: bool = False
    """Open files whose annotation lacks size, frame rate or number of frames, and read them there."""
    buckets: dict[str, BucketRow] | None = None
    """Open-Sora 1.1 and 1.2: `{240p: {1: [0.3, 297], 51: [0.4, 20], 102: [[0.4, 0.33], 10]}}` gives for each resolution
    of the recipe and each number of frames [keep, batch size] or [[keep, consider], batch size]. Each epoch assigns
    every clip by its size and length, and by chance; docs/data.md says how. They take the place of `batch_size` and of
    all settings of sizes, lengths and rates."""
    frame_interval: Count = 1
    """buckets: take every n-th frame of a video."""
    drop_last: bool = True
    """buckets: leave out the clips of a bucket that fill no whole batch, others in each epoch. Off: repeat some of them
    to fill it."""
    frames: Count = by_recipe()
    """A number that the autoencoder takes, for most 1 + a multiple of their temporal factor. Longer videos are cropped
    at a random start, shorter ones to the nearest length that fits."""
    min_frames: Count = by_recipe()
    """Drop videos of fewer frames after resampling; never more than `frames`."""
    fps: Positive = by_recipe()
    """Resample videos to this frame rate."""
    tells_file_rate: bool | None = by_recipe()
    """Tell the model the frame rate of the file, not that of the frames that are taken. null: false."""
    drop_short: Share = 1.0
    """Share of the videos shorter than `frames` that is dropped: 1 all, 0 none."""
    speed_factor: Annotated[float, Field(ge=1)] = 1.0
    """Speed up videos longer than `frames` by at most this factor."""
    flip: bool = False
    """class_folders, and caches of them: turn half of the pictures left to right, others in each epoch. A latent cache
    then holds both."""
    height: Count | None = None
    """Pixels. With height and width, but no max_area, every clip is cropped to their aspect ratio and resized to
    them."""
    width: Count | None = None
    """Pixels; see height."""
    max_area: Count | None = None
    """Keep aspect ratios: scale clips down to at most this many pixels and crop them to multiples of `stride`. Height
    and width then limit the sides, and batches that are not grouped are padded to them."""
    min_area: Count | None = None
    """Drop clips of fewer pixels. Default: a quarter of max_area."""
    stride: Count = 32
    """Both sides are multiples of this many pixels."""
    autoencoder: StrideSettings | None = None
    """Read clips for a WFVAE instead of a denoiser; needs height and width."""
    grouped: bool = True
    """All clips of a batch have the same size. Off: any clips share a batch, padded to `frames`, height and width, with
    a mask."""
    mega_batch: Count | None = None
    """Number of neighbouring micro-batches of one size; it must divide `accumulate`. Default: all of a step, so that
    batch_size * accumulate alone decides which clips a step has."""
    min_bucket_batches: Annotated[int, Field(ge=0)] = 4
    """Drop sizes that have clips for fewer batches than this, counted over the whole run."""
    clean_captions: bool = by_recipe()
    """Remove web addresses, file names and odd characters from captions, and write them in lower case."""
    keep_chinese: bool = True
    """Keep Chinese characters when captions are cleaned; mT5 reads them."""
    aesthetic_sentences: bool = by_recipe()
    """Add a sentence to the captions of clips with a very high or a very low aesthetic score."""
    caption_dropout: Share = 0.1
    """Share of the captions replaced by an empty text, or of the labels by the model's null class, which
    classifier-free guidance needs."""
    masks: MaskSettings | None = None
    """Inpaint models: the frames that they get. Frames are then resized in 8-bit steps, as upstream does there."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Processes that read clips. 0 reads in the training process, which a file that hangs or crashes then stops."""
    timeout_seconds: Positive = 60.0
    """Replace a clip that takes longer to read, and end its process."""
    prefetch: Count = 2
    """Micro-batches to read ahead."""
    reader: Reader = "pyav"
    """The library that reads videos. decord needs the extra `decord`."""
    media: MediaSettings = MediaSettings()
    upstream: UpstreamHabits = UpstreamHabits()

    @classmethod
    def unused(cls, chosen: Any) -> Set[str]:
        """What a run with buckets has no use for."""
        return {
            *(
                "drawn_clips",
                "frames",
                "min_frames",
                "fps",
                "drop_short",
                "speed_factor",
                "height",
                "width",
                "max_area",
            ),
            *("min_area", "stride", "autoencoder", "grouped", "mega_batch", "min_bucket_batches", "masks"),
        }
