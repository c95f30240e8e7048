"""Every way of being broken, all installed at once: each is told apart, and the good ones do not notice."""

import re
import sys
from dataclasses import dataclass

import pytest

from vlmzoo_registry import Catalogue, ConfigError, PluginError

HEAD = "from vlmzoo_registry import ComponentSpec, hookimpl\n"
GOOD = 'ComponentSpec(kind="connector", name="good", factory="json:loads", summary="A part.")'
HOOK = "@hookimpl\ndef vlmzoo_components():\n    "


@dataclass(frozen=True)
class Fault:
    """A plugin's text, and what must stand in its record."""

    text: str
    error: str
    remedy: str = r"pip install --upgrade dist-\w+, or set VLMZOO_BLOCK=\w+ to do without it"


FAULTS = {
    "missing_package": Fault(
        "import not_installed.deep\n",
        r"ModuleNotFoundError: No module named 'not_installed' \(.*fake_dist_missing_package_missing_package\.py:1\)",
        r"install the package that provides `not_installed`, or set VLMZOO_BLOCK=missing_package",
    ),
    "import_error": Fault("from json import no_such\n", r"ImportError: cannot import name 'no_such' from 'json' .*\.py:1\)"),
    "syntax": Fault(HEAD + "def (:\n", r"SyntaxError: .*fake_dist_syntax_syntax\.py:2\)"),
    "raises": Fault(HEAD + "\nraise RuntimeError('line one\\nline two')\n", r"RuntimeError: line one line two \(.*\.py:3\)"),
    "exits": Fault("import sys\nsys.exit(3)\n", r"SystemExit: 3 \(.*fake_dist_exits_exits\.py:2\)"),
    "interrupts": Fault("raise KeyboardInterrupt\n", r"KeyboardInterrupt: no message"),
    "hook_raises": Fault(HEAD + HOOK + "return 1 / 0\n", r"ZeroDivisionError: division by zero \(.*hook_raises\.py:4\)"),
    "dies": Fault("import os\nos._exit(0)\n", r"its manifest ended the process that read it \(exit status 0\)"),
    "killed": Fault(
        "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n",
        r"its manifest ended the process that read it \(signal SIGKILL\)",
    ),
    "hangs": Fault(
        "import time\n\n\ntime.sleep(600)\n", r"its manifest did not return in time \(.*fake_dist_hangs_hangs\.py:4\)"
    ),
    "hangs_native": Fault(  # PyDLL keeps the interpreter lock: no Python thread could end this
        "import ctypes\nctypes.PyDLL(None).sleep(600)\n",
        r"its manifest did not return in time \(.*fake_dist_hangs_native_hangs_native\.py:2\)",
    ),
    "no_hook": Fault("x = 1\n", r"module `fake_dist_no_hook_no_hook` has no function `vlmzoo_components` decorated with"),
    "undecorated": Fault(
        HEAD + f"def vlmzoo_components():\n    return [{GOOD}]\n", r"has a function `vlmzoo_components` without the decorator"
    ),
    "misspelt": Fault(
        HEAD + f"@hookimpl\ndef vlmzoo_componets():\n    return [{GOOD}]\n",
        r"vlmzoo has no hook `vlmzoo_componets`; did you mean `vlmzoo_components`\?",
    ),
    "extra_hook": Fault(
        HEAD + HOOK + f"return [{GOOD}]\n\n@hookimpl\ndef vlmzoo_connectors():\n    pass\n",
        r"vlmzoo has no hook `vlmzoo_connectors`; did you mean `vlmzoo_components`\?",
    ),
    "argument": Fault(
        HEAD + "@hookimpl\ndef vlmzoo_components(kind):\n    return []\n", r"PluginValidationError: .*Argument\(s\) \{'kind'\}"
    ),
    "returns_none": Fault(HEAD + HOOK + "pass\n", r"`vlmzoo_components` returned NoneType, not list\[ComponentSpec\]"),
    "returns_dict": Fault(HEAD + HOOK + "return {}\n", r"`vlmzoo_components` returned dict, not list\[ComponentSpec\]"),
    "returns_dicts": Fault(
        HEAD + HOOK + f"return [{GOOD}, {{}}]\n", r"item 1 that `vlmzoo_components` returned is dict, not ComponentSpec"
    ),
    "twice": Fault(HEAD + HOOK + f"return [{GOOD}, {GOOD}]\n", r"connector `good` is described twice"),
    "api_new": Fault(
        HEAD + HOOK + f"return [{GOOD[:-1]}, api=2)]\n",
        r"connector `good` is written for plugin API 2, and this vlmzoo understands API 1: it takes a release of the plugin "
        r"for API 1, or a newer vlmzoo",
    ),
    "api_old": Fault(HEAD + HOOK + f"return [{GOOD[:-1]}, api=0)]\n", r"written for plugin API 0.*or an older vlmzoo"),
    "unknown_field": Fault(
        HEAD + HOOK + f"return [{GOOD[:-1]}, colour='red')]\n",
        r"ValidationError: ComponentSpec field `colour` \(='red'\): Extra inputs are not permitted \(.*unknown_field\.py:4\)",
    ),
    "requires": Fault(
        HEAD + HOOK + f"return [{GOOD[:-1]}, requires=('timm >> 1',))]\n",
        r"connector `good`: `requires` holds 'timm >> 1': Expected",
    ),
    "not_data": Fault(
        HEAD + HOOK + f"return [{GOOD[:-1]}, tiny={{'x': object()}})]\n", r"PydanticSerializationError: .*object"
    ),
    "heavy": Fault(
        HEAD + "import torch.nn\n" + HOOK + f"return [{GOOD}]\n",
        r"heavy manifest: it imports `torch` \(.*fake_dist_heavy_heavy\.py:2\)",
        r'name factory and config as "module:attribute" strings, in modules that the manifest does not import',
    ),
    "heavy_hidden": Fault(
        HEAD + "try:\n    import timm\nexcept ImportError:\n    timm = None\n" + HOOK + f"return [{GOOD}]\n",
        r"heavy manifest: it imports `timm` \(.*fake_dist_heavy_hidden_heavy_hidden\.py:3\)",
        r'"module:attribute"',
    ),
    "heavy_hook": Fault(
        HEAD + HOOK + f"import peft\n    return [{GOOD}]\n",
        r"heavy manifest: it imports `peft` \(.*fake_dist_heavy_hook_heavy_hook\.py:4\)",
        r'"module:attribute"',
    ),
    "asks_back": Fault(
        HEAD + "import vlmzoo_registry\nvlmzoo_registry.default_catalogue()\n",
        r"the catalogue was asked for while it is being made: a manifest must only describe components",
    ),
}

