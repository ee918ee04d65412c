"""MindSpore implementations of the models."""
