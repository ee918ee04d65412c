"""Frozen specs of the models and the layout (name, shape, dtype, init) of their weights."""
