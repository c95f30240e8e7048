"""Reading one plugin's manifest: its light module is imported, its hook is called, and every description is checked.

Nothing is registered here: the answer is the list of descriptions, or one exception that says why there is none.
"""

from types import ModuleType

from packaging.requirements import InvalidRequirement, Requirement
from pluggy import PluginManager

from vlmzoo_registry import hooks
from vlmzoo_registry.errors import PluginError
from vlmzoo_registry.spec import API_VERSION, ComponentSpec
from vlmzoo_registry.suggest import did_you_mean

HOOK = "vlmzoo_components"


def read_manifest(module: ModuleType, plugin: str) -> tuple[ComponentSpec, ...]:
    """The descriptions that the plugin's hook returns; raises `PluginError` with every reason why they cannot be used."""
    manager = PluginManager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    manager.register(module, plugin)
    _refuse_unknown_hooks(manager, module)
    implementations = manager.hook.vlmzoo_components.get_hookimpls()
    if not implementations:
        undecorated = callable(getattr(module, HOOK, None))
        raise PluginError(
            f"module `{module.__name__}` has a function `{HOOK}` without the decorator `@hookimpl`"
            if undecorated
            else f"module `{module.__name__}` has no function `{HOOK}` decorated with `@hookimpl`"
        )
    answer = implementations[0].function()
    if not isinstance(answer, list):
        raise PluginError(f"`{HOOK}` returned {type(answer).__name__}, not list[ComponentSpec]")
    strangers = [(i, type(item).__name__) for i, item in enumerate(answer) if not isinstance(item, ComponentSpec)]
    if strangers:
        raise PluginError("; ".join(f"item {i} that `{HOOK}` returned is {name}, not ComponentSpec" for i, name in strangers))
    reasons = [reason for spec in answer for reason in _reasons(spec)]
    seen: set[tuple[str, str]] = set()
    for spec in answer:
        if (spec.kind, spec.name) in seen:
            reasons.append(f"{spec.kind} `{spec.name}` is described twice")
        seen.add((spec.kind, spec.name))
    if reasons:
        raise PluginError("; ".join(reasons))
    return tuple(answer)


def _refuse_unknown_hooks(manager: PluginManager, module: ModuleType) -> None:
    known = {name for name in vars(hooks) if name.startswith("vlmzoo_")}
    unknown = [name for name in vars(module) if name not in known and manager.parse_hookimpl_opts(module, name) is not None]
    if unknown:
        raise PluginError("; ".join(f"vlmzoo has no hook `{name}`{did_you_mean(name, known)}" for name in unknown))
    manager.check_pending()


def _reasons(spec: ComponentSpec) -> list[str]:
    reasons = []
    if spec.api != API_VERSION:
        other = "newer" if spec.api > API_VERSION else "older"
        reasons.append(
            f"{spec.kind} `{spec.name}` is written for plugin API {spec.api}, and this vlmzoo understands API {API_VERSION}: "
            f"it takes a release of the plugin for API {API_VERSION}, or {'a' if other == 'newer' else 'an'} {other} vlmzoo"
        )
    for requirement in spec.requires:
        try:
            Requirement(requirement)
        except InvalidRequirement as error:
            message = str(error).splitlines()[0]
            reasons.append(f"{spec.kind} `{spec.name}`: `requires` holds {requirement!r}: {message}")
    return reasons
