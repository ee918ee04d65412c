"""Training data and the tiny model's world, framework-free."""
