"""Converters between checkpoint formats; they import core and no framework."""
