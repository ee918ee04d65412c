"""PyTorch implementations of the models."""
