"""What holds for every component, whatever its kind: a light description, options that nobody can misspell unnoticed."""

import json
import os
import subprocess
import sys
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vlmzoo_registry.component import Component
from vlmzoo_registry.hooks import ENTRY_POINT_GROUP
from vlmzoo_registry.testing.check import CheckFailure, CheckFunction, NotApplicable, require
from vlmzoo_registry.testing.harnesses import builder_for
from vlmzoo_registry.testing.network import no_network
from vlmzoo_registry.testing.tiny import read_config, tiny_config

UNKNOWN_OPTION = "an_option_that_there_is_not"


def imports_no_framework(component: Component) -> None:
    """The description and the options are read without importing torch, transformers, timm, open_clip or peft.

    Why: `vlmzoo list`, `vlmzoo schema` and every check of a recipe read them for all plugins; one that imports torch makes
    each of these start seconds later, in every process.

    If it fails: keep the config class in a module of its own that imports only `vlmzoo_registry` (and pydantic), import the
    framework in the module of the factory, and name both as `"module:attribute"` strings.
    """
    if component.file is not None:
        raise NotApplicable("a plugin that is one local file holds its code beside its description")
    modules = {component.spec.config.partition(":")[0], *_manifests(component)}
    reasons = [
        f"module `{module}`: {reason}" for module, found in sorted(_imports(tuple(sorted(modules))).items()) for reason in found
    ]
    require(not reasons, "reading it asks for a framework", reasons)


def refuses_unknown_options(component: Component) -> None:
    """An option that the config class has no field for is an error, and a config does not change once it is made.

    Why: an option that is silently ignored costs somebody a training run that was not what they asked for.

    If it fails: derive the config class from `vlmzoo_registry.ComponentConfig` and leave `extra="forbid"` and `frozen=True`
    in its `model_config` as they are.
    """
    options = component.load_config()
    given = {**(component.spec.tiny or {}), UNKNOWN_OPTION: 1}
    try:
        options.model_validate_json(json.dumps(given), strict=True)
    except ValidationError as error:
        refused = [reason for reason in error.errors() if reason["loc"] == (UNKNOWN_OPTION,)]
        require(bool(refused), f"{options.__name__} does not complain about the unknown option", [str(error)])
    else:
        raise CheckFailure(f"{options.__name__} takes the option `{UNKNOWN_OPTION}`, which no field reads")
    require(options.model_config.get("frozen") is True, f"{options.__name__} is not frozen, so its values can change later")


def options_survive_a_round_trip(component: Component) -> None:
    """The tiny options, written as JSON with every default and read again, are equal to what they were.

    Why: a checkpoint's `config.json` keeps the options in this form; what does not come back builds another part.

    If it fails: a field's type must be able to say everything its value does in JSON. Usual causes are a validator that
    changes what it is given each time, a field that is excluded from the dump, and a default that is not valid itself.
    """
    config = tiny_config(component)
    written = json.dumps(config.model_dump(mode="json"))
    again = read_config(component, json.loads(written))
    differing = [
        f"`{name}`: {getattr(config, name)!r} became {getattr(again, name)!r}"
        for name in type(config).model_fields
        if getattr(config, name) != getattr(again, name)
    ]
    require(not differing, "options changed on their way through JSON", differing)
    require(json.dumps(again.model_dump(mode="json")) == written, f"written twice, the options differ: {written}")


def builds_tiny_offline(component: Component) -> None:
    """The description's `tiny` options build an instance of the kind's contract with no network.

    Why: the other checks, the tests of the zoo and `vlmzoo check` run on it, on machines that reach no hub.

    If it fails: give `tiny` options that describe a small architecture with random weights (a dataset: files that come with
    the plugin), and fetch nothing that `tiny` does not name. The network counts as used even where the error is swallowed.
    """
    require(
        component.spec.tiny is not None,
        "the description has no `tiny`: options that build a small instance offline, so nothing can be checked",
    )
    with no_network() as tried:
        error: Exception | None = None
        try:
            builder_for(component)(component)
        except Exception as raised:
            error = raised
    require(not tried, "it reaches for the network", list(dict.fromkeys(tried)))
    if error is not None:
        raise error


CHECKS: tuple[CheckFunction, ...] = (imports_no_framework, refuses_unknown_options, options_survive_a_round_trip)


def _manifests(component: Component) -> list[str]:
    """The module of the plugin's manifest; none for a component that was put together by hand."""
    found = entry_points(group=ENTRY_POINT_GROUP, name=component.plugin)
    return [point.module for point in found if point.dist is not None and point.dist.name == component.distribution]


@cache
def _imports(modules: tuple[str, ...]) -> dict[str, list[str]]:
    """What importing each of these modules asks for, in a process that has imported nothing."""
    script = Path(__file__).with_name("light_imports.py")
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYDANTIC_DISABLE_PLUGINS": "__all__"}
    done = subprocess.run(
        [sys.executable, "-P", str(script), *modules], env=variables, capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode != 0:
        raise CheckFailure(f"importing {', '.join(modules)} ended the process: {done.stderr.strip()[-500:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer
