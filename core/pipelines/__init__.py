"""The pipelines, written once over `core.seam.backend.Backend`."""