WELL = {
    "plain": HEAD + HOOK + f"return [{GOOD}]\n",
    "prints": HEAD + "import sys\nprint('{\"record\": 1}')\nprint('noise', file=sys.stderr)\n" + HOOK + f"return [{GOOD}]\n",
    "reads": HEAD + "import sys\nassert sys.stdin.read() == ''\n" + HOOK + f"return [{GOOD}]\n",
    "threads": HEAD
    + "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()\n"
    + HOOK
    + f"return [{GOOD}]\n",
    "looks": HEAD
    + "from importlib.util import find_spec\nassert find_spec('torch') is not None\n"
    + HOOK
    + f"return [{GOOD}]\n",
    "zzz_last": HEAD + HOOK + f"return [{GOOD}]\n",
}


@pytest.fixture(scope="module")
def catalogue(module_site):
    for name, text in {**{name: fault.text for name, fault in FAULTS.items()}, **WELL}.items():
        module_site.add(f"dist-{name}", {name: text}, version="3.2")
    module_site.metadata("garbled", "0.9", "[vlmzoo.plugins]\nthis line has no equals sign\n")
    module_site.metadata("strange-name", "0.1", "[vlmzoo.plugins]\nmy plugin = json\n")
    module_site.metadata("strange-value", "0.1", "[vlmzoo.plugins]\nstrange_value = json:loads\n")
    module_site.metadata("gone", "0.1", "[vlmzoo.plugins]\ngone = package_that_was_deleted.plugin\n")
    return Catalogue.discover(quiet=True, seconds=3.0)


def record(catalogue, name):
    found = [plugin for plugin in catalogue.plugins if plugin.name == name]
    assert len(found) == 1, f"{name}: {found}"
    return found[0]


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_recorded_with_its_cause_and_a_remedy(catalogue, name):
    plugin = record(catalogue, name)
    assert plugin.status == "broken"
    assert plugin.components == ()
    assert re.search(FAULTS[name].error, plugin.error), plugin.error
    assert re.search(FAULTS[name].remedy, plugin.remedy), plugin.remedy
    line = plugin.complaint()
    assert line.startswith(f"plugin `{name}` (entry point, dist-{name} 3.2) is broken: ")
    assert "\n" not in line


@pytest.mark.parametrize("name", WELL)
def test_good_plugins_beside_all_the_broken_ones_work(catalogue, name):
    assert record(catalogue, name).status == "ok"
    assert catalogue.get("connector", f"{name}/good").load_factory().__name__ == "loads"


def test_first_party_plugins_are_untouched_by_the_broken_ones(catalogue):
    assert catalogue.get("connector", "connectors/linear").distribution == "vlmzoo"


def test_garbled_metadata_costs_its_own_distribution_only(catalogue):
    plugin = record(catalogue, "garbled")
    assert (plugin.status, plugin.distribution, plugin.version) == ("broken", "garbled", "0.9")
    assert plugin.error.startswith("its installed metadata cannot be read: ")
    assert plugin.remedy == "reinstall it: pip install --force-reinstall garbled"


def test_entry_points_that_name_no_module_are_refused(catalogue):
    assert "the name `my plugin` of the entry point has signs other than" in record(catalogue, "my plugin").error
    assert record(catalogue, "strange_value").error == "the entry point's value `json:loads` is not the name of a module"


def test_an_orphaned_installation_gets_its_remedy(catalogue):
    plugin = record(catalogue, "gone")
    assert plugin.error == "ModuleNotFoundError: No module named 'package_that_was_deleted'"
    assert plugin.remedy.startswith("pip install --force-reinstall gone (files missing, or stale metadata), or ")


def test_asking_for_a_component_of_a_broken_plugin_raises_the_stored_error(catalogue):
    with pytest.raises(PluginError) as caught:
        catalogue.get("connector", "exits/anything")
    assert str(caught.value) == f"connector `exits/anything` cannot be used: {record(catalogue, 'exits').complaint()}"
    assert caught.value.exit_code == 4


def test_an_unknown_bare_name_mentions_the_broken_plugins(catalogue):
    with pytest.raises(ConfigError, match=r"no connector is named `qqqqqqqq`.*broken plugins may provide it: .*`exits`"):
        catalogue.get("connector", "qqqqqqqq")


def test_nothing_of_the_plugins_was_imported_here(catalogue):
    assert [name for name in sys.modules if name.startswith("fake_dist_")] == []
