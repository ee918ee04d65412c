"""The seam between core and the frameworks: what a backend is, and what passes between it and the rest of the house."""
