"""Which components there are, as a value: a pure function of what is installed, so any process can rebuild it.

Configs carry names; the catalogue turns a kind and a name into a `Component`, or says why it cannot.
"""

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from os import PathLike

from vlmzoo_registry.component import Component
from vlmzoo_registry.discovery import blocked_names, discover
from vlmzoo_registry.errors import ConfigError, PluginError
from vlmzoo_registry.record import PluginRecord
from vlmzoo_registry.suggest import did_you_mean, nearest

KINDS = ("vision_encoder", "connector", "language_model", "layout", "objective", "template", "dataset", "rule", "metric")
"""The kinds that the zoo itself uses, in the order of `vlmzoo list`; a plugin may bring others."""


@dataclass(frozen=True)
class Catalogue:
    """The plugins that discovery found, with the components of those that are well."""

    plugins: tuple[PluginRecord, ...]
    unknown_blocks: tuple[str, ...] = ()

    @classmethod
    def discover(
        cls, extra: Sequence[str | PathLike[str]] = (), *, fresh: bool = False, quiet: bool = False, seconds: float = 10.0
    ) -> "Catalogue":
        """Look at every installed plugin, and at the local files in `extra` and in VLMZOO_PLUGINS.

        A plugin that is broken becomes a record and a line on stderr, once in each process; `quiet` leaves the telling to
        the caller. VLMZOO_BLOCK names plugins to leave alone. `fresh` scans even where an earlier scan still holds; `seconds`
        is what one manifest may take.

        Raises `ConfigError` for a local file that is not there and, unless `quiet`, `PluginError` with all that is wrong with
        any plugin where VLMZOO_STRICT is 1.
        """
        plugins = discover(extra, fresh, seconds)
        unknown = tuple(block for block in blocked_names() if not any(plugin.is_meant_by(block) for plugin in plugins))
        catalogue = cls(plugins, unknown)
        if not quiet and strict() and catalogue.complaints():
            raise PluginError("VLMZOO_STRICT=1, and not every plugin is well:", catalogue.complaints())
        if not quiet:
            _announce(catalogue.complaints())
        return catalogue

    def complaints(self) -> list[str]:
        """One line for each plugin that is broken or in conflict, and for each unknown name in VLMZOO_BLOCK."""
        ill = [plugin.complaint() for plugin in self.plugins if plugin.status in ("broken", "conflict")]
        return ill + self.unknown_block_notes()

    def unknown_block_notes(self) -> list[str]:
        """One line for each name in VLMZOO_BLOCK that no plugin has."""
        names = {plugin.name for plugin in self.plugins}
        return [
            f"VLMZOO_BLOCK names `{block}`, and there is no such plugin{did_you_mean(block, names)}"
            for block in self.unknown_blocks
        ]

    def components(self, kind: str | None = None) -> list[Component]:
        """The components of one kind, or all, in the order of `KINDS` and of full names.

        Raises `ConfigError` for a kind that neither the zoo nor any plugin knows.
        """
        found = [
            component
            for plugin in self.plugins
            if plugin.status == "ok"
            for component in plugin.components
            if kind in (None, component.spec.kind)
        ]
        if not found and kind is not None:
            self._check_kind(kind)
        return sorted(found, key=_order)

    def get(self, kind: str | None, name: str) -> Component:
        """The component of this kind with this full name (`plugin/name`), or bare name where only one plugin has it.

        With `kind=None` it may be of any kind.

        Raises `ConfigError` where there is none or more than one, and `PluginError` where its plugin is broken, in conflict
        with another, or blocked.
        """
        candidates = self.components(kind)
        matches = [component for component in candidates if name in (component.full_name, component.spec.name)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise ConfigError(_ambiguous(kind, name, matches))
        self._raise_for_plugin(kind, name)
        raise ConfigError(self._unknown(kind, name, candidates))

    def _check_kind(self, kind: str) -> None:
        kinds = dict.fromkeys([*KINDS, *(component.spec.kind for component in self.components())])
        if kind not in kinds:
            raise ConfigError(f"there is no kind `{kind}`{did_you_mean(kind, kinds) or f'; there are {_listed(kinds)}'}")

    def _raise_for_plugin(self, kind: str | None, name: str) -> None:
        """Raise the stored error of the plugin that would have provided this component."""
        prefix = name.partition("/")[0] if "/" in name else None
        for plugin in self.plugins:
            if plugin.status == "ok":
                continue
            bare = [component.spec.name for component in plugin.components if kind in (None, component.spec.kind)]
            if plugin.name == prefix or name in bare:
                raise PluginError(f"{kind or 'component'} `{name}` cannot be used: {plugin.complaint()}")

    def _unknown(self, kind: str | None, name: str, candidates: list[Component]) -> str:
        what = kind or "component"
        if not candidates:
            return f"no {what} is named `{name}`: no plugin that is well provides one (`vlmzoo doctor` looks at every plugin)"
        see = f"(`vlmzoo list{f' --kind {kind}' if kind else ''}` shows all {len(candidates)})"
        elsewhere = [component for component in self.components() if name in (component.full_name, component.spec.name)]
        if elsewhere:
            return f"no {what} is named `{name}`: `{elsewhere[0].full_name}` is a {elsewhere[0].spec.kind} {see}"
        same_bare = [component.full_name for component in candidates if component.spec.name == name.rpartition("/")[2]]
        names = [name for component in candidates for name in (component.full_name, component.spec.name)]
        near = same_bare[0] if same_bare else nearest(name, names)
        if near is not None:
            return f"no {what} is named `{name}`; did you mean `{near}`? {see}"
        broken = [plugin.name for plugin in self.plugins if plugin.status == "broken"]
        hint = f"; broken plugins may provide it: {_listed(broken)} (`vlmzoo doctor` says why)" if broken else ""
        return f"no {what} is named `{name}` {see}{hint}"


def default_catalogue() -> Catalogue:
    """The catalogue of this process: discovered once for each setting of VLMZOO_PLUGINS, VLMZOO_BLOCK and VLMZOO_STRICT."""
    return _discovered(*(os.environ.get(name) for name in ("VLMZOO_PLUGINS", "VLMZOO_BLOCK", "VLMZOO_STRICT")))


@cache
def _discovered(*settings: str | None) -> Catalogue:
    return Catalogue.discover()


_announced: set[str] = set()
"""Lines that this process has printed; a second catalogue does not say them again."""


def _announce(lines: Sequence[str]) -> None:
    for line in lines:
        if line not in _announced:
            print(f"vlmzoo: {line}", file=sys.stderr)
            _announced.add(line)


def _order(component: Component) -> tuple[int, str, str]:
    kind = component.spec.kind
    return (KINDS.index(kind) if kind in KINDS else len(KINDS), kind, component.full_name)


def _ambiguous(kind: str | None, name: str, matches: Sequence[Component]) -> str:
    kinds = sorted({component.spec.kind for component in matches})
    if len(kinds) > 1:
        names = ", ".join(f"{component.spec.kind} `{component.full_name}`" for component in matches)
        return f"`{name}` is the name of {len(matches)} components: {names}; say which kind"
    names = " or ".join(f"`{component.full_name}`" for component in matches)
    return f"{kind or kinds[0]} `{name}` is provided by {len(matches)} plugins: write {names}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def strict() -> bool:
    """Whether VLMZOO_STRICT asks for an error where any plugin is not well; raises `ConfigError` unless it is 0 or 1."""
    value = os.environ.get("VLMZOO_STRICT", "0")
    if value not in ("", "0", "1"):
        raise ConfigError(f"the environment variable VLMZOO_STRICT is {value!r}; it must be 0 or 1")
    return value == "1"
