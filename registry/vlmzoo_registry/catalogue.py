"""Which components there are, as a value: a pure function of what is installed, so any process can rebuild it.

Configs carry names; the catalogue turns a kind and a name into a `Component`, or says why it cannot.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from os import PathLike

from vlmzoo_registry.component import Component
from vlmzoo_registry.discovery import discover
from vlmzoo_registry.errors import ConfigError, PluginError
from vlmzoo_registry.record import PluginRecord
from vlmzoo_registry.suggest import did_you_mean, nearest


@dataclass(frozen=True)
class Catalogue:
    """The plugins that discovery found, with the components of those that are well."""

    plugins: tuple[PluginRecord, ...]

    @classmethod
    def discover(cls, extra: Sequence[str | PathLike[str]] = ()) -> "Catalogue":
        """Look at every installed plugin, and at the local files in `extra`.

        A plugin that is broken becomes a record, never an exception.
        """
        return cls(discover(extra))

    def components(self, kind: str | None = None) -> list[Component]:
        """The components of one kind, or all, in the order of kind and full name."""
        found = [
            component
            for plugin in self.plugins
            if plugin.status == "ok"
            for component in plugin.components
            if kind in (None, component.spec.kind)
        ]
        return sorted(found, key=lambda component: (component.spec.kind, component.full_name))

    def get(self, kind: str, name: str) -> Component:
        """The component of this kind with this full name (`plugin/name`), or bare name where only one plugin has it.

        Raises `ConfigError` where there is none or more than one, and `PluginError` where its plugin is broken, in conflict
        with another, or blocked.
        """
        candidates = self.components(kind)
        matches = [component for component in candidates if name in (component.full_name, component.spec.name)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            names = " or ".join(f"`{component.full_name}`" for component in matches)
            raise ConfigError(f"{kind} `{name}` is provided by {len(matches)} plugins: write {names}")
        self._raise_for_plugin(kind, name)
        raise ConfigError(self._unknown(kind, name, candidates))

    def _raise_for_plugin(self, kind: str, name: str) -> None:
        """Raise the stored error of the plugin that would have provided this component."""
        prefix = name.partition("/")[0] if "/" in name else None
        for plugin in self.plugins:
            if plugin.status == "ok":
                continue
            bare = [component.spec.name for component in plugin.components if component.spec.kind == kind]
            if plugin.name == prefix or name in bare:
                raise PluginError(f"{kind} `{name}` cannot be used: {plugin.complaint()}")

    def _unknown(self, kind: str, name: str, candidates: list[Component]) -> str:
        full = [component.full_name for component in candidates]
        bare = [component.spec.name for component in candidates]
        same_bare = [component.full_name for component in candidates if component.spec.name == name.rpartition("/")[2]]
        others = [component for component in self.components() if name in (component.full_name, component.spec.name)]
        near = same_bare[0] if same_bare else nearest(name, [*full, *bare])
        text = f"no {kind} is named `{name}`"
        if others:
            text += f" (`{others[0].full_name}` is a {others[0].spec.kind})"
        if near is not None:
            text += f"; did you mean `{near}`?"
        silent = sorted({f"`{plugin.name}`" for plugin in self.plugins if plugin.status == "broken"})
        if silent:
            text += f" Broken plugins may provide it: {', '.join(silent)} (`vlmzoo doctor` says why)."
        if not candidates:
            kinds = {component.spec.kind for component in self.components()}
            text += f"{did_you_mean(kind, kinds)} There is no component of kind `{kind}`: `vlmzoo list` shows what there is."
        else:
            text += f" `vlmzoo list --kind {kind}` shows all {len(candidates)}."
        return text


@cache
def default_catalogue() -> Catalogue:
    """The catalogue of this process, discovered once."""
    return Catalogue.discover()
