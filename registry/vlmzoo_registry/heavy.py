"""Refuses the import of a framework while a manifest is read, and remembers who asked for it.

A manifest that imports torch would make every command start seconds later, in every process.
"""

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType, TracebackType

HEAVY = ("torch", "transformers", "timm", "open_clip", "peft")


class HeavyImportError(ImportError):
    """A manifest imported a framework."""


class _RefusingLoader(Loader):
    def __init__(self, name: str, refused: list[str]) -> None:
        self.name = name
        self.refused = refused

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        self.refused.append(f"`{self.name}` ({_importer()})")
        raise HeavyImportError(f"a manifest must not import `{self.name}`")


class LightImports(MetaPathFinder):
    """While this context is entered, heavy packages can be found (`find_spec`) but not imported.

    `refused` keeps what was tried, with file and line, so that a manifest that swallows the error is found out too.
    """

    def __init__(self) -> None:
        self.refused: list[str] = []

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The true spec of a heavy package with a loader that refuses; None for everything else."""
        if fullname.partition(".")[0] not in HEAVY:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None:
            spec.loader = _RefusingLoader(fullname, self.refused)
        return spec

    def __enter__(self) -> "LightImports":
        sys.meta_path.insert(0, self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        sys.meta_path.remove(self)


def _importer() -> str:
    """File and line of the import statement that is running, past the frames of the import system and of this file."""
    frame = sys._getframe()
    while frame.f_back is not None and (frame.f_code.co_filename == __file__ or "importlib" in frame.f_code.co_filename):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
