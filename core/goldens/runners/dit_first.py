"""Family `dit_first`: the first release of Open-Sora: its networks, patch lists, training, sampling, captions files.

Lists of patches (B, S, C, P, P) go through the network as clips (B, C, S, P, P), of which each frame is one patch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...data.patch_lists import attention_mask, latents_of, padded, patches_of
from ...data.text_parts import borders, read_parts, rows_by_part
from ...io.clip_tokenizer import ClipTokenizer
from ...layout import Layout
from ...maths import gaussian
from ...models.clip_text import ClipTextSpec
from ...models.config_json import refuse_unknown
from ...models.dit_first import DiTFirstSpec
from ...models.sd_vae import SDVAESpec
from ...models.vqvae import VQVAESpec
from ...pipelines.text import EncodedTexts, encode_texts
from ...samplers.guidance import guide
from ...seam.backend import Backend
from ...seam.models import Array, Given, Model
from ...seam.training import AdamW, DiffusionBatch, TrainOptions
from ...shapes import LatentShape
from ...train.learning_rate import LearningRate
from ..case import Case, Comparison
from ..diffusion import losses, objective_of
from ..diffusion_cases import as_recorded, as_video, diffusion, new_sampler
from ..forms import manifest_shapes
from ..tables import same

GRADIENTS = True
POOLS = {"tokens": False, "pooled": True}
"""Whether the text encoder pools, by the second part of a result's name."""


GUIDED = re.compile(r"cfg(?P<scale>[\d.]+)\.out")
GUIDED_AT = 300
"""The timestep of guided forwards that do not say theirs."""
TABLE = re.compile(r"table of (\d+)")
LIST = re.compile(r"list of (\d+)")


def run(case: Case, backend: Backend) -> Iterator[Comparison]:
    """Compute every result of a case of this family."""
    given, config = case.tensors, case.config
    if "captions" in case.raw:
        yield from _preprocessing(case, backend)
    elif "pad_to_multiple" in config:
        yield from _batching(case)
    elif "drop_u" in given:
        yield from _training(case, backend)
    elif "compressor" in config:
        yield from _sampling(case, backend)
    elif "pattern" in given:
        yield from diffusion(case, backend)
    elif "pixels" in given:
        yield from _compressors(case, backend)
    elif "video" in given:
        yield from _patches(case)
    elif "model_arch" in config:
        yield from _forwards(case, backend)
    else:
        yield from _positions(case)


def layout(manifest: Mapping[str, Any]) -> Layout:
    """Of a full-size model; of the two ways to condition it that have the same weights it is either."""
    shapes = manifest_shapes(manifest)
    name = "text_embedder.proj.weight"
    width, text = shapes.get(name, shapes["blocks.0.attn.to_k.weight"])
    held = {key: shape for key, shape in shapes.items() if not key.startswith("text_embedder.")}
    spec = DiTFirstSpec.from_shapes(held, "manifest")
    if spec is None:
        raise ValueError(f"no model of the first release is {width} wide")
    told = replace(spec, model_arch="token-concat", text_embed_dim=text) if name in shapes else spec
    return told.layout()


def _spec(config: Mapping[str, Any], source: str) -> DiTFirstSpec:
    """Of a case, whose model has its places as upstream has them."""
    return replace(DiTFirstSpec.from_config(config, source), counts_padding=True)


@dataclass(frozen=True)
class Network:
    """A network that is called with lists of patches."""

    backend: Backend
    model: Model

    def __call__(
        self,
        patches: np.ndarray,
        times: np.ndarray,
        text: np.ndarray,
        text_mask: np.ndarray | None = None,
        video_mask: np.ndarray | None = None,
    ) -> np.ndarray:
        """Patches (B, S, C, P, P) to what is predicted (B, S, Cout, P, P)."""
        given = given_of(self.model.spec, patches, text, text_mask, video_mask)
        with self.backend.inference():
            condition = self.model.condition(given, LatentShape(*as_video(patches).shape[2:]))
            latents = self.backend.asarray(np.ascontiguousarray(as_video(patches), np.float32))
            out = self.model(latents, self.backend.asarray(times.astype(np.float32)), condition)
            return as_recorded(self.backend.to_numpy(out), patches)


