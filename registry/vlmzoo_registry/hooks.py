"""The hooks a plugin can implement. One screen, on purpose."""

import pluggy

from vlmzoo_registry.spec import ComponentSpec

PROJECT = "vlmzoo"
ENTRY_POINT_GROUP = "vlmzoo.plugins"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def vlmzoo_components() -> list[ComponentSpec]:
    """Describe the components this plugin provides.

    Called once per discovery, in a module that must import nothing heavier than `vlmzoo_registry`.
    """
    raise NotImplementedError
