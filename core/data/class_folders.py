"""Pictures and clips sorted into a folder for each class, as ImageNet, UCF-101 and most labelled sets are.

A class has the number of its folder in the order of the names; its files may lie at any depth below.
Source: ImageFolder of torchvision, in whose form DiT and SiT read ImageNet.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ..errors import MediaError
from ..io.kinds import is_image, is_video
from ..printable import short_name
from .records import Record


class ClassFolders:
    """The records of such a folder's files, class after class in the order of their names."""

    def __init__(self, folder: Path) -> None:
        """Raises: MediaError when there is no such folder, or a class without a picture or clip."""
        self.folder, self.classes = folder, class_names(folder)
        found = [_files(folder, name) for name in self.classes]
        for name, files in zip(self.classes, found, strict=True):
            if not files:
                raise MediaError(
                    f"{folder / short_name(name)}: is a class without pictures or clips; add some, or remove it"
                )
        self.names: list[str] = [file for files in found for file in files]
        self._labels = np.repeat(np.arange(len(found)), [len(files) for files in found])

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, number: int) -> Record:
        name, label = self.names[number], int(self._labels[number])
        return Record(path=self.folder / name, name=name, label=label, origin=str(self.folder))


def class_names(folder: Path) -> tuple[str, ...]:
    """The classes of such a folder by their numbers. Raises: MediaError when there are none."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise MediaError(f"{folder}: cannot be read as a folder of classes ({error.strerror or error})") from error
    if not names:
        raise MediaError(f"{folder}: holds no folder of a class; expected one for each class, with its pictures")
    return tuple(names)


def _files(folder: Path, name: str) -> list[str]:
    """Of a class, as paths from the folder on; links are followed, except to a folder that they lie in."""
    found = []
    for parent, folders, files in os.walk(folder / name, followlinks=True):
        folders[:] = [each for each in folders if not _leads_back(Path(parent, each))]
        below = Path(parent).relative_to(folder)
        found += [(below / file).as_posix() for file in files if _is_media(Path(file))]
    return sorted(found)


def _leads_back(path: Path) -> bool:
    return path.is_symlink() and path.resolve() in (parent.resolve() for parent in path.parents)


def _is_media(path: Path) -> bool:
    return (is_image(path) or is_video(path)) and not path.name.startswith(".")