def given_of(
    spec: DiTFirstSpec,
    patches: np.ndarray,
    text: np.ndarray,
    text_mask: np.ndarray | None,
    video_mask: np.ndarray | None,
    is_null: np.ndarray | None = None,
) -> Given:
    """What the network is given beside the patches; masks (B, L) and (B, S)."""
    mask = None
    if video_mask is not None:
        batch, length, _, height, width = patches.shape
        mask = np.broadcast_to(video_mask[:, :, None, None], (batch, length, height, width)).astype(np.float32)
    read: dict[str, Any] = {"pooled": text} if spec.pools else {"text": text, "text_mask": text_mask}
    return Given(**read, latent_mask=mask, is_null=is_null)


def _forwards(case: Case, backend: Backend) -> Iterator[Comparison]:
    """Predictions with and without masks, guided ones for the first clip of a batch, and losses."""
    given, spec = case.tensors, _spec(case.config, case.name)
    lists = [patches_of(given[f"video{i}"], spec.patch_size) for i in range(len(given)) if f"video{i}" in given]
    video, text_mask = padded(lists), given.get("text_mask")
    yield Comparison("patches", video.values)
    yield Comparison("video_mask", video.mask)
    yield Comparison("attention_mask", _mask_of(spec, video.mask, text_mask))
    network = Network(backend, backend.build(spec, case.weights()))
    times, text = given["t"], given["text"]
    yield Comparison("out", network(video.values, times, text, text_mask, video.mask))
    yield Comparison("out_no_mask", network(video.values, times, text))
    for guided in filter(None, map(GUIDED.fullmatch, given)):
        half = len(given[guided[0]]) // 2
        texts = np.concatenate([text[:half], np.zeros_like(text[:half])])
        twice = [None if each is None else np.concatenate([each[:half]] * 2) for each in (text_mask, video.mask)]
        at = given.get("cfg.t", np.full(2 * half, GUIDED_AT))
        out = network(np.concatenate([video.values[:half]] * 2), at, texts, *twice)
        yield Comparison(guided[0], _both_guided(out, spec.in_channels, float(guided["scale"])))
    yield from _loss_terms(case, backend, network, video.values, video.mask)


def _mask_of(spec: DiTFirstSpec, video: np.ndarray, text: np.ndarray | None) -> np.ndarray:
    """The mask of the attention that upstream is given."""
    if spec.pools or text is None:
        return attention_mask(video, video)
    if spec.attends_to_text:
        return attention_mask(video, text)
    joined = np.concatenate([text, video], 1)
    return attention_mask(joined, joined)


def _both_guided(out: np.ndarray, channels: int, scale: float) -> np.ndarray:
    """Outputs of [texts, nulls] with the noise guided in both halves; the rest is each half's own."""
    conditional, null = np.split(out[:, :, :channels], 2)
    guided = guide(conditional, null, scale)
    return np.concatenate([np.concatenate([guided, guided]), out[:, :, channels:]], 2)


def _loss_terms(
    case: Case, backend: Backend, network: Network, patches: np.ndarray, mask: np.ndarray
) -> Iterator[Comparison]:
    """Of each clip; padding counts in the mean."""
    given, spec = case.tensors, network.model.spec
    if "loss.noise" not in given:
        return
    draws = objective_of({"learn_sigma": spec.learn_sigma}, case.name).at(given["t"])
    counted = {"weights": draws.weights[:, None] * mask}
    if draws.bound_weights is not None:
        counted["bound_weights"] = draws.bound_weights[:, None] * mask
    text, text_mask = given["text"], given.get("text_mask")

    def predict(noised: np.ndarray, part: slice) -> np.ndarray:
        of_text = None if text_mask is None else text_mask[part]
        seen = as_recorded(noised, patches)
        return as_video(network(seen, given["t"][part], text[part], of_text, mask[part]))

    found = losses(backend, draws._replace(**counted), as_video(patches), as_video(given["loss.noise"]), predict)
    for name, values in zip(("loss", "vb", "mse"), found, strict=True):
        yield Comparison(f"loss.{name}", values)


