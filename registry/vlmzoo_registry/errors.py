"""The errors of vlmzoo: one class per exit code, and every reason said at once.

A message says what went wrong, where (file:line, row id or field), the numbers on both sides, the nearest valid name, and
what to do. Whoever finds several reasons collects them and raises once.
"""

from collections.abc import Sequence


class VlmzooError(Exception):
    """Base of every error that is written for the reader; anything else that escapes is a fault of vlmzoo itself."""

    exit_code = 1

    def __init__(self, message: str, reasons: Sequence[str] = ()) -> None:
        self.message = message
        self.reasons = tuple(reasons)
        super().__init__(message if not reasons else message + "".join(f"\n  - {reason}" for reason in reasons))


class ConfigError(VlmzooError):
    """A config or recipe that cannot be understood: unknown key, wrong type, unknown component."""

    exit_code = 2


class AssemblyError(ConfigError):
    """Parts that are each well described but do not fit together."""


class DataError(VlmzooError):
    """A row, image or batch that cannot be used; names the row and the field."""

    exit_code = 3


class PluginError(VlmzooError):
    """A plugin that cannot be loaded, or one of its components that breaks its contract."""

    exit_code = 4


class CheckpointError(VlmzooError):
    """A checkpoint that is damaged, incomplete, or made of other parts."""

    exit_code = 5


class ResourceError(VlmzooError):
    """Not enough disk, memory or permission."""

    exit_code = 6
