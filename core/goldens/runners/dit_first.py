"""Family `dit_first`: the first release of Open-Sora: patch lists, batches of them, and a captions file made ready."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ...data.patch_lists import attention_mask, latents_of, padded, patches_of
from ...data.text_parts import borders, read_parts, rows_by_part
from ...io.clip_tokenizer import ClipTokenizer
from ...models.clip_text import ClipTextSpec
from ...pipelines.text import EncodedTexts, encode_texts
from ...seam.backend import Backend
from ...shapes import LatentShape
from ..case import Case, Comparison
from ..tables import same

NOT_YET = (
    *("adaln", "cross_attn", "token_concat", "positions", "compressors", "diffusion"),
    *("sample_adaln_raw", "sample_cross_vqvae", "sample_token_vae", "train_adaln", "train_cross_attn"),
)
WAYS = {"tokens": False, "pooled": True}
"""Whether the text encoder pools, by the second part of a result's name."""


def run(case: Case, backend: Backend) -> Iterator[Comparison]:
    """Compute every result of a case of this family."""
    if "captions" in case.raw:
        yield from _preprocessing(case, backend)
    elif "pad_to_multiple" in case.config:
        yield from _batching(case)
    else:
        yield from _patches(case)


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
    encoded = {way: _encoded(case, backend, pools) for way, pools in WAYS.items()}
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
