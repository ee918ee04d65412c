"""The pipelines, written once over `core.backend.Backend`."""
