"""Files that are no weights: what they are shows in their first bytes, wherever they are named."""

import gzip
import io
import lzma
import os
import pickle
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from duosora.convert.readers.opening import open_checkpoint
from duosora.core.errors import CheckpointError
from duosora.core.io.weights import open_weights


def tar(name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    return buffer.getvalue()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 12345\n"
PAGE = b"<!DOCTYPE html>\n<html lang='en'><head><title>404</title></head></html>"
ONNX = b"\x08\x07\x12\x07pytorch\x1a\x032.1\x3a\x10" + bytes(100)
MINDIR = b"\x0a\x050.1.1\x12\x09MindSpore\x1a\x032.1" + bytes(100)
KINDS = {
    "pointer": (POINTER, "is a Git LFS pointer.*git lfs pull"),
    "page": (PAGE, "is a web page"),
    "page after blank lines": (b"\n\n  <HTML><body>", "is a web page"),
    "page with a mark": (b"\xef\xbb\xbf<html>", "is a web page"),
    "error of a store": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "is a web page"),
    "text": (b"404: Not Found", "is a text, not weights"),
    "json": (b'{"error": "Repository not found"}', "is JSON text, not weights"),
    "empty": (b"", "is empty"),
    "gguf": (b"GGUF\x03\x00\x00\x00" + bytes(64), "is GGUF.*take the original weights"),
    "ggml": (b"tjgg" + bytes(64), "is GGML"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(64), "is HDF5.*safetensors"),
    "onnx": (ONNX, "is an ONNX model"),
    "tensorflow": (b"\x08\x01\x12\xfe\x01tensorflow" + bytes(100), "is a saved model of TensorFlow"),
    "tensorflow lite": (struct.pack("<I", 28) + b"TFL3" + bytes(64), "is a model of TensorFlow Lite"),
    "mindir": (MINDIR, "is MindIR.*take the checkpoint"),
    "mindspore lite": (struct.pack("<I", 28) + b"MSL2" + bytes(64), "is a model of MindSpore Lite"),
    "array": (b"\x93NUMPY\x01\x00" + bytes(64), "is one array of numpy"),
    "gzip": (gzip.compress(b"weights"), "is compressed with gzip; unpack it"),
    "xz": (lzma.compress(b"weights"), "is compressed with xz; unpack it"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(64), "is compressed with zstd; unpack it"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(64), "is an archive of 7-Zip; unpack it"),
    "tar": (tar("model/config.json"), "is a tar archive; unpack it"),
    "old torch": (tar("storages"), r"is a file of torch before 0\.1\.10"),
}


@pytest.mark.parametrize("name", ["x.pt", "x.ckpt", "x.bin", "x.safetensors", "x"])
@pytest.mark.parametrize("kind", KINDS)
def test_other_files_are_named(tmp_path: Path, kind: str, name: str) -> None:
    content, said = KINDS[kind]
    (tmp_path / name).write_bytes(content)
    readers: list[Callable[[Path], object]] = [open_checkpoint]
    if name in ("x.safetensors", "x"):  # a run is told to convert the others first
        readers.append(open_weights)
    for reader in readers:
        with pytest.raises(CheckpointError, match=said) as caught:
            reader(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata"])
def test_distributed_checkpoints_are_named(tmp_path: Path, name: str) -> None:
    content = b"PK\x03\x04" + bytes(64)
    if name == ".metadata":
        content = b"\x80\x04\x8c\x29torch.distributed.checkpoint.metadata.xxxx" + pickle.dumps(1)
    (tmp_path / name).write_bytes(content)
    for place in (tmp_path / name, tmp_path):
        with pytest.raises(CheckpointError, match=r"is a part of a distributed checkpoint.*dcp_to_torch"):
            open_checkpoint(place)


@pytest.mark.parametrize("name", ["x.safetensors", "x.pt", "x.ckpt", "x.bin", "x"])
def test_a_pipe_is_no_file(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(CheckpointError, match="is a pipe, a device or a socket"):
        open_checkpoint(tmp_path / name)
