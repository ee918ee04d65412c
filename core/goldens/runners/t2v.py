"""Family `t2v`: the text-to-video transformer and its inpaint sibling, and the tables and masks that they are made of.

A case is recognised by the names of its output tensors. Upstream's rotary cache forgets the interpolation scale
(quirk Q4), so every case is run with rope_shares_tables.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ...layout import Layout
from ...maths.masks import compress_mask, frame_mask, masked_pixels
from ...maths.rope import rope_tables
from ...maths.skiparse import AttentionPlan, attention_plan
from ...models.opensora_t2v import OpenSoraT2VSpec
from ...seam.backend import Backend
from ...seam.models import Given, Model
from ...shapes import LatentShape, TokenGrid
from ..case import Case, Comparison, check_options

MODEL = re.compile(r"(?P<prefix>(?:.+\.)?)output")
INNER = re.compile(r"inter\.(?P<part>.+)")
BLOCK = re.compile(r"block(?P<index>\d+)_out_sbh")
ROTATED = re.compile(r"(?P<prefix>(?P<tag>.+)\.)rotated")
SPARSE = re.compile(r"(?P<prefix>(?P<tag>.+)\.)group_(?P<group>False|True)\.(?P<part>attn|enc)")
COMPRESSED = re.compile(r"(?P<prefix>(?:.+\.)?)compressed")
PROCESSED = re.compile(r"(?P<prefix>(?:.+\.)?)(?P<kind>[^.]+)\.(?P<part>mask|masked)")

ROTATION_OPTIONS = ("batch", "t", "h", "w", "heads", "head_dim", "interpolation_scale_thw")
BIAS_OPTIONS = ("batch", "tokens", "text_len", "sparse_n", "head_num")
MASK_OPTIONS = ("min_clear_ratio", "max_clear_ratio", "python_random_seed")
UPSTREAM_PADDING_BIAS = -9980.0


def run(case: Case, backend: Backend) -> Iterator[Comparison]:
    """Compute every output tensor of a case of this family."""
    model = None
    for name in case.outputs():
        if match := MODEL.fullmatch(name):
            spec = upstream_spec(case.config, case.name)
            model = model or backend.build(spec, case.weights())
            yield from _run_model(case, backend, spec, model, match["prefix"])
        elif match := ROTATED.fullmatch(name):
            yield Comparison(name, _rotated(case, backend, match["tag"]))
        elif match := SPARSE.fullmatch(name):
            yield Comparison(name, _sparse_bias(case, match["tag"], match["group"] == "True", match["part"]))
        elif match := COMPRESSED.fullmatch(name):
            yield Comparison(name, _compressed(case, match["prefix"]))
        elif match := PROCESSED.fullmatch(name):
            yield Comparison(name, _processed(case, match["prefix"], match["kind"], match["part"]))


def layout(manifest: Mapping[str, Any]) -> Layout:
    """Of a full-size model."""
    return OpenSoraT2VSpec.from_config(manifest["config_json_as_saved"]).layout()


def upstream_spec(config: Mapping[str, Any], source: str) -> OpenSoraT2VSpec:
    """The model of a config as upstream runs it, with its rotary cache."""
    return replace(OpenSoraT2VSpec.from_config(config, source), rope_shares_tables=True)


def _run_model(case: Case, backend: Backend, spec: OpenSoraT2VSpec, model: Model, prefix: str) -> Iterator[Comparison]:
    def given(name: str) -> np.ndarray:
        return case.tensors[prefix + name]

    latents = given("hidden_states")
    text = given("encoder_hidden_states")[:, 0]
    blocks = [f"transformer_blocks.{i}" for i in range(spec.num_layers)]
    names = ["pos_embed", "adaln_single", "caption_projection", *blocks]
    with backend.record(model, names) as recorded:
        told = Given(text=text, text_mask=given("encoder_attention_mask")[:, 0], latent_mask=given("attention_mask"))
        condition = model.condition(told, LatentShape(*latents.shape[2:]))
        output = model(backend.asarray(latents), backend.asarray(given("timestep")), condition)
        inner = dict(recorded)
    yield Comparison(f"{prefix}output", backend.to_numpy(output))
    modulation, embedded_timestep = inner["adaln_single"]
    parts = {
        "patch_embed": backend.to_numpy(inner["pos_embed"]),
        "adaln_6d": backend.to_numpy(modulation),
        "embedded_timestep": backend.to_numpy(embedded_timestep),
        "caption": backend.to_numpy(inner["caption_projection"])[:, None],
    }
    for i, name in enumerate(blocks):
        parts[f"block{i}_out_sbh"] = backend.to_numpy(inner[name]).swapaxes(0, 1)
    for name in case.outputs():
        match = INNER.fullmatch(name.removeprefix(prefix))
        if match:
            yield Comparison(name, parts[match["part"]])


def _rotated(case: Case, backend: Backend, tag: str) -> np.ndarray:
    """Tokens (N, B, A, K) turned to their positions by the backend's own function."""
    config = case.config[tag]
    check_options(config, f"{case.name}, {tag}", ROTATION_OPTIONS)
    grid = TokenGrid(config["t"], config["h"], config["w"])
    tables = rope_tables(grid, config["head_dim"], tuple(config["interpolation_scale_thw"]), shares_tables=True)
    rotate = backend.function("rotate")
    tokens = backend.asarray(case.get(tag, "tokens").swapaxes(0, 1))
    return backend.to_numpy(rotate(tokens, *map(backend.asarray, tables))).swapaxes(0, 1)


