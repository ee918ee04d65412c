"""Family `vqvae`: VideoGPT's VQ-VAE: codes and pixels, its code book, its training, and how clips are cut for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ...layout import FreshWeights, GivenWeights, Layout, Weight, Zeros
from ...maths import codebook
from ...maths.cover import centre_video_rounded_up
from ...models.vqvae import VQVAESpec
from ...seam.backend import Backend
from ...seam.models import Model
from ...seam.training import AdamW, AutoencoderBatch, AutoencoderLosses, TrainOptions
from ..case import Case, Comparison, check_options
from ..forms import manifest_shapes

GRADIENTS = True
MODEL = ("embedding_dim", "n_codes", "n_hiddens", "n_res_layers", "downsample")
TRAINING = ("model", "lr", "betas", "steps", "vectors", "codes")
COMMITMENT, VARIANCE = 0.25, 0.06
"""The weight of the commitment, and what the squared errors of pixels are divided by."""
EPS = 1e-8
"""Of the original's Adam."""


def run(case: Case, backend: Backend) -> Iterator[Comparison]:
    """Compute every result of a case of this family. Raises: ConfigError for options that no runner follows."""
    config = case.config
    if "model" in config:
        check_options(config, case.name, TRAINING)
        yield from _trained(case, backend)
    elif "downsample" in config:
        yield from _coded(case, backend)
    elif "n_codes" in config:
        check_options(config, case.name, MODEL)
        yield from _books(case, backend)
    else:
        yield from _cut(case)


def layout(manifest: Mapping[str, Any]) -> Layout:
    """Of a full-size model. Counters of norms are in files, and not in ours."""
    shapes = manifest_shapes(manifest)
    codes, width = shapes["codebook.embeddings"]
    num_convs, num_layers = (
        len({name.split(".")[2] for name in shapes if name.startswith(start)})
        for start in ("encoder.convs.", "encoder.res_stack.")
    )
    hidden = shapes["encoder.conv_last.conv.weight"][0]
    ours = VQVAESpec(
        embedding_dim=width,
        n_codes=codes,
        n_hiddens=hidden,
        n_res_layers=num_layers - 1,
        downsample=(2**num_convs,) * 3,  # which strides make it so is not in the shapes
    ).layout()
    return replace(ours, weights={**ours.weights, **{name: Weight((), Zeros()) for name in ours.ignores}})


def _spec(config: Mapping[str, Any], source: str) -> VQVAESpec:
    check_options(config, source, MODEL)
    return VQVAESpec(**{**config, "downsample": tuple(config["downsample"])})


def _coded(case: Case, backend: Backend) -> Iterator[Comparison]:
    spec, weights, tensors = _spec(case.config, case.name), case.weights(), case.tensors
    vae, x = backend.build(spec, weights), tensors["x"]

    def pixels(latents: np.ndarray) -> np.ndarray:
        return 0.5 * backend.to_numpy(vae.decode(backend.asarray(latents)))

    with backend.inference():
        video = backend.asarray(2 * x)
        codes, z = (backend.to_numpy(each) for each in (vae.codes(video), vae.latents(video, False)))
        embeddings = backend.to_numpy(vae.encode(video).latents)
        results = {
            "codes": codes,
            "hidden": backend.to_numpy(vae.encoder(backend.asarray(x), False)),
            "z": z,
            "embeddings": embeddings,
            "decoded": 0.5 * backend.to_numpy(vae.decode_codes(backend.asarray(codes))),
            "decoded_from_z": pixels(z),
            "recon_loss": _mean_square(pixels(embeddings), x) / VARIANCE,
        }
    yield from (Comparison(name, values) for name, values in results.items())
    yield from _losses("", spec.n_codes, z, codes, embeddings)
    order = tensors["update.permutation"]
    draws = codebook.Restarts(order, tensors.get("update.tile", np.zeros((len(order), spec.embedding_dim), np.float32)))
    yield from _book("update.", _updated(_held(weights), z, codes, draws))


def _books(case: Case, backend: Backend) -> Iterator[Comparison]:
    """Code books that begin with a batch, which is looked up in them at once."""
    for tag in case.tags():
        z, orders, noises = (case.get(tag, name) for name in ("z", "perm", "tile"))
        begins, restarts = (codebook.Restarts(*each) for each in zip(orders, noises, strict=True))
        book = codebook.begun(codebook.candidates(_vectors(z), begins, case.config["n_codes"]))
        codes, embeddings = _looked_up(backend, book, z)
        yield Comparison(f"{tag}.codes", codes)
        yield from _losses(f"{tag}.", len(book.counts), z, codes, embeddings)
        yield from _book(f"{tag}.", _updated(book, z, codes, restarts))


