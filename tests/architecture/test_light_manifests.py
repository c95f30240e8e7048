"""Looking at the parts loads no framework, in this process or in the scan; every reference of every part resolves."""

import json
import subprocess
import sys

import pytest

from vlmzoo_registry import Catalogue
from vlmzoo_registry.heavy import HEAVY

HEAVIER = (*HEAVY, "accelerate", "torchvision", "numpy", "tokenizers")


def loaded_after(code):
    """Which frameworks a fresh process has loaded after running this code."""
    lines = f"import json, sys\n{code}\nprint(json.dumps([name for name in {HEAVIER!r} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_this_test_can_see_a_framework():
    assert "numpy" in loaded_after("import numpy")


@pytest.mark.parametrize(
    "code",
    [
        "import vlmzoo_registry",
        "import vlmzoo",
        "import vlmzoo.cli",
        "from vlmzoo_registry import Catalogue; Catalogue.discover(fresh=True)",
        "from vlmzoo_registry import Catalogue\nfor component in Catalogue.discover().components(): component.load_config()",
        # Without the scan's guard: the manifests themselves, in this process.
        "from importlib.metadata import entry_points\nfor point in entry_points(group='vlmzoo.plugins'):\n"
        "    assert point.load().vlmzoo_components()",
    ],
    ids=["registry", "zoo", "command line", "discovery", "configs", "manifests"],
)
def test_nothing_heavy_is_loaded_by(code):
    assert loaded_after(code) == []


def test_every_first_party_plugin_is_well_and_all_its_references_resolve():
    catalogue = Catalogue.discover(fresh=True, quiet=True)
    assert catalogue.complaints() == []
    plugins = {plugin.name for plugin in catalogue.plugins if plugin.distribution == "vlmzoo"}
    assert plugins == {"connectors", "layouts", "open_clip", "tasks", "timm", "toy", "transformers"}
    components = [component for component in catalogue.components() if component.distribution == "vlmzoo"]
    assert {component.plugin for component in components} == plugins
    for component in components:
        config = component.load_config()
        assert callable(component.load_factory())
        if component.spec.tiny is not None:
            config.model_validate(component.spec.tiny)
