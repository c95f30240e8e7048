"""One component of the catalogue: its description, where it comes from, and how its code is imported when it is needed."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from vlmzoo_registry.config import ComponentConfig
from vlmzoo_registry.errors import PluginError, VlmzooError
from vlmzoo_registry.local import import_reference
from vlmzoo_registry.report import failure
from vlmzoo_registry.spec import ComponentSpec
from vlmzoo_registry.suggest import did_you_mean


@dataclass(frozen=True)
class Component:
    """A component as discovered: plain data until `load_config` or `load_factory` imports its code.

    `plugin` is the name of the entry point (or the stem of a local file); `distribution` and `version` say who ships it (for
    a local file: the file's name, and a digest of its content); `file` is the path of a local file plugin, else None.
    """

    plugin: str
    spec: ComponentSpec
    distribution: str
    version: str
    file: Path | None = None

    @property
    def full_name(self) -> str:
        """`plugin/name`, unique among the components of one kind."""
        return f"{self.plugin}/{self.spec.name}"

    def __str__(self) -> str:
        return f"{self.spec.kind} `{self.full_name}` ({self.distribution} {self.version})"

    def load_config(self) -> type[ComponentConfig]:
        """Import the class of this component's options.

        Raises `PluginError` where it cannot be imported or is no `ComponentConfig`.
        """
        value = self._load(self.spec.config, "config")
        if not (isinstance(value, type) and issubclass(value, ComponentConfig)):
            raise PluginError(
                f"{self}: config `{self.spec.config}` is {value!r}, which is not a class derived from `ComponentConfig`"
            )
        return value

    def load_factory(self) -> Callable[..., Any]:
        """Import what builds this component.

        Raises `PluginError` where it cannot be imported (naming the missing package and the `pip install` line) or called.
        """
        value = self._load(self.spec.factory, "factory")
        if not callable(value):
            raise PluginError(f"{self}: factory `{self.spec.factory}` is {value!r}, which cannot be called")
        return value

    def _load(self, reference: str, role: str) -> Any:
        module_name, attribute = reference.split(":")
        module = self._import(module_name, reference, role)
        if not hasattr(module, attribute):
            near = did_you_mean(attribute, (name for name in vars(module) if not name.startswith("__")))
            raise PluginError(f"{self}: {role} `{reference}`: module `{module_name}` has no attribute `{attribute}`{near}")
        return getattr(module, attribute)

    def _import(self, module_name: str, reference: str, role: str) -> ModuleType:
        where = f"{self}: {role} `{reference}` cannot be imported"
        try:
            return import_reference(module_name, self.file)
        except VlmzooError as error:
            raise PluginError(f"{where}: {error}") from error
        except ModuleNotFoundError as error:
            missing = error.name or "?"
            own = missing == module_name or module_name.startswith(missing + ".")
            raise PluginError(f"{where}: {failure(error)}; {self._remedy(missing, own)}") from error
        except (Exception, SystemExit) as error:
            raise PluginError(f"{where}: {failure(error)}; {self._install()}") from error

    def _remedy(self, missing: str, own: bool) -> str:
        if own:
            return f"the plugin names a module that it does not ship: tell the authors of {self.distribution}"
        return f"package `{missing.partition('.')[0]}` is missing: {self._install()}"

    def _install(self) -> str:
        if self.spec.requires:
            return "pip install " + " ".join(f'"{requirement}"' for requirement in self.spec.requires)
        if self.file is not None:
            return f"see {self.file}"
        return f"pip install --upgrade {self.distribution}"
