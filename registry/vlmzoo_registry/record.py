"""What discovery found out about one plugin; kept for every plugin, the broken ones above all."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from packaging.utils import canonicalize_name

from vlmzoo_registry.component import Component
from vlmzoo_registry.spec import ComponentSpec

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
        state = "in conflict" if self.status == "conflict" else self.status
        reason = f": {self.error}" if self.error else " by VLMZOO_BLOCK"
        return f"{self} is {state}{reason}{'; remedy: ' + self.remedy if self.remedy else ''}"

    def is_meant_by(self, block: str) -> bool:
        """Whether an item of VLMZOO_BLOCK, `name` or `distribution:name`, means this plugin."""
        owner, _, name = block.rpartition(":")
        return name == self.name and (not owner or canonicalize_name(owner) == canonicalize_name(self.distribution))

    def to_json(self) -> dict[str, Any]:
        """Plain data, for the scan's result and the cache."""
        return {
            "name": self.name,
            "distribution": self.distribution,
            "version": self.version,
            "reference": self.reference,
            "status": self.status,
            "error": self.error,
            "remedy": self.remedy,
            "specs": [component.spec.model_dump(mode="json") for component in self.components],
            "file": None if self.file is None else str(self.file),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "PluginRecord":
        """What `to_json` wrote; raises KeyError, TypeError or pydantic's ValidationError for anything else."""
        file = None if data["file"] is None else Path(data["file"])
        name, distribution, version = data["name"], data["distribution"], data["version"]
        components = tuple(
            Component(name, ComponentSpec.model_validate(spec), distribution, version, file) for spec in data["specs"]
        )
        texts = (data["reference"], data["status"], data["error"], data["remedy"])
        return cls(name, distribution, version, *texts, components, file)
