"""A file is a plugin too: found, read, imported under its own name, and found again by child processes."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

from vlmzoo_registry import Catalogue, ConfigError, PluginError

TEXT = """
from vlmzoo_registry import ComponentConfig, ComponentSpec, hookimpl

class GatedConfig(ComponentConfig):
    width: int = 3

class Gated:
    def __init__(self, config):
        self.config = config

@hookimpl
def vlmzoo_components():
    return [ComponentSpec(
        kind="connector", name="gated", factory="{stem}:Gated", config="{stem}:GatedConfig", summary="A part.",
    )]
"""


@pytest.fixture
def write(tmp_path):
    def write(stem, text=TEXT, folder="plugins"):
        file = tmp_path / folder / f"{stem}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(textwrap.dedent(text).replace("{stem}", stem), encoding="utf-8")
        return file

    yield write
    for name in [name for name in sys.modules if name.startswith("local_")]:
        del sys.modules[name]


def test_a_file_is_a_plugin_named_after_it(site, write):
    file = write("local_gate")
    component = Catalogue.discover([file]).get("connector", "local_gate/gated")
    assert component.file == file
    assert component.distribution == "local_gate.py"
    assert component.version.startswith("sha256:")
    assert "local_gate" not in sys.modules
    config = component.load_config()(width=5)
    assert component.load_factory()(config).config.width == 5
    assert component.load_factory() is component.load_factory()
    assert type(config).__module__ == "local_gate"


def test_the_version_follows_the_content(site, write):
    first = Catalogue.discover([write("local_gate")]).get("connector", "gated").version
    second = Catalogue.discover([write("local_gate", TEXT + "# more\n")]).get("connector", "gated").version
    assert first != second


def test_only_a_catalogue_that_was_given_the_file_has_it(site, write):
    Catalogue.discover([write("local_gate")])
    with pytest.raises(ConfigError):
        Catalogue.discover().get("connector", "local_gate/gated")


def test_a_local_file_may_import_a_framework_and_manifests_still_may_not(site, write):
    site.write("open_clip/__init__.py", "")  # a small one, found before the real one
    file = write("local_gate", "import open_clip\n" + TEXT.lstrip())
    site.add("dist-z", {"zzz": "import open_clip\n"})
    code = (
        "import sys; from vlmzoo_registry import Catalogue\n"
        f"catalogue = Catalogue.discover([{str(file)!r}], quiet=True)\n"
        "assert catalogue.get('connector', 'local_gate/gated')\n"
        "assert [plugin.error[:14] for plugin in catalogue.plugins if plugin.name == 'zzz'] == ['heavy manifest']\n"
        "print([name for name in ('torch', 'open_clip', 'local_gate') if name in sys.modules])"
    )
    path = os.pathsep.join([str(site.folder), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_child_processes_rebuild_the_same_catalogue(site, write, monkeypatch):
    files = [write("local_gate"), write("local_other")]
    monkeypatch.setenv("VLMZOO_PLUGINS", os.pathsep.join(map(str, files)))
    here = [component.full_name for component in Catalogue.discover(quiet=True).components()]
    assert {"local_gate/gated", "local_other/gated"} <= set(here)
    code = (
        "import json; from vlmzoo_registry import Catalogue; "
        "print(json.dumps([component.full_name for component in Catalogue.discover(quiet=True).components()]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == here


def test_a_file_named_twice_is_read_once(site, write, monkeypatch):
    file = write("local_gate")
    monkeypatch.setenv("VLMZOO_PLUGINS", str(file))
    found = [plugin for plugin in Catalogue.discover([file, str(file)]).plugins if plugin.name == "local_gate"]
    assert len(found) == 1


def test_a_broken_file_is_a_record_with_its_place(site, write, capsys):
    file = write("local_sad", "x = 1\n\nraise ValueError('no')\n")
    catalogue = Catalogue.discover([file])
    line = f"plugin `local_sad` (local file, {file}) is broken: ValueError: no ({file}:3); remedy: correct {file}"
    assert f"vlmzoo: {line}\n" in capsys.readouterr().err
    with pytest.raises(PluginError) as caught:
        catalogue.get("connector", "local_sad/gated")
    assert str(caught.value) == f"connector `local_sad/gated` cannot be used: {line}"


def test_a_file_that_dies_is_blamed(site, write):
    file = write("local_dies", "import os\nos._exit(7)\n")
    (plugin,) = [plugin for plugin in Catalogue.discover([file], quiet=True).plugins if plugin.name == "local_dies"]
    assert plugin.error == "its manifest ended the process that read it (exit status 7)"
    assert plugin.remedy == f"correct {file}"


def test_all_reasons_against_files_at_once(site, write, tmp_path):
    for stem in ("json", "timm", "my-part"):
        write(stem)
    (tmp_path / "plugins" / "notes.txt").write_text("", encoding="utf-8")
    twins = [write("local_twin", folder="one"), write("local_twin", folder="two")]
    names = ["json.py", "timm.py", "my-part.py", "notes.txt", "absent.py", ""]
    with pytest.raises(ConfigError, match="these local plugin files cannot be used:") as caught:
        Catalogue.discover([*(tmp_path / "plugins" / name for name in names), *twins])
    reasons = caught.value.reasons
    folder = tmp_path / "plugins"
    assert reasons[0].startswith(f"{folder / 'json.py'}: `json` is the name of another module (")
    assert reasons[1].startswith(f"{folder / 'timm.py'}: `timm` is the name of another module (")
    assert reasons[2] == f"{folder / 'my-part.py'}: a plugin file is named like a Python module, for instance `my_connector.py`"
    assert reasons[3].startswith(f"{folder / 'notes.txt'}: a plugin file is named like")
    assert reasons[4] == f"{folder / 'absent.py'}: there is no such file"
    assert reasons[5] == f"{folder}: there is no such file"
    assert reasons[6] == (
        f"{twins[0]}, {twins[1]}: the plugin's name is the file's, so two files `local_twin.py` cannot be used together"
    )
    assert len(reasons) == 7


def test_a_file_whose_folder_is_on_the_path_is_the_same_module(site, write, monkeypatch):
    file = write("local_gate")
    monkeypatch.syspath_prepend(str(file.parent))
    import local_gate

    assert Catalogue.discover([file]).get("connector", "local_gate/gated").load_factory() is local_gate.Gated


def test_a_module_that_took_the_name_since_is_refused(site, write, monkeypatch):
    file = write("local_gate")
    component = Catalogue.discover([file]).get("connector", "local_gate/gated")
    other = type(sys)("local_gate")
    other.__file__ = "elsewhere.py"
    monkeypatch.setitem(sys.modules, "local_gate", other)
    with pytest.raises(
        PluginError, match=r"a module named `local_gate` is loaded already, from elsewhere\.py: rename .*local_gate"
    ):
        component.load_factory()


def test_a_failed_import_leaves_no_half_module(site, write):
    file = write("local_gate")
    component = Catalogue.discover([file]).get("connector", "local_gate/gated")
    file.write_text(TEXT.replace("{stem}", "local_gate") + "\nraise OSError('now it fails')\n", encoding="utf-8")
    with pytest.raises(PluginError, match=r"OSError: now it fails \(.*local_gate\.py:\d+\); see .*local_gate\.py"):
        component.load_factory()
    assert "local_gate" not in sys.modules
