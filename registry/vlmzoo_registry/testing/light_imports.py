"""A script: which frameworks do these modules import? Run as a file, in a process that has imported none so far.

Prints one JSON object, module name -> what was refused (with file and line) or the error that ended its import.
"""

import json
import sys
from importlib import import_module

from vlmzoo_registry.heavy import HEAVY, LightImports
from vlmzoo_registry.report import failure


def imports_of(module: str) -> list[str]:
    """The frameworks that the import of a module asks for, or why it cannot be imported."""
    light = LightImports()
    try:
        with light:
            import_module(module)
    except (Exception, SystemExit) as error:
        return light.refused or [f"it cannot be imported: {failure(error)}"]
    return light.refused or [f"`{name}`" for name in HEAVY if name in sys.modules]


if __name__ == "__main__":
    print(json.dumps({module: imports_of(module) for module in sys.argv[1:]}))
