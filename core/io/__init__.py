"""Files in and out: weights, videos, images, prompts, tokenisers. Nothing here knows a framework."""
