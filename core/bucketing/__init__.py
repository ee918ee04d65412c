"""Which size, length and batch a sample of the training data gets."""
