"""The only room of this backend that knows of ranks."""