def _sparse_bias(case: Case, tag: str, is_group: bool, part: str) -> np.ndarray:
    config = case.config[tag]
    check_options(config, f"{case.name}, {tag}", BIAS_OPTIONS)
    k, heads = config["sparse_n"], config["head_num"]
    if part == "enc":
        return _per_head(np.tile(case.get(tag, "encoder_bias"), (k, 1, 1)), heads)
    bias = case.get(tag, "attention_bias")
    plan = attention_plan(bias.shape[-1], k, "group" if is_group else "single")
    return _per_head(upstream_bias(plan, bias, k), heads)


def upstream_bias(plan: AttentionPlan, bias: np.ndarray, k: int) -> np.ndarray:
    """Upstream's additive masks, (k * B, 1, padded length), for a bias (B, 1, N) on the tokens as keys, from our plan.

    Sub-sequences are stacked in front of the batch; what upstream pads with is at the end of each.
    """
    arranged = np.full((k, *bias.shape[:2], plan.padded_length), UPSTREAM_PADDING_BIAS, np.float32)
    for number, tokens in enumerate(plan.sub_sequences()):
        arranged[number, ..., : len(tokens)] = bias[..., tokens]
    return arranged.reshape(-1, *arranged.shape[2:])


def _per_head(bias: np.ndarray, heads: int) -> np.ndarray:
    return np.repeat(bias[:, None], heads, axis=1)


def _compressed(case: Case, prefix: str) -> np.ndarray:
    mask, expected = case.tensors[f"{prefix}mask"], case.tensors[f"{prefix}compressed"]
    # A side that is no multiple of the factor may give too large a one.
    space = min(mask.shape[axis] // expected.shape[axis] for axis in (-2, -1))
    return compress_mask(mask, expected.shape[1], space)


def _processed(case: Case, prefix: str, kind: str, part: str) -> np.ndarray:
    """The mask (T, 1, H, W) of one kind, or the pixels (T, C, H, W) that it leaves."""
    options = case.config["processor"]
    check_options(options, f"{case.name}, processor", MASK_OPTIONS)
    pixels = case.tensors[f"{prefix}pixels"]
    draw = random.Random(options["python_random_seed"])
    frames = frame_mask(kind, len(pixels), draw, options["min_clear_ratio"], options["max_clear_ratio"])
    mask = np.broadcast_to(frames[:, None, None, None], (len(pixels), 1, *pixels.shape[2:]))
    return mask if part == "mask" else masked_pixels(pixels, mask)
