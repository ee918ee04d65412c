"""The autoencoder without weights, built from a core.models.raw_pixels.RawPixelsSpec: latents are the pixels."""

from __future__ import annotations

from collections.abc import Mapping

from mindspore import Tensor, nn

from duosora.core.models.raw_pixels import RawPixelsSpec

from ..attention import Attend
from ..layers import to_float32
from ..posteriors import Encoded, Reconstruction
from ..streaming import Stream


def create(spec: RawPixelsSpec, attend: Attend) -> RawPixels:
    """The model of a spec."""
    return RawPixels(spec)


class RawPixels(nn.Cell):
    """The autoencoder. Latents here are pixels in [-1, 1]; scale is core.pipelines.autoencode's."""

    def __init__(self, spec: RawPixelsSpec) -> None:
        super().__init__()
        self.spec = spec

    def encode(self, video: Tensor, noise: Mapping[str, Tensor] | None = None, stream: Stream | None = None) -> Encoded:
        """Pixels (B, 3, T, H, W) in [-1, 1] -> the same; nothing is drawn."""
        return Encoded(to_float32(video), {})

    def decode(self, latents: Tensor, num_frames: int | None = None, stream: Stream | None = None) -> Tensor:
        """Latents (B, 3, T, H, W) -> the same, not clamped."""
        return to_float32(latents)

    def reconstruct(
        self,
        video: Tensor,
        noise: Mapping[str, Tensor],
        makes_pixels: bool = True,
        wanted: frozenset[str] = frozenset(),
    ) -> Reconstruction:
        """Pixels (B, 3, T, H, W) in [-1, 1] as they are."""
        pixels = to_float32(video)
        return Reconstruction(pixels, pixels, {}, {}, lambda: pixels)

    def stream(self) -> Stream:
        """The state for one clip in chunks: they need nothing of each other."""
        return Stream()
