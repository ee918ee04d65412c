"""Family `wfvae`: the wavelet video autoencoder, its Haar transforms and its wrapper, against recorded numbers.

Tags are found by pattern (`t17.x`, `s0.x`), so cases of other lengths and sizes run as well. Models that stream exactly
are also run in chunks and compared with the same tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ...layout import Layout
from ...maths import gaussian
from ...maths.haar import BANDS_2D, BANDS_3D, taps_2d, taps_3d
from ...maths.pixels import from_unit, to_unit
from ...models.wfvae import WFVAESpec
from ...pipelines.autoencode import DecodeOptions, decode_chunks, encode_chunks, scale_latents, unscale_latents
from ...seam.backend import Backend
from ...seam.models import Array, Model
from ...shapes import NUM_COLOURS
from ..case import Case, Comparison, check_options

CLIP_TAG = re.compile(r"(?P<tag>.+)\.x")
COEFFICIENTS = {
    "enc_l1_coeffs": "encoder.wavelet_transform_l1",
    "enc_l2_coeffs": "encoder.wavelet_transform_l2",
    "dec_l1_coeffs": "decoder.connect_l1",
    "dec_l2_coeffs": "decoder.connect_l2",
}
L2_SYNTHESIS = "decoder.inverse_wavelet_transform_l2"
TILING_OPTIONS = ("t_chunk_enc", "t_chunk_dec", "enc_chunks", "dec_chunks", "results")
SMALLEST_CHUNK = 1


def run(case: Case, backend: Backend) -> Iterator[Comparison]:
    """Compute every output tensor of a case of this family.

    Raises: ConfigError for a config that is not implemented; CheckpointError for weights that fail their check.
    """
    if any(name.endswith(".haar3d") for name in case.tensors):
        yield from _run_haar(case, backend)
        return
    spec = WFVAESpec.from_config(case.config, case.name)
    check_options(case.raw.get("tiling", {}), f"{case.name}, tiling", TILING_OPTIONS)
    vae = backend.build(spec, case.weights())
    if "pixels01" in case.tensors:
        yield from _run_wrapper(case, backend, vae, spec)
    for tag in _clip_tags(case):
        if "tiling" in case.raw:
            yield from _run_tiling(case, tag, backend, vae, spec)
        else:
            yield from _run_clip(case, tag, backend, vae, spec)


def layout(manifest: Mapping[str, Any]) -> Layout:
    """Of a full-size model; one without a config is upstream's class with its defaults."""
    return WFVAESpec.from_config(manifest["config"] or {}).layout()


def _run_clip(case: Case, tag: str, backend: Backend, vae: Model, spec: WFVAESpec) -> Iterator[Comparison]:
    with backend.record(vae, [*COEFFICIENTS.values(), L2_SYNTHESIS]) as recorded:
        moments = encode_chunks(backend, vae, spec, case.get(tag, "x"))
        decoded = _decode(backend, vae, spec, case.get(tag, "z"))
    yield Comparison(f"{tag}.moments", moments)
    yield Comparison(f"{tag}.mode", gaussian.split_moments(moments)[0])
    yield Comparison(f"{tag}.decoded", decoded)
    for name, module in COEFFICIENTS.items():
        if f"{tag}.{name}" in case.tensors:
            coefficients = backend.to_numpy(recorded[module])
            if name == "dec_l1_coeffs":
                coefficients[:, :NUM_COLOURS] += backend.to_numpy(recorded[L2_SYNTHESIS])
            yield Comparison(f"{tag}.{name}", coefficients)
    if spec.streams_exactly:
        note = f"streamed, chunk {SMALLEST_CHUNK}"
        yield Comparison(f"{tag}.moments", encode_chunks(backend, vae, spec, case.get(tag, "x"), SMALLEST_CHUNK), note)
        streamed = _decode(backend, vae, spec, case.get(tag, "z"), chunk=SMALLEST_CHUNK)
        yield Comparison(f"{tag}.decoded", streamed, note)


