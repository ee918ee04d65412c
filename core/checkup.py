"""What each verb of the command line needs, tried out: small files are written and read, nothing is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

from .errors import DuosoraError
from .extras import WHERE, install_command, require
from .printable import one_line

DECODERS = ("h264", "hevc", "mpeg4", "vp8", "vp9", "av1", "mjpeg", "gif")
"""Of the videos that people bring. Only the first is needed for what duosora writes itself."""
_UNLIKE = "what was written does not read back"
_MODELS, _SETTINGS, _WEIGHTS = "the tiny model", "settings files", "weights"
_VIDEOS, _PICTURES, _CURVES = "mp4 files", "png files", "matplotlib"
_BACKEND, _BOTH = "a backend", "both backends"
_SAMPLING = (_BACKEND, _MODELS, _SETTINGS, _VIDEOS, _PICTURES)
NEEDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "sample": _SAMPLING,
        "sample-set": _SAMPLING,
        "reconstruct": (_BACKEND, _MODELS, _VIDEOS, _PICTURES),
        "evaluate": (_VIDEOS, _PICTURES),
        "train": (_BACKEND, _MODELS, _SETTINGS, _WEIGHTS, _VIDEOS, _PICTURES),
        "launch": (_BACKEND,),
        "cache": (_BACKEND, _MODELS, _SETTINGS, _WEIGHTS, _VIDEOS, _PICTURES),
        "plot": (_CURVES,),
        "calibrate": (_BACKEND, _SETTINGS, _VIDEOS, _PICTURES),
        "judge": _SAMPLING,
        "convert": (_WEIGHTS,),
        "inspect": (_WEIGHTS,),
        "check": (_BACKEND,),
        "parity": (_BOTH, *_SAMPLING[1:]),
        "data": (_SETTINGS, _VIDEOS, _PICTURES),
    }
)
"""By verb, in the order of the command line; the others need nothing."""


_KNOWN = (
    (
        "torch",
        "2.9.",
        "runs 3-D convolutions on GPUs without cuDNN, with up to 17 times the memory; take another version",
    ),
)
"""Packages, beginnings of their versions, and what is wrong with those."""


def known_problems(versions: Mapping[str, str]) -> list[str]:
    """What is wrong with versions of packages that are there, a line each."""
    held = [(name, versions.get(name, ""), start, wrong) for name, start, wrong in _KNOWN]
    return [f"{name} {version} {wrong}" for name, version, start, wrong in held if version.startswith(start)]


def problems_of_verbs(working: Sequence[str]) -> dict[str, str]:
    """What keeps each verb from working, in a line; "" where nothing does. working: the backends that do."""
    with TemporaryDirectory(prefix="duosora-") as name:
        problems = {part: _problem(part, try_it) for part, try_it in _trials(Path(name), working).items()}
    return {verb: "; ".join(filter(None, (problems[part] for part in parts))) for verb, parts in NEEDS.items()}


def missing_decoders() -> list[str]:
    """Of DECODERS, those that PyAV's ffmpeg was built without."""
    return [name for name in DECODERS if name not in _codecs()]


def _trials(folder: Path, working: Sequence[str]) -> dict[str, Callable[[], None]]:
    return {
        _BACKEND: lambda: _want_backends(working, 1),
        _BOTH: lambda: _want_backends(working, 2),
        _MODELS: _open_the_tiny_model,
        _SETTINGS: _load_settings,
        _WEIGHTS: partial(_keep_weights, folder / "a.safetensors"),
        _VIDEOS: partial(_keep_a_video, folder / "a.mp4"),
        _PICTURES: partial(_keep_a_picture, folder / "a.png"),
        _CURVES: lambda: require("train", "matplotlib", "drawing curves"),
    }


def _problem(part: str, try_it: Callable[[], None]) -> str:
    try:
        try_it()
    except DuosoraError as error:
        return f"{part}: {error}"
    except Exception as error:  # whatever a broken package raises when it is imported or called
        return f"{part}: {one_line(error) or type(error).__name__}"
    return ""


def _want_backends(working: Sequence[str], count: int) -> None:
    from .seam.backend import NAMES

    if len(working) < count:
        missing = (install_command(name) for name in NAMES if name not in working)
        raise DuosoraError(f"{(' or ' if count == 1 else ' and ').join(missing)} {WHERE}")


def _open_the_tiny_model() -> None:
    from .config.schema import ModelSettings
    from .pipelines.settings import open_parts

    parts = open_parts(ModelSettings())
    if parts.tokenizer is not None:
        parts.tokenizer.encode(["a"], 4)
    for part in parts.all.values():
        _want(not part.is_fresh, f"the weights of its {part.family.kind} are lost; install duosora anew")
        part.check()


def _load_settings() -> None:
    from .config.loading import load
    from .config.schema import SampleConfig

    load("sample/tiny", SampleConfig)


def _keep_weights(file: Path) -> None:
    import numpy as np

    from .io.weights import open_weights, save_weights
    from .parallel.messages import pack, unpack  # what processes send each other are safetensors too

    ones = np.ones(2, np.float32)
    save_weights(file, {"a": ones})
    found = (open_weights(file)["a"], unpack(pack({"a": ones}))[0]["a"])
    _want(all(map(np.array_equal, found, (ones, ones))), _UNLIKE)


def _keep_a_video(file: Path) -> None:
    import numpy as np

    from .io.video import read_video, write_video

    absent = [name for name in ("libx264", DECODERS[0]) if name not in _codecs()]
    _want(not absent, f"the ffmpeg in PyAV lacks {' and '.join(absent)}; pip install --force-reinstall av")
    write_video(file, [np.full((16, 16, 3), 128, np.uint8)] * 2, 8)
    _want(read_video(file)[0].shape == (2, 16, 16, 3), _UNLIKE)


def _keep_a_picture(file: Path) -> None:
    import numpy as np

    from .io.images import read_image, write_image

    write_image(file, np.full((2, 3, 3), 128, np.uint8))
    _want(read_image(file).shape == (2, 3, 3), _UNLIKE)


def _codecs() -> set[str]:
    from av.codec import codecs_available

    return codecs_available


def _want(is_so: bool, otherwise: str) -> None:
    if not is_so:
        raise DuosoraError(otherwise)
