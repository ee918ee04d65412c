"""Names that MindSpore's own layers, and so mindone's checkpoints, give to weights."""

from ..rules import Rename

_NOT_IN_THE_NAME = "whether a weight belongs to a norm or an embedding is not in its name"
RULES = (
    Rename("{*}.gamma", "{*}.weight", one_way=_NOT_IN_THE_NAME),
    Rename("{*}.beta", "{*}.bias", one_way=_NOT_IN_THE_NAME),
    Rename("{*}.embedding_table", "{*}.weight", one_way=_NOT_IN_THE_NAME),
)
