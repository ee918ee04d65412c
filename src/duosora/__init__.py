"""duosora: open text-to-video, one model on two kinds of hardware (PyTorch on CUDA, MindSpore on Ascend)."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duosora.core.api import Pipeline, Video, load
    from duosora.core.errors import DuosoraError

__all__ = ["DuosoraError", "Pipeline", "Video", "__version__", "load"]
__version__ = "0.1.0"
_HOMES = {"load": "api", "Pipeline": "api", "Video": "api", "DuosoraError": "errors"}
"""Files of core. They are imported when they are asked for, so that importing duosora loads nothing."""


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.core.{_HOMES[name]}"), name)
