"""OpenSoraT2V v1.3 and its inpaint sibling: published files have the names of the layout."""

from . import mindone

RULES = mindone.RULES
