"""What discovery found out about one plugin; kept for every plugin, the broken ones above all."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vlmzoo_registry.component import Component

Status = Literal["ok", "broken", "blocked", "conflict"]


@dataclass(frozen=True)
class PluginRecord:
    """One plugin: an entry point of an installed distribution, or a local file.

    `reference` is the value of the entry point (a module name) or the file's path. `error` says on one line why the plugin is
    `broken` or in `conflict`, `remedy` what to do about it; both are empty where the status is `ok` or `blocked`.
    `components` are what an `ok` plugin provides, and what a plugin in `conflict` would have provided.
    """

    name: str
    distribution: str
    version: str
    reference: str
    status: Status
    error: str = ""
    remedy: str = ""
    components: tuple[Component, ...] = ()
    file: Path | None = None

    @property
    def identity(self) -> str:
        """`distribution:name`: tells apart two distributions that give their plugins the same name."""
        return f"{self.distribution}:{self.name}"

    def __str__(self) -> str:
        kind = "local file" if self.file is not None else "entry point"
        where = self.reference if self.file is not None else f"{self.distribution} {self.version}"
        return f"plugin `{self.name}` ({kind}, {where})"

    def complaint(self) -> str:
        """One line: which plugin, what is wrong with it, what to do."""
        return f"{self} is {'in conflict' if self.status == 'conflict' else self.status}: {self.error}; {self.remedy}"
