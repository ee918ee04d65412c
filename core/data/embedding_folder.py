"""Text states that the MindSpore port of Open-Sora Plan wrote: a folder with a .npz for every caption.

In a data list of three columns (`media_folder,embedding_folder,annotation.json`) the second names such a folder. The
states of caption `i` of the item with path `a/b.mp4` are in `a/b-i.npz`, also where the item has one caption only:
`text_emb` (L, D) or (1, L, D) floats, `mask` (L,) or (1, L), above 0 where a token counts.
Source: examples/opensora_pku of mindspore-lab/mindone, opensora/sample/sample_text_embed.py and
opensora/dataset/t2v_datasets.py.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path, PurePosixPath

import numpy as np

from ..errors import MediaError

STATES, MASK = "text_emb", "mask"


def embedding_path(folder: Path, item: str, caption: int) -> Path:
    """The file for a caption of the item with that path in the annotation."""
    media = PurePosixPath(item)
    return folder / media.with_name(f"{media.stem}-{caption}.npz")


class EmbeddingFolder:
    """Reads the states of captions from such a folder; each read opens its file anew."""

    def __init__(self, folder: Path, channels: int | None = None) -> None:
        """channels: of the text encoder that the denoiser was made for. Raises: MediaError when there is no folder."""
        if not folder.is_dir():
            raise MediaError(f"{folder}: there is no such folder of text embeddings")
        self.folder, self.channels = folder, channels

    def states(self, item: str, caption: int = 0) -> np.ndarray:
        """(L, D) float32 without padding.

        Raises: MediaError when the file is missing, damaged, or does not hold the states of a caption.
        """
        path = embedding_path(self.folder, item, caption)
        states, mask = _arrays(path)
        states = states[0] if states.ndim == 3 and len(states) == 1 else states
        mask = mask[0] if mask.ndim == 2 and len(mask) == 1 else mask
        if states.ndim != 2 or mask.shape != states.shape[:1]:
            raise MediaError(
                f"{path}: {STATES} {states.shape} and {MASK} {mask.shape} are not the states and mask of one caption, "
                "(tokens, channels) and (tokens,)"
            )
        if states.dtype.kind != "f" or mask.dtype.kind not in "biuf":
            raise MediaError(f"{path}: {STATES} is {states.dtype} and {MASK} {mask.dtype}; expected floats and numbers")
        if self.channels not in (None, states.shape[1]):
            raise MediaError(
                f"{path}: its states have {states.shape[1]} channels, the model reads {self.channels}; "
                "they are of another text encoder"
            )
        kept = states[mask > 0].astype(np.float32)
        if not len(kept) or not np.isfinite(kept).all():
            raise MediaError(
                f"{path}: {'no token counts' if not len(kept) else 'holds NaN or infinity'}; make it again"
            )
        return kept


def _arrays(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The two arrays of a file, as they are."""
    try:
        loaded = np.load(path, allow_pickle=False)
        held = dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else {}
    except FileNotFoundError as error:
        raise MediaError(f"{path}: there is no such file; each caption needs its text embedding") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise MediaError(f"{path}: cannot be read as .npz ({error}); make it again") from error
    if not {STATES, MASK} <= held.keys():
        raise MediaError(f"{path}: holds {', '.join(held) or 'no named arrays'}; expected {STATES} and {MASK}")
    return held[STATES], held[MASK]
