"""Decodes clips of many lengths with all ranks together; rank 0 prints how far each is from one rank's whole clip, and
whether it is that of one rank in the same chunks bit for bit, as JSON."""

import json
import sys
from typing import Any

import numpy as np

from duosora.core import backend as backends
from duosora.core import random
from duosora.core.backend import Backend, Model
from duosora.core.layout import FreshWeights
from duosora.core.maths.tiling import Chunk, relayed_chunks
from duosora.core.models.wfvae import WFVAESpec
from duosora.core.parallel.launched import launched
from duosora.core.parallel.plan import make_plan
from duosora.core.pipelines.autoencode import DecodeOptions, SpatialTiles, decode_chunks

OPTIONS = {
    "whole": DecodeOptions(),
    "chunks of 2": DecodeOptions(chunk=2),
    "tiles": DecodeOptions(chunk=2, tiles=SpatialTiles(3, 1)),
}


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
}


def in_chunks(backend: Backend, vae: Model, latents: np.ndarray, rounds: list[list[Chunk]]) -> np.ndarray | None:
    """The clip on one rank, in the chunks that several ranks take side by side; None where they do not."""
    chunks = [chunk for row in rounds for chunk in row if chunk.start < chunk.stop]
    stream, frames = vae.stream(), []
    for chunk in chunks:
        stream.advance(chunk is chunks[-1])
        with backend.inference():
            part = backend.asarray(latents[:, :, chunk.start : chunk.stop])
            frames.append(backend.to_numpy(vae.decode(part, stream)))
    return np.concatenate(frames, 2) if frames else None


def main() -> None:
    backend = backends.get(sys.argv[1], "cpu")
    world = launched().world
    ranks = backend.connect(make_plan(world, sequence=world))
    differences, exact = {}, {}
    for kind, frames in json.loads(sys.argv[2]):
        spec = SPECS[kind]
        vae = backend.build(spec, FreshWeights(spec.layout(), seed=1))
        latents = random.normal((1, spec.latent_dim, frames, 4, 5), 1, "latents", frames)
        for name, options in OPTIONS.items():
            if not spec.streams_exactly and options.chunk:
                continue
            alone = DecodeOptions(tiles=options.tiles)
            one, many = (
                np.concatenate(list(decode_chunks(backend, vae, spec, latents, how, team)), 2)
                for how, team in ((alone, None), (options, ranks.team))
            )
            assert one.shape == many.shape, (one.shape, many.shape)
            differences[f"{kind} {frames} {name}"] = float(np.abs(one - many).max() / np.ptp(one))
            if not options.tiles and spec.streams_exactly:
                same = in_chunks(backend, vae, latents, relayed_chunks(frames, options.chunk, world))
                exact[f"{kind} {frames} {name}"] = same is None or bool((same == many).all())
    print(json.dumps({"differences": differences, "exact": exact, "sent": ranks.team.bytes_sent}))


if __name__ == "__main__":
    main()
