"""What a run is made from beside its settings, by hashes and counts, so that going on with something else is seen.

Annotations and frozen models may change under the same path. A checkpoint keeps these in its state.json.
"""

from __future__ import annotations

from pathlib import Path

from ..config.training import TrainConfig
from ..data.annotations import annotation_files, videos_below
from ..data.fingerprints import json_fingerprint, model_fingerprint, weights_fingerprint
from ..data.labels import labelled_names
from ..data.sources import has_labels, labelled_folder
from ..errors import MediaError
from ..io.files import sha256
from .setup.parts import TrainParts


def origins(config: TrainConfig, parts: TrainParts) -> dict[str, str]:
    """Hashes of the annotations, and of the models that are used but not trained, by what names them.

    Of a folder of clips the names count, of what is in them nothing. Weights that follow from the seed are left out.
    Raises: MediaError when an annotation cannot be read; CheckpointError and LayoutError as opening weights does.
    """
    files = config.data.files if config.data.kind == "files" else ()
    found = {f"data.files {file}": _hash(file) for file in annotation_files(files)}
    if has_labels(config.data):
        folder = labelled_folder(config.data)
        found[f"data.files {folder}"] = json_fingerprint(labelled_names(config.data.kind, folder))
    for kind, part in parts.frozen.items():
        if not part.is_fresh:
            found[f"model.{kind} {part.source}"] = model_fingerprint(part)
    if parts.perceptual is not None:
        found["autoencoder.perceptual_backbone"] = weights_fingerprint(*parts.perceptual)
    return found


def _hash(file: Path) -> str:
    try:
        if file.is_dir():
            return json_fingerprint([str(video.relative_to(file)) for video in videos_below(file)])
        return sha256(file)
    except OSError as error:
        raise MediaError(f"{file}: cannot be read ({error.strerror or error})") from error