def _positions(case: Case) -> Iterator[Comparison]:
    """Tables of places; upstream's grows with the longest list it has seen, ours refuses such lists."""
    for tag, sizes in case.config.items():
        spec = DiTFirstSpec(hidden_size=sizes["dim"], num_heads=1, max_num_embeddings=sizes["max_num_embeddings"])
        yield same(f"{tag}.side", spec.places_side, sizes.get("side", spec.places_side))
        numbers = case.tensors[f"{tag}.positions"]
        yield Comparison(f"{tag}.rows", spec.positions(int(numbers.max()) + 1)[numbers])
    for name, said, places in (("grown.before", TABLE, 16), ("grown.after", LIST, 20)):
        if name in case.tensors:
            count, width = case.tensors[name].shape
            found = said.search(case.raw["tensors"][name].get("meaning", ""))
            spec = DiTFirstSpec(hidden_size=width, num_heads=1, max_num_embeddings=int(found[1]) if found else places)
            yield Comparison(name, spec.positions(count))


def _compressors(case: Case, backend: Backend) -> Iterator[Comparison]:
    """Pixels to latents and back, by each compressor."""
    given, centred = case.tensors, _raw(case.tensors["pixels"])
    yield Comparison("raw.encoded", centred)
    yield Comparison("raw.decoded", _levels(centred))
    for name in ("vqvae", "vae"):
        if name not in case.config:
            continue
        compressor = Compressor(case, backend, name, f"weights_{name}")
        yield Comparison(f"{name}.encoded", compressor.encoded(centred, given.get(f"{name}.noise")))
        decoded = compressor.decoded(given[f"{name}.latents"])
        yield Comparison(f"{name}.decoded", decoded)
        yield Comparison(f"{name}.pixels", _levels(decoded.transpose(0, 3, 1, 2)))
    if "to_uint8.values" in given:
        levels = np.clip((given["to_uint8.values"] + np.float32(0.5)) * np.float32(255), 0, 255)
        yield Comparison("to_uint8.clamped", levels.astype(np.uint8))