def _run_tiling(case: Case, tag: str, backend: Backend, vae: Model, spec: WFVAESpec) -> Iterator[Comparison]:
    """One piece, exact streaming and upstream's tiling, the last where it ran at all."""
    video, latents = case.get(tag, "x"), case.get(tag, "z")
    chunk_in = case.raw["tiling"]["t_chunk_enc"] // spec.compression.time
    chunk_out = case.raw["tiling"]["t_chunk_dec"]
    results = case.raw["tiling"]["results"].get(tag, {})
    yield Comparison(f"{tag}.untiled.moments", encode_chunks(backend, vae, spec, video))
    yield Comparison(f"{tag}.untiled.decoded", _decode(backend, vae, spec, latents))
    if spec.streams_exactly:
        streamed = encode_chunks(backend, vae, spec, video, chunk_in)
        yield Comparison(f"{tag}.untiled.moments", streamed, f"streamed, chunk {chunk_in}")
        streamed = _decode(backend, vae, spec, latents, chunk=chunk_out)
        yield Comparison(f"{tag}.untiled.decoded", streamed, f"streamed, chunk {chunk_out}")
    if results.get("moments", {}).get("ok"):
        tiled = encode_chunks(backend, vae, spec, video, chunk_in, upstream_tiling=True)
        yield Comparison(_tiled_name(case, tag, "moments"), tiled, f"upstream's tiling, chunk {chunk_in}")
    if results.get("decoded", {}).get("ok"):
        tiled = _decode(backend, vae, spec, latents, chunk=chunk_out, upstream_tiling=True)
        yield Comparison(_tiled_name(case, tag, "decoded"), tiled, f"upstream's tiling, chunk {chunk_out}")


def _tiled_name(case: Case, tag: str, name: str) -> str:
    """The tensor that tiling is compared with: results have one of their own where they differ from untiled ones."""
    tiled = f"{tag}.tiled.{name}"
    return tiled if tiled in case.tensors else f"{tag}.untiled.{name}"


def _run_wrapper(case: Case, backend: Backend, vae: Model, spec: WFVAESpec) -> Iterator[Comparison]:
    video = from_unit(case.tensors["pixels01"])
    yield Comparison("x", video)
    moments = encode_chunks(backend, vae, spec, video)
    noise = case.tensors["noise"]
    yield Comparison("latents", scale_latents(spec, gaussian.sample(moments, noise)))
    yield Comparison("kl", gaussian.kl(moments))
    yield Comparison("nll_of_noise", gaussian.negative_log_likelihood(moments, noise))
    yield Comparison("std", gaussian.standard_deviation(moments))
    decoded = _decode(backend, vae, spec, unscale_latents(spec, case.tensors["z"])).transpose(0, 2, 1, 3, 4)
    yield Comparison("decoded_btchw", decoded)
    yield Comparison("denorm", to_unit(decoded))


def _run_haar(case: Case, backend: Backend) -> Iterator[Comparison]:
    def apply(module: str, x: Array) -> Array:
        return backend.function(f"wfvae.{module}")(x)

    for tag in _clip_tags(case):
        x = backend.asarray(case.get(tag, "x"))
        with backend.inference():
            bands_3d, bands_2d = apply("HaarWaveletTransform3D", x), apply("HaarWaveletTransform2D", x)
            inverse_3d = apply("InverseHaarWaveletTransform3D", bands_3d)
            inverse_2d = apply("InverseHaarWaveletTransform2D", bands_2d)
        yield Comparison(f"{tag}.haar3d", backend.to_numpy(bands_3d))
        yield Comparison(f"{tag}.haar3d_inv", backend.to_numpy(inverse_3d))
        yield Comparison(f"{tag}.haar2d", backend.to_numpy(bands_2d))
        yield Comparison(f"{tag}.haar2d_inv", backend.to_numpy(inverse_2d))
    yield from (Comparison(name, taps[None, None]) for name, taps in _taps().items() if name in case.tensors)


def _taps() -> dict[str, np.ndarray]:
    taps = {f"taps.haar3d.{band.name}_conv.conv.weight": taps_3d(band) for band in BANDS_3D}
    taps |= {f"taps.inv3d.{band.name}": taps_3d(band) for band in BANDS_3D}
    for direction in ("haar2d", "inv2d"):
        taps |= {f"taps.{direction}.{band.name}": taps_2d(band) for band in BANDS_2D}
    return taps


def _clip_tags(case: Case) -> list[str]:
    matches = (CLIP_TAG.fullmatch(name) for name in case.tensors)
    return [match["tag"] for match in matches if match]


def _decode(
    backend: Backend,
    vae: Model,
    spec: WFVAESpec,
    latents: np.ndarray,
    chunk: int | None = None,
    upstream_tiling: bool = False,
) -> np.ndarray:
    options = DecodeOptions(chunk=chunk, upstream_tiling=upstream_tiling)
    return np.concatenate(list(decode_chunks(backend, vae, spec, latents, options)), axis=2)
