"""Decodes clips of many lengths with all ranks together: BACKEND [[KIND, FRAMES, OPTIONS] ...].

Each rank takes some of the clips to compare with one rank's whole clip, and with one rank's same chunks bit for bit;
rank 0 prints what all have found as JSON. Autoencoders that work in groups encode them together too.
"""

import json
import sys
from typing import Any

import numpy as np

from duosora.core import random
from duosora.core.layout import FreshWeights
from duosora.core.maths.tiling import Chunk, relayed_chunks
from duosora.core.models.opensora_vae import PRESETS
from duosora.core.models.wfvae import WFVAESpec
from duosora.core.parallel.launched import launched
from duosora.core.pipelines.autoencode import DecodeOptions, decode_chunks, encode_latents, posterior_noise
from duosora.core.pipelines.tiled import SpatialTiles
from duosora.core.seam import backend as backends
from duosora.core.seam.backend import Backend
from duosora.core.seam.group import Group
from duosora.core.seam.models import Model
from duosora.core.seam.ranks import make_plan
from duosora.core.shapes import LatentShape

GROUPS = PRESETS["opensora_vae_tiny"]
OPTIONS = {
    "whole": DecodeOptions(),
    "chunks of 2": DecodeOptions(chunk=2),
    "tiles": DecodeOptions(chunk=2, tiles=SpatialTiles(3, 1)),
}
SIZE = (4, 3)
"""Of the latents: two tiles."""


def small(width: int = 4, norm_type: str = "layernorm", **options: Any) -> WFVAESpec:
    """An autoencoder with little in it."""
    return WFVAESpec(
        base_channels=width,
        encoder_energy_flow_hidden_size=width,
        decoder_energy_flow_hidden_size=width,
        encoder_num_resblocks=1,
        decoder_num_resblocks=1,
        norm_type=norm_type,
        **options,
    )


SPECS = {
    "linear": small(t_interpolation="trilinear"),
    "nearest": small(),
    "8x8x8": small(t_interpolation="trilinear", temporal_level_1=True),
    "groupnorm": small(32, "groupnorm"),
    "groups": GROUPS,
}


def in_chunks(backend: Backend, vae: Model, latents: np.ndarray, rounds: list[list[Chunk]]) -> np.ndarray | None:
    """The clip on one rank, in the chunks that several ranks take side by side; None where they do not."""
    chunks = [chunk for row in rounds for chunk in row if chunk.start < chunk.stop]
    stream, frames = vae.stream(), []
    for chunk in chunks:
        stream.advance(chunk is chunks[-1])
        with backend.inference():
            part = backend.asarray(latents[:, :, chunk.start : chunk.stop])
            frames.append(backend.to_numpy(vae.decode(part, stream=stream)))
    return np.concatenate(frames, 2) if frames else None


class Clip:
    """One to decode in several ways."""

    def __init__(self, backend: Backend, team: Group, kind: str, frames: int) -> None:
        self.backend, self.team, self.frames, self.spec = backend, team, frames, SPECS[kind]
        self.vae = backend.build(self.spec, FreshWeights(self.spec.layout(), seed=1))
        self.latents = random.normal((1, self.spec.latent_channels, frames, *SIZE), 1, "latents", frames)

    def decoded(self, options: DecodeOptions, team: Group | None = None) -> np.ndarray:
        return np.concatenate(list(decode_chunks(self.backend, self.vae, self.spec, self.latents, options, team)), 2)

    def encoded(self, team: Group | None = None) -> np.ndarray:
        """The latents of a clip, drawn; one frame less than its latents stand for."""
        longest = self.spec.compression.video(LatentShape(self.frames, *SIZE))
        video = longest._replace(frames=longest.frames - 1)
        noise = {name: values[None] for name, values in posterior_noise(self.spec, video, 1).items()}
        pixels = random.normal((1, 3, *video), 1, "pixels")
        return encode_latents(self.backend, self.vae, self.spec, pixels, noise, team=team)

    def compare(self, many: dict[str, np.ndarray]) -> tuple[dict[str, float], dict[str, bool]]:
        """Of what all ranks have decoded by the name of the options: how far it is from one rank's, and whether it is
        the same where one rank takes the same chunks."""
        differences, exact = {}, {}
        ones = {tiles: self.decoded(DecodeOptions(tiles=tiles)) for tiles in {OPTIONS[name].tiles for name in many}}
        for name, video in many.items():
            options = OPTIONS[name]
            one = ones[options.tiles]
            assert one.shape == video.shape, (one.shape, video.shape)
            differences[name] = float(np.abs(one - video).max() / np.ptp(one))
            if self.spec is GROUPS:
                exact[name] = bool((one == video).all())
            elif not options.tiles and self.spec.streams_exactly:
                chunks = relayed_chunks(self.frames, options.chunk, self.team.size)
                same = in_chunks(self.backend, self.vae, self.latents, chunks)
                exact[name] = same is None or bool((same == video).all())
        return differences, exact


def main() -> None:
    backend = backends.get(sys.argv[1], "cpu")
    world = launched().world
    team = backend.connect(make_plan(world, sequence=world)).team
    told = []
    for number, (kind, frames, names) in enumerate(json.loads(sys.argv[2])):
        clip = Clip(backend, team, kind, frames)
        many = {name: clip.decoded(OPTIONS[name], team) for name in names}
        encoded = clip.encoded(team) if kind == "groups" else None
        if number % world == team.index:
            differences, exact = clip.compare(many)
            exact |= {} if encoded is None else {"encoded": bool((clip.encoded() == encoded).all())}
            told.append([f"{kind} {frames}", differences, exact])
    found = [clip for each in team.share(json.dumps(told).encode()) for clip in json.loads(each)]
    if team.index == 0:
        differences, exact = (
            {f"{clip[0]} {name}": value for clip in found for name, value in clip[which].items()} for which in (1, 2)
        )
        print("found", json.dumps({"differences": differences, "exact": exact, "sent": team.bytes_sent}))


if __name__ == "__main__":
    main()
