"""The parts there are, for programs: `vlmzoo.components()`."""

from vlmzoo_registry import Component, default_catalogue


def components(kind: str | None = None) -> list[Component]:
    """The components that installed plugins describe, of one kind or of all; nothing heavy is imported."""
    return default_catalogue().components(kind)
