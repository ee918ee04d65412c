"""What the rest of the house asks the spec of a model: questions of its kind, never of its family.

A family is an architecture. Its name is the name of its file here, in both backends and in convert/names, and those
find it by that name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

from ..layout import Layout
from ..maths.tiling import Chunk
from ..shapes import Compression, LatentShape, Patch, TokenGrid, VideoShape
from .work import Work

Kind = Literal["denoiser", "text_encoder", "vae"]
"""The part that a model has in a pipeline."""
Output = Literal["mean", "mean_and_spare", "mean_and_range"]
"""What a denoiser predicts: the mean alone; beside it channels that are cut off; or a learned variance, for samplers
that ask for it."""
DIGITS = 6
"""Behind the point, of numbers that were measured and are written into config.json."""
Share = Literal["clips", "frames", "like_pixels", "squares"]
"""Clips, or all of their frames; or they are compared as pixels are; or by the mean of their squared differences."""
GIVEN = (
    *("text", "is_null", "pooled", "label", "fps", "height", "width", "num_frames", "ratio"),
    *("latent_mask", "frame_mask", "kept", "channels"),
)
"""What a denoiser can read beside latents and timestep. label: the number of a class, of which its spec has
`num_classes`; is_null: which texts its learned null caption stands in for, or which classes its null class;
latent_mask: which latents are no padding; frame_mask: which frames are to be denoised; kept: which parts of its blocks
training leaves out, by shares that its spec has as `drop_rates`; channels: further ones beside those of the latents."""


class Spec(Protocol):
    """What a backend builds: a frozen dataclass."""

    family: ClassVar[str]

    def layout(self) -> Layout:
        """Every weight, under its published name."""


class FamilySpec(Spec, Protocol):
    """The spec of a model that is kept in a folder of its own."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any], source: str = "config.json") -> Any:
        """Read its config.json. Raises: ConfigError for unknown keys and for impossible values."""

    def to_config(self) -> dict[str, Any]:
        """Its config.json."""

    def facts(self) -> list[str]:
        """What `duosora inspect` says of it."""


class Costs(NamedTuple):
    """The sizes of a transformer that its memory and its traffic follow from."""

    layers: int
    """With an attention among the tokens."""
    width: int
    """Of the tokens."""
    heads: int
    outputs: int
    """Numbers that are predicted for each token."""

    @property
    def head_dim(self) -> int:
        return self.width // self.heads


class DenoiserSpec(FamilySpec, Protocol):
    """A network that predicts what is noise in latents."""

    @property
    def latent_channels(self) -> int: ...

    @property
    def further_channels(self) -> int:
        """Channels that it sees beside those of the latents, 0 without "channels" in `given`."""

    @property
    def text_channels(self) -> int:
        """Width of the text states that it reads, 0 without "text" in `given`."""

    @property
    def pooled_channels(self) -> int:
        """Width of the vector of a text that it reads, 0 without "pooled" in `given`."""

    @property
    def most_tokens(self) -> int | None:
        """Of a text that it reads; None: any number."""

    @property
    def given(self) -> frozenset[str]:
        """Which of GIVEN it reads; all else is refused."""

    @property
    def num_classes(self) -> int:
        """Of those whose numbers it reads; only with "label" in `given`."""

    @property
    def output(self) -> Output: ...

    @property
    def patch(self) -> Patch:
        """Latents of a token; clips of several sizes are padded to whole ones in a batch."""

    @property
    def lists_patches(self) -> bool:
        """Whether clips of several sizes are lists of their patches in a batch, each a frame of its own, padded to the
        longest: such a model is told the same by a clip and by its list."""

    def grid(self, latent: LatentShape) -> TokenGrid:
        """The tokens of latents. Raises: ShapeError for a size that the family neither takes nor pads."""

    def blocks(self) -> tuple[str, ...]:
        """Names of its blocks in their order: what is computed again, split and compared."""

    def costs(self) -> Costs: ...

    def work(self, latent: LatentShape, batch: int, text: int) -> Work:
        """Of a call for so many clips, with so many tokens of text each."""


