"""Files that are no weights of a format that is read, told by their first bytes: what they are and what to do."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from .files import open_regular

NUM_BYTES = 512
"""Of the beginning of a file that `other_kind` looks at."""
DISTRIBUTED = (
    "is a part of a distributed checkpoint of torch; join it with python -m torch.distributed.checkpoint.format_utils "
    "dcp_to_torch FOLDER weights.pt"
)
FOREIGN = "is no safetensors file but one of torch, or a zip; convert it first (duosora convert FILE --to FOLDER)"
FOREIGN_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_UNPACK = "unpack it and name the file inside"
_AGAIN = "download the file again"
_STARTS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"version https://git-lfs", "is a Git LFS pointer instead of the file it stands for; run git lfs pull"),
    (0, b"GGUF", "is GGUF, quantised weights of llama.cpp; take the original weights as safetensors"),
    (0, b"ggml", "is GGML, quantised weights of llama.cpp; take the original weights as safetensors"),
    (0, b"lmgg", "is GGML, quantised weights of llama.cpp; take the original weights as safetensors"),
    (0, b"tjgg", "is GGML, quantised weights of llama.cpp; take the original weights as safetensors"),
    (0, b"\x89HDF\r\n\x1a\n", "is HDF5, as Keras writes it; save the weights as safetensors where they can be loaded"),
    (0, b"\x93NUMPY", "is one array of numpy; save the weights as safetensors"),
    (4, b"TFL3", "is a model of TensorFlow Lite; save the weights as safetensors where they can be loaded"),
    (4, b"MSL", "is a model of MindSpore Lite; take the checkpoint (.ckpt) that it was made from"),
    (0, b"\x1f\x8b", f"is compressed with gzip; {_UNPACK}"),
    (0, b"\xfd7zXZ\0", f"is compressed with xz; {_UNPACK}"),
    (0, b"BZh", f"is compressed with bzip2; {_UNPACK}"),
    (0, b"\x28\xb5\x2f\xfd", f"is compressed with zstd; {_UNPACK}"),
    (0, b"\x04\x22\x4d\x18", f"is compressed with lz4; {_UNPACK}"),
    (0, b"7z\xbc\xaf\x27\x1c", f"is an archive of 7-Zip; {_UNPACK}"),
    (0, b"Rar!", f"is a RAR archive; {_UNPACK}"),
    (0, b"%PDF", f"is a PDF document; {_AGAIN}"),
    (0, b"\x89PNG", f"is a picture; {_AGAIN}"),
    (0, b"\xff\xd8\xff", f"is a picture; {_AGAIN}"),
    (0, b"\x7fELF", "is a program, not weights; name the file of the weights"),
    (0, b"MZ", "is a program, not weights; name the file of the weights"),
)
_PAGES = (b"<!doctype html", b"<html", b"<head", b"<?xml", b"<error", b"<body")
_TAR_MARK, _TAR_PLACE = b"ustar", 257
_OLD_TORCH = (b"storages\0", b"tensors\0", b"pickle\0", b"sys_info\0")
_ENDINGS = {
    ".distcp": DISTRIBUTED,
    ".pdiparams": "is a checkpoint of PaddlePaddle; save the weights as safetensors where they can be loaded",
    ".msgpack": "is a checkpoint of Flax; save the weights as safetensors where they can be loaded",
}


def other_kind(path: Path, start: bytes) -> str | None:
    """What a file is that no reader of weights knows, and what to do with it; None when nothing is known of it.

    `start` is the first NUM_BYTES of it. To be asked after the formats that are read.
    """
    if not start:
        return "is empty; copy or download the file again"
    marked = _marked(start)
    if marked is not None:
        return marked
    if start[_TAR_PLACE:].startswith(_TAR_MARK) or start.startswith(_OLD_TORCH):
        return _tar(start)
    if path.suffix in _ENDINGS:
        return _ENDINGS[path.suffix]
    return _message(start) or _text(start)


def why_no_json(path: Path, error: Exception) -> str:
    """What to say of a file that could not be read as JSON: what it is, where its first bytes tell, or the reason."""
    if isinstance(error, OSError):
        return f"cannot be read ({error.strerror or error})"
    with suppress(OSError), open_regular(path) as file:
        marked = _marked(file.read(NUM_BYTES))
        if marked is not None:
            return marked
    return f"cannot be read as JSON ({error}); download it again"


def _marked(start: bytes) -> str | None:
    """What the mark at the beginning of a file says that it is."""
    for place, mark, what in _STARTS:
        if start[place:].startswith(mark):
            return what
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_PAGES):
        return "is a web page instead of the file, as sites send it for errors and logins; download the file itself"
    return None


def _tar(start: bytes) -> str:
    if start.startswith(_OLD_TORCH):
        return "is a file of torch before 0.1.10; load it with torch and save it again"
    return f"is a tar archive; {_UNPACK}"


def _message(start: bytes) -> str | None:
    """Models as messages of protobuf, which have no mark of their own: a version, then who wrote them."""
    if start[:1] == b"\x0a" and b"MindSpore" in start[:64] and start[1:2] < b"\x20":
        return "is MindIR, a model exported from MindSpore; take the checkpoint (.ckpt) that it was made from"
    if start[:1] == b"\x08" and start[2:3] in (b"\x12", b"\x1a", b"\x3a", b"\x42"):
        made_by_tensorflow = b"tensorflow" in start.lower() or b"saved_model" in start or start[1:3] == b"\x01\x12"
        kind = "a saved model of TensorFlow" if made_by_tensorflow else "an ONNX model"
        return f"is {kind}; save the weights as safetensors where they can be loaded"
    return None


def _text(start: bytes) -> str | None:
    if start.lstrip()[:1] in (b"{", b"[") and start.isascii():
        return "is JSON text, not weights; name the file of the weights, or download it again"
    if start.isascii() and start.decode("ascii").replace("\r", "").replace("\n", "").replace("\t", "").isprintable():
        return "is a text, not weights; name the file of the weights, or download it again"
    return None
