"""What core asks of the frameworks, and what they hand back."""
