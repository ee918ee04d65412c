"""The one error family of duosora.

A DuosoraError is the user's to mend: the command line prints it as one line on stderr and exits with code 2.
Anything else is our own slip and keeps its traceback.
"""


class DuosoraError(ValueError):
    """What was expected, what came, where, and how to mend it, in one sentence."""

    is_told = False
    """Whether another process of the same run prints it."""


class ConfigError(DuosoraError):
    """A setting is unknown, doubled, of the wrong type or does not fit the others."""


class LayoutError(DuosoraError):
    """Weights do not fit the layout of the model they are meant for."""


class ShapeError(DuosoraError):
    """A size cannot be used: frames, height, width, tokens, channels."""


class CheckpointError(DuosoraError):
    """A weights file or folder is missing, damaged or of an unknown kind."""


class MediaError(DuosoraError):
    """A video, an image, a prompt file or a tokeniser cannot be read or written."""


class NumericsError(DuosoraError):
    """A computation left the finite numbers (NaN or infinity)."""


class BackendMissing(DuosoraError):
    """The asked-for framework or device is not there."""


class PackageMissing(DuosoraError):
    """An optional package is not installed or does not load."""


class OutOfMemory(DuosoraError):
    """The memory of the host or of a device does not hold what was asked for."""