@dataclass(frozen=True)
class Compressor:
    """An autoencoder between pixels (T, 3, H, W) from -0.5 to 0.5 and latents (T, C, H, W)."""

    case: Case
    backend: Backend
    kind: str
    """raw, vqvae or vae, the last of which upstream gives half of the range that it was trained on."""
    weights: str
    """Their key in case.json."""

    @property
    def scale(self) -> float:
        return self.case.config.get("vae_scale", 0.18215) if self.kind == "vae" else 1.0

    def model(self) -> Model:
        entry = self.case.contents.weights[self.weights]
        other = Case(self.case.folder.parent.parent / entry["same_as"]) if "same_as" in entry else self.case
        config = dict(self.case.config.get("autoencoder", other.config))
        if self.kind == "vqvae":
            spec: Any = VQVAESpec(**{**config, "downsample": tuple(config["downsample"])})
        else:
            spec = SDVAESpec.take_from(config, other.name)
            refuse_unknown(config, other.name)
        return self.backend.build(spec, self.case.weights(self.weights))

    def encoded(self, centred: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
        backend, model = self.backend, self.model()
        with backend.inference():
            if self.kind == "vqvae":
                clip = backend.asarray(np.ascontiguousarray(2 * centred.swapaxes(0, 1)[None]))
                return backend.to_numpy(model.encode(clip).latents)[0].swapaxes(0, 1)
            moments = backend.to_numpy(model.moments(backend.asarray(centred)))
        drawn = np.zeros_like(np.split(moments, 2, 1)[0]) if noise is None else noise
        return np.float32(self.scale) * gaussian.sample(moments, drawn)

    def decoded(self, latents: np.ndarray) -> np.ndarray:
        """Pixels (T, H, W, 3)."""
        if self.kind == "raw":
            return latents.transpose(0, 2, 3, 1)
        backend, model = self.backend, self.model()
        with backend.inference():
            if self.kind == "vqvae":
                clip = backend.asarray(np.ascontiguousarray(latents.swapaxes(0, 1)[None]))
                return 0.5 * backend.to_numpy(model.decode(clip))[0].transpose(1, 2, 3, 0)
            pictures: Array = model.pictures(backend.asarray(latents / np.float32(self.scale)))
            return backend.to_numpy(pictures).transpose(0, 2, 3, 1)


def _levels(centred: np.ndarray) -> np.ndarray:
    """Pixels (T, 3, H, W) from -0.5 to 0.5 as (T, H, W, 3) from 0 to 255, neither rounded nor clamped."""
    return (centred.transpose(0, 2, 3, 1) + np.float32(0.5)) * np.float32(255)


LATENTS_DIVIDED_BY = 10
"""Before they are decoded, in cases of sampling: an untrained network's are far from any clip's."""


def _sampling(case: Case, backend: Backend) -> Iterator[Comparison]:
    """From noise to pixels. Upstream carries both halves of a guided batch on, and shows the network the first."""
    given, config = case.tensors, case.config
    spec = _spec(config["model"], case.name)
    network = Network(backend, backend.build(spec, case.weights()))
    options = {"learn_sigma": spec.learn_sigma}
    sampler, scale = new_sampler(str(config["num_sampling_steps"]), options, case.name), config.get("cfg_scale", 1.0)
    text, guides = given["text"], given["noises"].shape[1] > len(given["initial"])
    copies = 2 if guides else 1
    texts = np.concatenate([text, np.zeros_like(text)]) if guides else text
    x, states = np.concatenate([given["initial"]] * copies), []
    for i, time in enumerate(sampler.timesteps):
        seen = np.concatenate([x[: len(text)]] * copies)
        out = network(seen, np.full(len(seen), time), texts)
        out = _both_guided(out, spec.in_channels, scale) if guides else out
        noise, says = given["noises"][i], out[:, :, spec.in_channels :]
        moved = sampler.step(
            backend.asarray(as_video(x)),
            backend.asarray(as_video(out[:, :, : spec.in_channels])),
            i,
            backend.asarray(as_video(noise)) if sampler.draws_noise[i] else None,
            backend.asarray(as_video(says)) if sampler.reads_range else None,
        )
        x = as_recorded(backend.to_numpy(moved), x)
        states.append(x)
    yield Comparison("states", np.stack(states))
    latents = latents_of(x[0], _latent_size(config, spec.patch_size))
    yield Comparison("latents", latents)
    decoded = Compressor(case, backend, config["compressor"], "weights_autoencoder").decoded(
        latents / np.float32(LATENTS_DIVIDED_BY)
    )
    yield Comparison("pixels", _levels(decoded.transpose(0, 3, 1, 2)))


def _latent_size(config: Mapping[str, Any], patch: int) -> LatentShape:
    """Of whole patches; upstream loses the rest."""
    height, width = (config[side] // patch // config["h_w_factor"] * patch for side in ("height", "width"))
    return LatentShape(config["num_frames"] // config["t_factor"], height, width)


TERMS: Mapping[str, Callable[[DiffusionBatch], DiffusionBatch]] = {
    "loss": lambda batch: batch,
    "mse": lambda batch: replace(batch, bound_weights=None),
    "vb": lambda batch: replace(batch, weights=0.0 * batch.weights),
}
"""What is recorded of a batch, and how that alone becomes its loss."""


def _training(case: Case, backend: Backend) -> Iterator[Comparison]:
    """Losses of each clip, the first gradients, and what some steps make of the weights."""
    config, spec = case.config, _spec(case.config["model"], case.name)
    rate = LearningRate(kind="cosine", peak=config["lr"], total_steps=config["total_steps"])
    if "rates" in case.raw:
        rates = np.array([rate.at(step) for step in range(len(case.raw["rates"]))])
        yield Comparison("rates", rates, expected=np.array(case.raw["rates"]))
    optimizer = AdamW(betas=tuple(config["betas"]), eps=config["eps"], weight_decay=config["weight_decay"])
    options = TrainOptions(optimizer=optimizer, max_grad_norm=None, keeps_ema=True)
    trainer = backend.train_denoiser(spec, case.weights(), options)
    for step in range(config["steps"]):
        batches = [_batch(case, spec, (step, part)) for part in range(config["accumulation_steps"])]
        for number, whole in enumerate(batches):
            for name, part_of in TERMS.items():
                clips = [_clip(whole, row) for row in range(len(whole.latents))]
                found = np.array([trainer.evaluate(part_of(clip), use_ema=False) for clip in clips])
                yield Comparison(f"{name}.{step}.{number}", found)
        trainer.step(batches, rate.at(step), config["ema_decay_recorded"])
        if step == 0:
            for name, moment in trainer.first_moments().items():
                yield Comparison(f"grad.{name}", moment / (1.0 - optimizer.betas[0]))
    for kind, use_ema in (("param", False), ("ema", True)):
        for name, weight in trainer.saved().weights(use_ema=use_ema).items():
            yield Comparison(f"{kind}.{name}", weight)


def _batch(case: Case, spec: DiTFirstSpec, at: tuple[int, int]) -> DiffusionBatch:
    recorded = case.tensors
    clean = recorded["x0"][at]
    is_null = recorded["drop_u"][at] < spec.text_dropout_prob
    masks = recorded.get("text_mask"), recorded.get("video_mask")
    return DiffusionBatch(
        latents=as_video(clean),
        noise=as_video(recorded["noise"][at]),
        given=given_of(spec, clean, recorded["text"][at], *masks, is_null),
        padding_counts=True,
        **objective_of({"learn_sigma": spec.learn_sigma}, case.name).at(recorded["t"][at])._asdict(),
    )


def _clip(batch: DiffusionBatch, row: int) -> DiffusionBatch:
    """One clip of a batch by itself."""

    def part(values: Any) -> Any:
        return values[row : row + 1] if isinstance(values, np.ndarray) else values

    given = Given(**{name: part(values) for name, values in vars(batch.given).items()})
    return replace(batch, **{name: part(values) for name, values in vars(batch).items()} | {"given": given})


def _patches(case: Case) -> Iterator[Comparison]:
    side, video = case.config["patch_size"], case.tensors["video"]
    patches = patches_of(video, side)
    yield Comparison("patches", patches)
    frames, _, height, width = video.shape
    yield Comparison("back", latents_of(patches, LatentShape(frames, height, width)))
    if "odd" in case.tensors:
        yield Comparison("odd_patches", patches_of(case.tensors["odd"], side, drops_rest=True))


def _batching(case: Case) -> Iterator[Comparison]:
    given = case.tensors
    videos, texts = ([given[f"{kind}{i}"] for i in range(len(given)) if f"{kind}{i}" in given] for kind in _KINDS)
    lists = [patches_of(_raw(video), case.config["patch_size"]) for video in videos]
    for multiple in case.config["pad_to_multiple"]:
        tag = "plain" if multiple is None else f"multiple{multiple}"
        video, text = padded(lists, multiple or 1), padded(texts, multiple or 1)
        joined = np.concatenate([text.mask, video.mask], axis=1)
        for way, states, mask in (
            ("adaln", given["pooled"], attention_mask(video.mask, video.mask)),
            ("cross_attn", text.values, attention_mask(video.mask, text.mask)),
            ("token_concat", text.values, attention_mask(joined, joined)),
        ):
            yield Comparison(f"{way}.{tag}.text_latent_states", states)
            yield Comparison(f"{way}.{tag}.video_latent_states", video.values)
            yield Comparison(f"{way}.{tag}.video_padding_mask", video.mask)
            yield Comparison(f"{way}.{tag}.text_padding_mask", text.mask)
            yield Comparison(f"{way}.{tag}.attention_mask", mask)


_KINDS = ("video", "text")


def _raw(video: np.ndarray) -> np.ndarray:
    """Pixels (T, H, W, 3) uint8 as latents (T, 3, H, W) that nothing has compressed."""
    return video.transpose(0, 3, 1, 2).astype(np.float32) / 255 - 0.5


def _preprocessing(case: Case, backend: Backend) -> Iterator[Comparison]:
    clips = [(row["file"], row["captions"]) for row in case.raw["captions"]]
    encoded = {way: _encoded(case, backend, pools) for way, pools in POOLS.items()}
    for name, expected in case.raw["results"].items():
        bins, _, way = name.partition(".")
        parts = rows_by_part(clips, case.raw["frames"], int(bins.removeprefix("n")), case.config["max_frames"])
        names = [f"part-{number:05d}" for number in range(len(parts))]
        rows = [(part, row) for part, rows in zip(names, parts, strict=True) for row in rows]
        yield same(f"{name}.parts", names, expected["parts"])
        states = [encoded[way].states[row.caption] for _, row in rows]
        for number, values in enumerate(states):
            yield Comparison(f"{name}.row{number}", values)
        got = [
            {"part": part, "file": row.file, "shape": list(values.shape)}
            if isinstance(like, Mapping)
            else [part, row.file]
            for (part, row), values, like in zip(rows, states, expected["rows"], strict=False)
        ]
        yield same(f"{name}.rows", [len(rows), *got], [len(expected["rows"]), *expected["rows"]])
    yield from _borders(case)
    yield from _example(case)


def _encoded(case: Case, backend: Backend, pooled: bool) -> EncodedTexts:
    spec = replace(ClipTextSpec.from_config(case.config["text_model"]), pooled=pooled)
    tokenizer = ClipTokenizer.open(case.folder.parent.parent / case.config["tokenizer"])
    texts = [text for row in case.raw["captions"] for text in row["captions"]]
    encoder = backend.build(spec, case.weights())
    return encode_texts(backend, encoder, tokenizer, texts, spec.max_position_embeddings, quiet=True)


def _borders(case: Case) -> Iterator[Comparison]:
    for number, row in enumerate(case.raw.get("borders", ())):
        found = [list(pair) for pair in borders(row["rows"], row["bins"])]
        yield same(f"borders.{number}.parts", len(found), row["parts"])
        yield same(f"borders.{number}.ends", [found[0], found[-1]], [row["first"], row["last"]])
        if row["borders"] is not None:
            yield same(f"borders.{number}.borders", found, row["borders"])


def _example(case: Case) -> Iterator[Comparison]:
    """A part as upstream wrote it: its rows are those of a whole run."""
    if (example := case.raw.get("example_part")) is None:
        return
    rows = list(read_parts([case.folder / example["folder"]]))
    read: list[dict[str, Any]] = [{"file": row.file, "shape": list(row.states.shape)} for row in rows]
    expected = [{key: row[key] for key in ("file", "shape")} for row in example["rows"]]
    yield same("example_part.rows", read, expected)
    parts = [row["part"] for row in case.raw["results"]["n10.tokens"]["rows"]]
    first = parts.index(example["is_part"])
    for number, row in enumerate(rows):
        name = f"n10.tokens.row{first + number}"
        yield Comparison(f"example_part.{number}", row.states, expected=case.tensors[name], limit_as=name)
