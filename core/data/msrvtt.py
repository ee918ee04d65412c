"""MSR-VTT as it is published to a folder for each of its splits: `<split>/annotations.json` and `<split>/videos`.

It comes as annotation/MSR_VTT.json (captions by the id of their video), structured-symlinks/<split>_list_full.txt (the
ids of a split) and videos/all/<id>.mp4.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import MediaError
from ..io.files import atomic_write, read_json, read_written, refuse_unwritable
from ..printable import short_name
from ..progress import progress

SPLITS = ("train", "val", "test")
"""An id that several of them list belongs to the first."""
ANNOTATIONS = "annotations.json"
_CAPTIONS = Path("annotation", "MSR_VTT.json")
_ENDING = ".mp4"

Row = dict[str, Any]
"""{"file": name, "captions": texts}, which training reads."""


@dataclass
class Collation:
    """The rows of each split, in the order of the captions."""

    rows: dict[str, list[Row]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    homeless: list[str] = field(default_factory=list)
    """The ids of captions whose video is in no split."""

    def videos(self, split: str) -> list[str]:
        """Names of the split's files, each once."""
        return list(dict.fromkeys(row["file"] for row in self.rows[split]))


def read_captions(folder: Path) -> list[tuple[str, str]]:
    """Id and caption of each annotation. Raises: MediaError when there are none, or one is not as it should be."""
    file = folder / _CAPTIONS
    try:
        rows = read_json(file)["annotations"]
        found = [(row["image_id"], row["caption"]) for row in rows]
    except FileNotFoundError as error:
        raise MediaError(f"{file}: there is no such file; needed is the folder of MSR-VTT") from error
    except (OSError, ValueError) as error:
        raise MediaError(f"{file}: cannot be read as JSON ({error})") from error
    except (LookupError, TypeError) as error:
        raise MediaError(f'{file}: expected {{"annotations": [{{"image_id": ..., "caption": ...}}]}}') from error
    for name, caption in found:
        if not isinstance(name, str) or not isinstance(caption, str):
            raise MediaError(f"{file}: image_id and caption of each annotation are to be texts")
        if name in ("", ".", "..") or "\0" in name or Path(name).name != name:
            raise MediaError(f"{file}: image_id = {short_name(name)!r}: needs the name of a video without a folder")
    return found


def read_splits(folder: Path) -> dict[str, list[str]]:
    """The ids of each split. Raises: MediaError when a list cannot be read."""
    lists = {split: folder / "structured-symlinks" / f"{split}_list_full.txt" for split in SPLITS}
    return {split: ids_of(read_written(file, MediaError)) for split, file in lists.items()}


def ids_of(text: str) -> list[str]:
    """The ids of a list, one a line."""
    return [line.strip() for line in text.splitlines()]


def collate(
    captions: Iterable[tuple[str, str]], splits: Mapping[str, Sequence[str]], joined: bool = False
) -> Collation:
    """Give each caption to the split of its video: a row a caption, or, joined, a row a video."""
    split_of = {name: split for split in reversed(SPLITS) for name in splits[split]}
    found = Collation()
    rows: dict[str, Row] = {}
    for name, caption in captions:
        if name not in split_of:
            found.homeless.append(name)
        elif joined and name in rows:
            rows[name]["captions"].append(caption)
        else:
            rows[name] = {"file": f"{name}{_ENDING}", "captions": [caption]}
            found.rows[split_of[name]].append(rows[name])
    return found


def text_of(rows: Sequence[Row]) -> str:
    """An annotations.json."""
    return json.dumps(rows, indent=4)


def write(found: Collation, folder: Path, target: Path, linked: bool = False, overwrite: bool = False) -> None:
    """Write the splits of an MSR-VTT folder. linked: link to the videos instead of copying them.

    Nothing is written before all videos were seen; the annotations of a split come after its videos.
    Raises: MediaError when a video is missing or something cannot be written.
    """
    source = folder / "videos" / "all"
    missing = [source / name for split in SPLITS for name in found.videos(split) if not (source / name).is_file()]
    if missing:
        more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise MediaError(f"{missing[0]}: there is no such video{more}; unpack all videos of MSR-VTT there")
    for split in SPLITS:
        refuse_unwritable(target / split / ANNOTATIONS, overwrite)
    for split in SPLITS:
        for name in progress(found.videos(split), f"{'linking' if linked else 'copying'} {split}", "video"):
            _bring(source / name, target / split / "videos" / name, linked)
        with atomic_write(target / split / ANNOTATIONS, overwrite) as temporary:
            temporary.write_text(text_of(found.rows[split]), encoding="utf-8")


def _bring(source: Path, target: Path, linked: bool) -> None:
    """A video in its new place; one that a run before has brought stays, but a link is no copy."""
    is_there = target.is_file() and (linked or not target.is_symlink())
    if is_there and target.stat().st_size == source.stat().st_size:
        return
    if not linked:
        with atomic_write(target, overwrite=True) as temporary:
            shutil.copyfile(source, temporary)
        return
    refuse_unwritable(target, overwrite=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    os.symlink(source.resolve(), target)
