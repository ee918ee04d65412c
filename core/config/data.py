"""The group `data` of a training run: where clips come from, how they are cut, grouped and described.

Defaults are the published practice of Open-Sora Plan v1.3 where it is right; `upstream` holds its habits that are not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from .schema import Count, Positive, Reader
from .settings import Settings

Weight = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class ImageMaskWeights(Settings):
    """How often a picture is given or hidden, in proportion to each other; all zero: equally often."""

    t2iv: Weight = 0.0
    """Hidden: made from the text alone."""
    clear: Weight = 0.0
    """Given as it is."""


class VideoMaskWeights(Settings):
    """How often each kind of frames is given, in proportion to each other; all zero: equally often."""

    t2iv: Weight = 1.0
    """None: made from the text alone."""
    i2v: Weight = 8.0
    """The first."""
    transition: Weight = 8.0
    """First and last."""
    continuation: Weight = 2.0
    """The first few."""
    clear: Weight = 0.0
    """All."""
    random_temporal: Weight = 1.0
    """A few anywhere."""


class MaskSettings(Settings):
    """Which frames an inpaint model is given."""

    video: VideoMaskWeights = VideoMaskWeights()
    image: ImageMaskWeights = ImageMaskWeights()
    min_clear: Share = 0.0
    """Of a video's frames, given at least by `continuation` and `random_temporal`."""
    max_clear: Share = 1.0
    """Of a video's frames, given at most by them."""
    default_text: Share = 0.5
    """Of the captions that are dropped, replaced by a general sentence instead of nothing."""


class StrideSettings(Settings):
    """Clips for an autoencoder: whole videos, without captions, frames taken at a stride from anywhere."""

    sample_rate: Count = 2
    """Every so many-th frame."""
    dynamic_sample: bool = False
    """Draw the stride anew for each clip, from 1 to `sample_rate`."""
    random_window: bool = False
    """Cut height x width pixels out of each clip, anywhere, instead of resizing the whole of it: more different
    content for the same work."""


class UpstreamHabits(Settings):
    """Habits of Open-Sora Plan v1.3 that are not right, for whoever needs its data exactly. docs/data.md explains."""

    always_29_frames: bool = False
    """Videos of fewer than 29 frames are dropped even where `frames` is smaller (quirk Q34)."""
    speed_up_unplanned: bool = False
    """`speed_factor` counts when a clip is read, and not when its length is planned (quirk Q35)."""
    last_start_unused: bool = False
    """The crop in time never starts at the last place where it would fit (quirk Q36)."""
    captions_as_lists: bool = False
    """Captions are cleaned as the text of a list that holds them (quirk Q15)."""
    size_before_crop: bool = False
    """Sizes are planned from the annotation's height and width also where it names a crop."""
    mixed_groups: bool = False
    """The rest of a bucket shares its mega-batch with the next bucket; of mixed batches the minority is replaced."""


class DataSettings(Settings):
    """Clips, pictures and their captions."""

    kind: Literal["files", "moving_shapes"] = "files"
    """moving_shapes: drawn by the project itself, for the tiny model; of this group then only batches, captions and
    workers count, and for an autoencoder frames, height and width."""
    drawn_clips: Count | None = None
    """moving_shapes: so many clips, the same in every epoch, whose latents can be cached; nothing: new ones in every
    epoch."""
    files: tuple[Path, ...] = ()
    """Annotations: upstream's .txt lists, .json, .jsonl, .ndjson, .csv, .tsv, .parquet; or folders, whose videos
    have no captions."""
    root: Path | None = None
    """Folder that the paths in annotations start from; nothing: that of the annotation. Lines of a .txt bring their
    own."""
    probe: bool = False
    """Open files whose annotation lacks size, rate or number of frames, and read them there."""
    frames: Count = 93
    """1 + a multiple of the autoencoder's temporal factor; longer videos are cut at random, shorter ones to the
    nearest number that fits."""
    min_frames: Count = 29
    """Videos of fewer frames after resampling are dropped; where `frames` is smaller, that counts."""
    fps: Positive = 18.0
    """Videos are resampled to so many frames per second."""
    drop_short: Share = 1.0
    """Of the videos shorter than `frames`, dropped: 1 all, 0 none."""
    speed_factor: Annotated[float, Field(ge=1)] = 1.0
    """Videos longer than `frames` are sped up by up to so much."""
    height: Count | None = None
    """Pixels. With height and width alone every clip is cut to their proportions and resized to them."""
    width: Count | None = None
    """Pixels."""
    max_area: Count | None = None
    """Clips keep their proportions: they are shrunk to so many pixels and cut to multiples of `stride`. Height and
    width are then the largest sides, which ungrouped batches are padded to."""
    min_area: Count | None = None
    """Smaller clips are dropped; nothing: a quarter of max_area."""
    stride: Count = 32
    """Pixels; both sides are multiples of it."""
    autoencoder: StrideSettings | None = None
    """Clips for a WFVAE instead of a denoiser; needs height and width."""
    grouped: bool = True
    """Batches of one size each. Off: any clips together, padded to `frames`, height and width, with a mask."""
    mega_batch: Count | None = None
    """So many neighbouring micro-batches of a step have one size; it must divide accumulate. Nothing: all of a step,
    so that batch_size x accumulate alone decides which clips a step has."""
    min_bucket_batches: Annotated[int, Field(ge=0)] = 4
    """Sizes with fewer clips than so many batches of the whole run are dropped."""
    clean_captions: bool = True
    """Take web addresses, file names, odd signs and the like out of captions, and write them in lower case."""
    keep_chinese: bool = True
    """Leave Chinese in cleaned captions; mT5 reads it."""
    aesthetic_sentences: bool = True
    """Add a sentence to the captions of very well and very badly rated clips."""
    caption_dropout: Share = 0.1
    """Of the captions, replaced by nothing, which guidance needs."""
    masks: MaskSettings | None = None
    """Inpaint models: the frames they are given. Frames are then resized in whole levels, as upstream does there."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Processes that read. 0 reads inside the training process, without protection from files that hang or crash."""
    timeout_seconds: Positive = 60.0
    """A clip that takes longer to read is replaced, and its process ended."""
    prefetch: Count = 2
    """Micro-batches read ahead."""
    reader: Reader = "pyav"
    """The library that reads videos; decord needs the package decord2."""
    upstream: UpstreamHabits = UpstreamHabits()
