"""LoRA: adapters and which layers have them, their files in all spellings, and models that they are merged into."""
