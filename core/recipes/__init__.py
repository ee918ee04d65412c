"""Published systems: which presets go together, and how prompts, sizes and pictures are treated."""
