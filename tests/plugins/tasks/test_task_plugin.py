"""The plugin's description is light, and every factory and config it names is there."""

import subprocess
import sys
from importlib import import_module

from vlmzoo_registry import ComponentConfig
from vlmzoo_registry.tasks import Dataset, Metric, Objective, Rule, Template
from vlmzoo_tasks.plugin import vlmzoo_components

CONTRACTS = {"template": Template, "objective": Objective, "dataset": Dataset, "metric": Metric, "rule": Rule}


def attribute(reference: str):
    module, name = reference.split(":")
    return getattr(import_module(module), name)


def test_components_are_what_they_say():
    specs = vlmzoo_components()
    assert {f"{spec.kind} {spec.name}" for spec in specs} >= {
        "template plain",
        "template vicuna_v1",
        "template chatml_direct",
        "objective caption",
        "objective instruct",
        "dataset captions",
        "dataset llava",
        "dataset sheet",
    }
    for spec in specs:
        config = attribute(spec.config)
        assert issubclass(config, ComponentConfig)
        factory = attribute(spec.factory)
        assert factory.__doc__
        assert isinstance(factory(config(**spec.tiny)), CONTRACTS[spec.kind])


def test_description_and_options_load_nothing_heavy():
    script = (
        "import sys, vlmzoo_tasks.plugin as plugin, vlmzoo_tasks.config\n"
        "assert len(plugin.vlmzoo_components()) >= 8\n"
        "print([name for name in ('torch', 'transformers', 'PIL', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
