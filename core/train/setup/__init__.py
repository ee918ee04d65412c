"""From the settings of a training run to its parts; each is made from its own group of settings."""
