"""The forms that case.json comes in, brought to one.

Those of Open-Sora Plan name tensors `tag.name`, give each a role, a tolerance and a sha256 of the weights. Those of
hpcaitech Open-Sora name them `call/name`, give one tolerance for all and no roles; their weights lie beside.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

PART_OF_LARGEST = re.compile(r"([-+.\de]+)\s*\*\s*max\b.*")
"""A tolerance such as "2e-4*max|out|"."""


def one_form(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What case.json holds, with `tensors`, `tolerance` and `weights` as Case reads them."""
    form = dict(raw)
    rename = name_of(raw)
    form["tensors"] = {rename(name): entry for name, entry in raw.get("tensors", raw.get("io_tensors", {})).items()}
    form.setdefault("tolerance", _tolerance(raw.get("tolerances", {})))
    form.setdefault("weights", {"file": "weights.safetensors"})
    return form


def name_of(raw: Mapping[str, Any]) -> Callable[[str], str]:
    """How a tensor's name in the files of a case becomes `tag.name`."""
    return (lambda name: name.replace("/", ".")) if "io_tensors" in raw else str


def _tolerance(given: Mapping[str, Any]) -> dict[str, Any]:
    """One for all tensors, under "*"; none where it is told in other words, which the family's runner knows."""
    if not {"rtol", "atol"} & given.keys():
        return {}
    limit: dict[str, float] = {"rel": given.get("rtol", 0.0), "max_abs": 0.0}
    atol = given.get("atol", 0.0)
    part = PART_OF_LARGEST.fullmatch(atol) if isinstance(atol, str) else None
    limit["of_largest" if part else "max_abs"] = float(part[1] if part else atol)
    return {"*": limit}
