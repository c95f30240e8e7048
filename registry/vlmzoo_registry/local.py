"""Plugins that are single files: `vlmzoo --plugin my_connector.py`, `VLMZOO_PLUGINS`, `Catalogue.discover(extra=[...])`.

The file's stem is the plugin's name and the name of its module: `"my_connector:MyConnector"` is a class in the file itself.
"""

import sys
from collections.abc import Iterable
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import module_from_spec, spec_from_file_location
from os import PathLike
from pathlib import Path
from types import ModuleType

from vlmzoo_registry.errors import ConfigError, PluginError


def local_files(files: Iterable[str | PathLike[str]]) -> tuple[Path, ...]:
    """The absolute paths of local plugin files, each once; raises `ConfigError` with every reason why some cannot be used."""
    resolved = list(dict.fromkeys(Path(file).expanduser().resolve() for file in files))
    reasons = [reason for file in resolved if (reason := _reason_against(file)) is not None]
    stems = [file.stem for file in resolved]
    for stem in sorted({stem for stem in stems if stems.count(stem) > 1}):
        both = ", ".join(str(file) for file in resolved if file.stem == stem)
        reasons.append(f"{both}: the plugin's name is the file's, so two files `{stem}.py` cannot be used together")
    if reasons:
        raise ConfigError("these local plugin files cannot be used:", reasons)
    return tuple(resolved)


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
            raise PluginError(f"a module named `{module_name}` is loaded already, from {place}: rename {file}")
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


def _reason_against(file: Path) -> str | None:
    if not file.is_file():
        return f"{file}: there is no such file"
    if file.suffix != ".py" or not file.stem.isidentifier():
        return f"{file}: a plugin file is named like a Python module, for instance `my_connector.py`"
    taken = PathFinder.find_spec(file.stem)
    place = None if taken is None or taken.origin is None else Path(taken.origin).resolve()
    if file.stem in sys.stdlib_module_names or (taken is not None and place != file):
        return f"{file}: `{file.stem}` is the name of another module ({place or 'built in'}): rename the file"
    return None