def _looked_up(backend: Backend, book: codebook.Codebook, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes of latents in a book, and their vectors."""
    count, width = book.embeddings.shape
    spec = VQVAESpec(embedding_dim=width, n_codes=count, n_hiddens=2, n_res_layers=0, downsample=(2, 2, 2))
    weights = dict(FreshWeights(spec.layout(), 0)) | {"codebook.embeddings": book.embeddings}
    held = backend.build(spec, GivenWeights(weights, "a code book")).codebook
    with backend.inference():
        codes = held.codes(backend.asarray(z))
        return backend.to_numpy(codes), backend.to_numpy(held.vectors(codes))


def _updated(book: codebook.Codebook, z: np.ndarray, codes: np.ndarray, draws: codebook.Restarts) -> codebook.Codebook:
    vectors, count = _vectors(z), len(book.counts)
    used = codebook.usage(vectors, codes.reshape(-1), count)
    return codebook.updated(book, *used, codebook.candidates(vectors, draws, count))


def _losses(
    prefix: str, num_codes: int, z: np.ndarray, codes: np.ndarray, embeddings: np.ndarray
) -> Iterator[Comparison]:
    counts = np.bincount(codes.reshape(-1), minlength=num_codes)
    yield Comparison(f"{prefix}commitment_loss", COMMITMENT * _mean_square(z, embeddings))
    yield Comparison(f"{prefix}perplexity", np.array([codebook.perplexity(counts)]))


def _book(prefix: str, book: codebook.Codebook) -> Iterator[Comparison]:
    for name, values in zip(("embeddings", "N", "z_avg"), book, strict=True):
        yield Comparison(f"{prefix}{name}", values)


def _held(weights: Mapping[str, np.ndarray]) -> codebook.Codebook:
    return codebook.Codebook(*(weights[f"codebook.{name}"] for name in ("embeddings", "N", "z_avg")))


def _trained(case: Case, backend: Backend) -> Iterator[Comparison]:
    config = case.config
    spec, betas = _spec(config["model"], case.name), tuple(config["betas"])
    options = TrainOptions(optimizer=AdamW(betas=betas, eps=EPS, weight_decay=0.0), max_grad_norm=None, keeps_ema=False)
    losses = AutoencoderLosses(
        pixel_weight=0.0,
        pair_weights={"reconstruction": 1 / VARIANCE, "commitment": COMMITMENT},
        discriminator_factor=0.0,
    )
    trainer = backend.train_autoencoder(spec, case.weights(), losses, options)
    for number in range(config["steps"]):
        batch = _batch(case, number)
        yield from _forward(case, backend, spec, trainer.saved().weights(use_ema=False), number)
        report = trainer.step([batch], config["lr"])
        parts = report.parts
        yield Comparison(f"recon_loss.{number}", np.array([parts["reconstruction"] / VARIANCE]))
        yield Comparison(f"commitment_loss.{number}", np.array([COMMITMENT * parts["commitment"]]))
        yield Comparison(f"perplexity.{number}", np.array([parts["perplexity"]]))
        if number == 0:
            gradients = {name: moment / (1 - betas[0]) for name, moment in trainer.first_moments().items()}
            yield from _watched(case, "grad", gradients)
            yield from _watched(case, "buffer", trainer.saved().weights(use_ema=False))
    weights = trainer.saved().weights(use_ema=False)
    yield from _watched(case, "param", weights)
    yield from _book("codebook.", _held(weights))


def _batch(case: Case, number: int) -> AutoencoderBatch:
    draws = codebook.Restarts(case.tensors["perm"][number], case.tensors["tile"][number])
    x = case.tensors["x"][number]
    return AutoencoderBatch(2 * x, {}, "generator", adversarial=False, restarts=(draws, draws))


def _forward(
    case: Case, backend: Backend, spec: VQVAESpec, weights: Mapping[str, np.ndarray], number: int
) -> Iterator[Comparison]:
    """Codes and pixels by the batch's own statistics."""
    vae: Model = backend.build(spec, GivenWeights(dict(weights), case.name))
    with backend.inference():
        made = vae.reconstruct(backend.asarray(2 * case.tensors["x"][number]), {}, is_training=True)
        codes = vae.codebook.codes(made.pairs["commitment"][0])
    yield Comparison(f"codes.{number}", backend.to_numpy(codes))
    yield Comparison(f"reconstruction.{number}", 0.5 * backend.to_numpy(made.pixels))


def _watched(case: Case, prefix: str, arrays: Mapping[str, np.ndarray]) -> Iterator[Comparison]:
    for name in case.outputs():
        if name.startswith(f"{prefix}."):
            yield Comparison(name, arrays[name.removeprefix(f"{prefix}.")])


def _vectors(z: np.ndarray) -> np.ndarray:
    """(B, C, t, h, w) -> (B * t * h * w, C)."""
    return np.moveaxis(z, 1, -1).reshape(-1, z.shape[1])


def _mean_square(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.array([np.square(one - other).mean()])


def _cut(case: Case) -> Iterator[Comparison]:
    for tag, settings in case.config.items():
        check_options(settings, case.name, ("resolution", "sequence_length"))
        frames = case.tensors[f"{tag}.video"][: settings["sequence_length"]]
        cut = centre_video_rounded_up(frames, settings["resolution"])
        yield Comparison(f"{tag}.out", (cut - np.float32(0.5)).transpose(3, 0, 1, 2))
