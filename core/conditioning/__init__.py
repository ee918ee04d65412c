"""What a denoiser is given beside its text: frames of pictures and videos, facts of the clip."""