class AutoencoderSpec(FamilySpec, Protocol):
    """Pixels to latents and back. Latents are scaled for a denoiser as (latents - shift) * scale."""

    @property
    def latent_channels(self) -> int: ...

    @property
    def compression(self) -> Compression: ...

    @property
    def scale(self) -> tuple[float, ...]:
        """By channel."""

    @property
    def shift(self) -> tuple[float, ...]: ...

    def calibrated(self, mean: Sequence[float], deviation: Sequence[float]) -> Any:
        """The spec whose scaled latents have mean 0 and deviation 1 where its latents have these, by channel."""

    @property
    def posteriors(self) -> tuple[str, ...]:
        """What `encode` draws, in its order; the latents are drawn from the last."""

    def noise_shapes(self, video: VideoShape) -> dict[str, tuple[int, ...]]:
        """Shapes (C, T, H, W) of the unit noise that they are drawn with. Raises: as `compression.latent`."""

    @property
    def streams_exactly(self) -> bool:
        """Whether a stream of chunks of any length, in turn or on several ranks, gives the numbers of one piece."""

    def chunks(self, latent_frames: int, wanted: int | None) -> list[Chunk]:
        """The pieces in which a clip is decoded. wanted: latent frames of each at most; None: one piece, if it can be.

        Where it does not stream exactly, they know nothing of each other, and clips are encoded in the same.
        Raises: ConfigError when the family cannot work in such pieces.
        """

    def pixel_chunks(self, wanted: int) -> Iterator[int]:
        """How many frames are encoded together, without end. wanted and Raises: as `chunks`."""

    def encoding(self, latent: LatentShape, batch: int) -> Work:
        """Of the encoder for so many clips that have such latents."""

    def decoding(self, latent: LatentShape, batch: int, behind: bool = False) -> Work:
        """Of the decoder, likewise. behind: the latents are a chunk behind others of a stream."""

    def blocks(self) -> Mapping[str, tuple[str, ...]]:
        """Names of its blocks in their order, by half: "encoder" and "decoder"."""

    @property
    def pairs(self) -> Mapping[str, Share]:
        """Names of what training can compare beside pixels, and what sums of their differences are divided by."""

    @property
    def num_codes(self) -> int | None:
        """Of its code book, which training moves along with the latents that choose them; None: it has no such book."""

    @property
    def last_layer(self) -> str:
        """Name of the weight at which the adversarial loss is weighed against that of the pixels."""

    def unreached(self, pixels: bool, pairs: frozenset[str]) -> tuple[str, ...]:
        """Beginnings of the names of weights that no loss reaches. pixels: whether these are compared."""


class TextEncoderSpec(FamilySpec, Protocol):
    """Token ids to states."""

    @property
    def channels(self) -> int:
        """Of each token's state, or of the one vector of a text."""

    @property
    def pooled(self) -> bool:
        """Whether a text gives one vector."""

    @property
    def most_tokens(self) -> int | None:
        """Of a text that it takes; None: any number."""

    @property
    def token_table(self) -> str:
        """Name of the weight with a row for each token, of which a text needs few."""

    def blocks(self) -> tuple[str, ...]:
        """Names of its blocks in their order."""

    def work(self, batch: int, tokens: int) -> Work:
        """Of a call for so many texts of so many tokens."""


def has_signal(spec: DenoiserSpec) -> bool:
    """Whether models of a spec say what their first block reads (`signal`), as its `has_signal` says; a family need
    not."""
    return bool(getattr(spec, "has_signal", False))


def tokens_read(denoiser: DenoiserSpec, encoder: TextEncoderSpec, max_tokens: int) -> int:
    """How many tokens of a text are encoded. max_tokens: of the settings."""
    return min(each for each in (max_tokens, denoiser.most_tokens, encoder.most_tokens) if each is not None)


@dataclass(frozen=True)
class Family:
    """An architecture: how it is recognised and which presets it has."""

    kind: Kind
    title: str
    class_names: tuple[str, ...]
    """`_class_name` or `architectures` of its config.json."""
    telling_keys: tuple[str, ...]
    """Keys that only its config.json has, for configs without a class name."""
    spec: type[Any]
    """A FamilySpec of the kind."""
    presets: Mapping[str, Any]
    """Specs by names that no other family of the kind has."""
    from_shapes: Callable[[Mapping[str, tuple[int, ...]], str], Any] | None = None
    """Reads the spec from the shapes of weights, where they tell enough; it is given what errors call the file, and
    gives None for weights that are none of the family's. None: the family's shapes do not tell."""
    untold: tuple[str, ...] = ()
    """Fields of its spec that say what weights mean, and change neither their names nor their shapes."""

    @property
    def name(self) -> str:
        return self.spec.family
