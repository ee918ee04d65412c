"""Whether the tensors that are to become a model's weights can be weights, before anything is written."""

from __future__ import annotations

from ..core.io.weights import holds_only_zeros
from ..core.loading import refuse_integers, refuse_zeros
from .matching import Renaming
from .names import NAMES
from .naming import UNNAMED
from .readers.stored import TensorSource
from .rules import pattern_of


def refuse_unsound(source: TensorSource, made: Renaming) -> None:
    """Raise LayoutError for weights that are integers, CheckpointError for matrices that were not downloaded.

    Of weights that keep their names, whatever they are, nothing is known.
    """
    if made.model == UNNAMED:
        return
    new_names = {name: new for new, origin in made.origins.items() for name in origin.names}
    refuse_integers(source.source, {name: source.dtype(name) for name in new_names})
    may_be_zeros = NAMES[made.model].zeros()
    matrices = [
        name for name, new in new_names.items() if len(source.shape(name)) > 1 and pattern_of(new) not in may_be_zeros
    ]
    refuse_zeros(source.source, [name for name in matrices if holds_only_zeros(source, name)], len(matrices))
