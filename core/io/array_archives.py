"""Writing .npz archives of arrays that no memory has to hold."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from .files import atomic_write


def write_npz(path: Path, name: str, shape: tuple[int, ...], rows: Iterable[np.ndarray], overwrite: bool) -> None:
    """One array of uint8, given row by row, as numpy.savez writes it.

    shape: of the whole array. Raises: MediaError when `overwrite` is off and the file is there, or it cannot be
    written.
    """
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False, "shape": shape}
    with (
        atomic_write(path, overwrite) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
        archive.open(f"{name}.npy", "w", force_zip64=True) as file,
    ):
        np.lib.format.write_array_header_1_0(file, header)
        for row in rows:
            assert row.shape == shape[1:]
            file.write(np.ascontiguousarray(row, np.uint8).tobytes())
