"""Plugins that are single files: `vlmzoo --plugin my_connector.py`, `VLMZOO_PLUGINS`, `Catalogue.discover(extra=[...])`."""

import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from vlmzoo_registry.errors import PluginError


def import_reference(module_name: str, file: Path | None) -> ModuleType:
    """Import a module by name; where the plugin is a local file, the module of that name is the file itself.

    Raises `PluginError` where another module has already taken the file's name.
    """
    if file is None or module_name != file.stem:
        return import_module(module_name)
    loaded = sys.modules.get(module_name)
    if loaded is not None:
        place = getattr(loaded, "__file__", None)
        if place is None or Path(place).resolve() != file:
            raise PluginError(f"{file}: a module named `{module_name}` is loaded already, from {place}; rename the file")
        return loaded
    spec = spec_from_file_location(module_name, file)
    if spec is None or spec.loader is None:
        raise PluginError(f"{file} is not a Python file")
    module = module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module
