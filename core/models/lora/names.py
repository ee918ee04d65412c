"""The spellings of LoRA files: which layer and which of its two matrices a tensor is.

peft (`base_model.model.X.lora_A.weight`), diffusers (`transformer.X.lora_A.weight`, older `X.lora.down.weight` and
`X.processor.to_q_lora.down.weight`), kohya (`lora_unet_X_with_underscores.lora_down.weight` beside `.alpha`) and
ComfyUI (`diffusion_model.X.lora_down.weight`). Kohya's underscores do not tell where dots were: the model's names do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

Role = Literal["down", "up", "alpha"]
Spelling = Literal["peft", "diffusers", "kohya"]
SPELLINGS: tuple[Spelling, ...] = ("peft", "diffusers", "kohya")

PEFT_PREFIX, DIFFUSERS_PREFIX, KOHYA_PREFIX = "base_model.model.", "transformer.", "lora_unet_"
PREFIXES = (
    *(PEFT_PREFIX, DIFFUSERS_PREFIX, "diffusion_model.", "model.diffusion_model.", "unet.", "denoiser.", "model."),
    "module.",
)
"""Before the names of a denoiser's layers, one or more of them."""
KOHYA_PREFIXES = (KOHYA_PREFIX, "lora_transformer_")
TEXT_ENCODERS = ("text_encoder", "lora_te")
"""Beginnings of the names of what adapts another model."""
OTHER_KINDS = {
    r"lora_magnitude_vector|dora_scale": "DoRA",
    r"\.hada_": "LoHa",
    r"\.lokr_": "LoKr",
    r"\.lora_mid": "LoCon with three matrices",
    r"\.lora_embedding_": "LoRA of a table",
    r"\.lora_B\.bias|lora_up\.bias": "LoRA with biases",
    r"\.diff(_b)?$|\.set_weight$": "whole differences beside LoRA",
}
"""What else such files hold, which is not read, by what its names contain."""
_ROLES: Mapping[Role, re.Pattern[str]] = {
    "down": re.compile(
        r"(.+?)(?:\.lora_A(?:\.\w+)?|\.lora_down|\.lora\.down|_lora\.down|\.lora_linear_layer\.down)(?:\.weight)?"
    ),
    "up": re.compile(
        r"(.+?)(?:\.lora_B(?:\.\w+)?|\.lora_up|\.lora\.up|_lora\.up|\.lora_linear_layer\.up)(?:\.weight)?"
    ),
    "alpha": re.compile(r"(.+)\.alpha"),
}
QUERIES, KEYS, VALUES = (tuple(form.format(x) for form in ("to_{}", "{}", "{}_proj", "{}_linear")) for x in "qkv")
FUSED: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "qkv": (QUERIES, KEYS, VALUES),
    "to_qkv": (QUERIES, KEYS, VALUES),
    "qkv_proj": (QUERIES, KEYS, VALUES),
    "kv_linear": (KEYS, VALUES),
    "to_kv": (KEYS, VALUES),
}
"""Names of maps that are several in one, to the names that each of these may have in other models."""


class Spelled(NamedTuple):
    """What a tensor's name says."""

    layer: str
    """As the file spells it."""
    role: Role


class Meant(NamedTuple):
    """Where in a model the matrices of a file's layer belong."""

    layers: tuple[str, ...]
    """One, or the parts of a map that the file has in one."""
    part: int | None = None
    """Which part of that one layer they are, where the model has several maps in one; None: all of it."""


def spelled(name: str) -> Spelled | None:
    """Read the name of a tensor; None where it is none of LoRA's."""
    for role, pattern in _ROLES.items():
        if found := pattern.fullmatch(name):
            return Spelled(_without_processor(found[1]), role)
    return None


def other_kind(names: Iterable[str]) -> tuple[str, str] | None:
    """What a file holds beside LoRA that is not read, and a name of it."""
    for name in names:
        for pattern, kind in OTHER_KINDS.items():
            if re.search(pattern, name):
                return kind, name
    return None


def looks_like_lora(names: Iterable[str]) -> bool:
    """Whether these may be the names of a LoRA's tensors."""
    found = [spelled(name) for name in names]
    return any(each is not None and each.role == "down" for each in found)


def spelling_of(names: Iterable[str]) -> Spelling:
    """Whose names these are."""
    names = list(names)
    if any(name.startswith(("lora_unet_", "lora_te", "lora_transformer_")) for name in names):
        return "kohya"
    return "peft" if any(name.startswith(PEFT_PREFIX) for name in names) else "diffusers"


def respelled(layer: str, role: Role, spelling: Spelling) -> str:
    """The name of a tensor of a model's layer."""
    if spelling == "kohya":
        end = {"down": "lora_down.weight", "up": "lora_up.weight", "alpha": "alpha"}[role]
        return f"{KOHYA_PREFIX}{layer.replace('.', '_')}.{end}"
    prefix = PEFT_PREFIX if spelling == "peft" else DIFFUSERS_PREFIX
    return f"{prefix}{layer}.{'lora_A' if role == 'down' else 'lora_B'}.weight"


def places(known: Iterable[str]) -> dict[str, Meant]:
    """Every name under which a file may hold what belongs to a model's layers: their own, those of the parts of a map
    that the model has in one, and those of such a map where the model has its parts."""
    known = list(known)
    own = set(known)
    found = {name: Meant((name,)) for name in known}
    for name in known:
        parent, _, last = name.rpartition(".")
        for number, names in enumerate(FUSED.get(last, ())):
            for part in names:
                found.setdefault(_below(parent, part), Meant((name,), number))
        for fused, parts in FUSED.items():
            siblings = tuple(next((_below(parent, each) for each in names if _below(parent, each) in own), "")
                             for names in parts)  # fmt: skip
            if all(siblings) and name == siblings[0]:
                found.setdefault(_below(parent, fused), Meant(siblings))
    return found


def resolve(layer: str, known: Mapping[str, Meant]) -> str | None:
    """Of `places`, the one that a file's layer means; None where none does, or several are spelled so."""
    for prefix in KOHYA_PREFIXES:
        if layer.startswith(prefix):
            rest = layer.removeprefix(prefix)
            meant = [name for name in known if name.replace(".", "_") == rest]
            own = [name for name in meant if known[name] == Meant((name,))] or meant
            return own[0] if len(own) == 1 else None
    name = layer
    while name not in known:
        prefix = next((each for each in PREFIXES if name.startswith(each)), "")
        if not prefix:
            return None
        name = name.removeprefix(prefix)
    return name


def bare(layer: str) -> str:
    """A file's layer without what stands before a model's names."""
    while prefix := next((each for each in PREFIXES if layer.startswith(each)), ""):
        layer = layer.removeprefix(prefix)
    return layer


def _without_processor(layer: str) -> str:
    """Older files name the processors of attentions, which had the maps: `attn1.processor.to_q` is `attn1.to_q`."""
    parent, processor, last = layer.rpartition(".processor.")
    return f"{parent}.{'to_out.0' if last == 'to_out' else last}" if processor else layer


def _below(parent: str, name: str) -> str:
    return f"{parent}.{name}" if parent else name
