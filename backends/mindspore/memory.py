"""How MindSpore says that memory has run out."""

from __future__ import annotations

_TEXTS = (
    "allocate memory failed",  # on a CPU
    "out of memory",
    "memory isn't enough",
    "memory not enough",
    "alloc failed",
    "malloc device memory failed",
    "failed to allocate memory",  # CANN's EL0004
    "std::bad_alloc",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says so."""
    text = str(error).lower()
    return isinstance(error, RuntimeError | ValueError) and any(each in text for each in _TEXTS)
