"""Names: full and bare, ambiguous and unknown; conflicts between distributions; blocking; strictness; what is printed."""

import itertools
import os
import sys
import tempfile
from dataclasses import FrozenInstanceError

import pytest

from vlmzoo_registry import Catalogue, ConfigError, PluginError, ResourceError, default_catalogue
from vlmzoo_registry import scan_process as scan_process_module


def status(catalogue, name):
    return sorted((plugin.distribution, plugin.status) for plugin in catalogue.plugins if plugin.name == name)


def test_a_component_says_where_it_comes_from(site, make_manifest, make_spec):
    site.add("vlmzoo-rainbow", {"rainbow": make_manifest(make_spec("gated", paper="arXiv:1"))}, version="3.2")
    component = Catalogue.discover().get("connector", "rainbow/gated")
    assert (component.plugin, component.full_name) == ("rainbow", "rainbow/gated")
    assert (component.distribution, component.version) == ("vlmzoo-rainbow", "3.2")
    assert component.spec.paper == "arXiv:1"
    assert component.file is None
    with pytest.raises(FrozenInstanceError):
        component.plugin = "other"


def test_descriptions_survive_the_way_through_the_scan_and_the_cache(site, make_manifest, make_spec):
    tiny = {"depth": 2, "sizes": [1, 2.5], "nested": {"on": True, "none": None, "word": "é"}}
    text = make_spec("x", tiny=tiny, requires=("packaging>=20",), capabilities=frozenset({"layers", "more"}), license="MIT")
    site.add("dist-a", {"alpha": make_manifest(text)})
    for _ in range(2):
        spec = Catalogue.discover().get("connector", "alpha/x").spec
        assert (spec.tiny, spec.requires, spec.license) == (tiny, ("packaging>=20",), "MIT")
        assert spec.capabilities == {"layers", "more"}


def test_a_bare_name_works_while_one_plugin_has_it(site, make_manifest, make_spec):
    site.add("dist-a", {"alpha": make_manifest(make_spec("only-here"), make_spec("shared"))})
    site.add("dist-b", {"beta": make_manifest(make_spec("shared"), make_spec("only-here", kind="metric"))})
    catalogue = Catalogue.discover()
    assert catalogue.get("connector", "only-here").full_name == "alpha/only-here"
    assert catalogue.get("metric", "only-here").full_name == "beta/only-here"
    assert catalogue.get(None, "alpha/only-here").spec.kind == "connector"
    with pytest.raises(ConfigError) as caught:
        catalogue.get("connector", "shared")
    assert str(caught.value) == "connector `shared` is provided by 2 plugins: write `alpha/shared` or `beta/shared`"
    with pytest.raises(ConfigError) as caught:
        catalogue.get(None, "only-here")
    assert str(caught.value) == (
        "`only-here` is the name of 2 components: connector `alpha/only-here`, metric `beta/only-here`; say which kind"
    )


def test_first_party_names_are_not_special(site, make_manifest, make_spec):
    site.add("dist-a", {"alpha": make_manifest(make_spec("resampler"))})
    with pytest.raises(ConfigError, match="write `alpha/resampler` or `connectors/resampler`"):
        Catalogue.discover().get("connector", "resampler")


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        (
            "connector",
            "alpha/reshufler",
            "no connector is named `alpha/reshufler`; did you mean `alpha/reshuffler`? (`vlmzoo list",
        ),
        ("connector", "reshufler", "no connector is named `reshufler`; did you mean `reshuffler`?"),
        ("connector", "beta/reshuffler", "no connector is named `beta/reshuffler`; did you mean `alpha/reshuffler`?"),
        ("connector", "shuffler", "no connector is named `shuffler`; did you mean `reshuffler`?"),
        (
            "connector",
            "blurb",
            "no connector is named `blurb`: `alpha/blurb` is a novelty (`vlmzoo list --kind connector` shows all",
        ),
        (
            "novelty",
            "alpha/blur",
            "no novelty is named `alpha/blur`; did you mean `alpha/blurb`? (`vlmzoo list --kind novelty` shows all 1)",
        ),
        ("conector", "x", "there is no kind `conector`; did you mean `connector`?"),
        (
            "zzzzzz",
            "x",
            "there is no kind `zzzzzz`; there are `vision_encoder`, `connector`, `language_model`, `layout`, `objective`, ",
        ),
    ],
)
def test_unknown_names_get_the_nearest_and_a_command(site, make_manifest, make_spec, kind, name, message):
    site.add("dist-a", {"alpha": make_manifest(make_spec("reshuffler"), make_spec("blurb", kind="novelty"))})
    with pytest.raises(ConfigError) as caught:
        Catalogue.discover().get(kind, name)
    assert str(caught.value).startswith(message)
    assert caught.value.exit_code == 2


def test_no_part_of_a_name_is_a_name(site, make_manifest, make_spec):
    site.add("dist-a", {"alpha": make_manifest(make_spec("reshuffler"))})
    catalogue = Catalogue.discover()
    for name in ("reshuffle", "alpha", "alpha/", "/reshuffler", "alpha/reshuffler/", "ALPHA/reshuffler", ""):
        with pytest.raises(ConfigError):
            catalogue.get("connector", name)


def test_components_come_by_kind_and_then_by_name(site, make_manifest, make_spec):
    site.add(
        "dist-a",
        {
            "alpha": make_manifest(
                make_spec("b"), make_spec("a"), make_spec("n", kind="novelty"), make_spec("v", kind="vision_encoder")
            )
        },
    )
    catalogue = Catalogue.discover()
    mine = [component.full_name for component in catalogue.components() if component.plugin == "alpha"]
    assert mine == ["alpha/v", "alpha/a", "alpha/b", "alpha/n"]
    assert [component.spec.name for component in catalogue.components("novelty")] == ["n"]
    mine = [component for component in catalogue.components("metric") if component.plugin == "alpha"]
    assert mine == []  # a kind that is known, of which this plugin has none
    with pytest.raises(ConfigError, match=r"there is no kind `conectors`; did you mean `connector`\?"):
        catalogue.components("conectors")


class TestTwoDistributionsWithOnePluginName:
    def test_different_components_live_side_by_side(self, site, make_manifest, make_spec):
        site.add("dist-a", {"rainbow": make_manifest(make_spec("red"))})
        site.add("dist-b", {"rainbow": make_manifest(make_spec("blue"))})
        catalogue = Catalogue.discover()
        assert catalogue.get("connector", "rainbow/red").distribution == "dist-a"
        assert catalogue.get("connector", "rainbow/blue").distribution == "dist-b"

    def test_one_full_name_refuses_both_and_names_both(self, site, make_manifest, make_spec, capsys):
        site.add("dist-a", {"rainbow": make_manifest(make_spec("red"), make_spec("blue"))}, version="1.0")
        site.add("dist-b", {"rainbow": make_manifest(make_spec("red"))}, version="2.0")
        site.add("dist-c", {"rainbow": make_manifest(make_spec("green"))})
        catalogue = Catalogue.discover()
        assert status(catalogue, "rainbow") == [("dist-a", "conflict"), ("dist-b", "conflict"), ("dist-c", "ok")]
        expected = (
            "plugin `rainbow` (entry point, dist-a 1.0) is in conflict: connector `rainbow/red` is provided by dist-a 1.0 and "
            "dist-b 2.0; remedy: uninstall one, or set VLMZOO_BLOCK=dist-a:rainbow or VLMZOO_BLOCK=dist-b:rainbow to do "
            "without one"
        )
        assert f"vlmzoo: {expected}\n" in capsys.readouterr().err
        for name in ("rainbow/red", "rainbow/blue", "red", "blue"):
            with pytest.raises(PluginError) as caught:
                catalogue.get("connector", name)
            assert str(caught.value) == f"connector `{name}` cannot be used: {expected}"
        assert catalogue.get("connector", "green").distribution == "dist-c"

    def test_blocking_one_distribution_keeps_the_other(self, site, make_manifest, make_spec, monkeypatch):
        site.add("dist-a", {"rainbow": make_manifest(make_spec("red"))})
        site.add("dist-b", {"rainbow": make_manifest(make_spec("red"))})
        monkeypatch.setenv("VLMZOO_BLOCK", "Dist_A:rainbow")
        catalogue = Catalogue.discover()
        assert status(catalogue, "rainbow") == [("dist-a", "blocked"), ("dist-b", "ok")]
        assert catalogue.get("connector", "red").distribution == "dist-b"
        assert catalogue.unknown_blocks == ()

    def test_the_order_of_the_path_changes_nothing(self, site, make_manifest, make_spec, monkeypatch, tmp_path):
        for folder, name in itertools.product(("one", "two", "three"), ("red",)):
            other = type(site)(tmp_path / folder)
            other.add(f"dist-{folder}", {"rainbow": make_manifest(make_spec(name)), folder: make_manifest(make_spec(folder))})
        results = set()
        for order in itertools.permutations(("one", "two", "three")):
            with monkeypatch.context() as patch:
                patch.setattr(sys, "path", [*(str(tmp_path / folder) for folder in order), *sys.path])
                catalogue = Catalogue.discover(quiet=True)
            results.add((str(catalogue.plugins), str(catalogue.components())))
        assert len(results) == 1
        assert results.pop()[0].count("conflict") == 3

    def test_two_versions_of_one_distribution_are_no_conflict(self, site, make_manifest, make_spec, monkeypatch, tmp_path):
        older = type(site)(tmp_path / "older")
        older.add("dist-a", {"rainbow": make_manifest(make_spec("red"))}, version="0.9")
        site.add("dist-a", {"rainbow": make_manifest(make_spec("blue"))}, version="1.0")
        monkeypatch.setattr(sys, "path", [*sys.path, str(older.folder)])
        catalogue = Catalogue.discover()
        assert status(catalogue, "rainbow") == [("dist-a", "ok")]
        assert catalogue.get("connector", "rainbow/blue").version == "1.0"


def test_a_blocked_plugin_is_not_even_imported(site, make_manifest, make_spec, monkeypatch, tmp_path):
    witness = tmp_path / "imported"
    site.add("dist-a", {"alpha": make_manifest(make_spec("x"), before=f"open({str(witness)!r}, 'w').close()")})
    monkeypatch.setenv("VLMZOO_BLOCK", " alpha , toy")
    catalogue = Catalogue.discover()
    assert not witness.exists()
    assert status(catalogue, "alpha") == [("dist-a", "blocked")]
    with pytest.raises(PluginError) as caught:
        catalogue.get("connector", "alpha/x")
    assert str(caught.value) == (
        "connector `alpha/x` cannot be used: plugin `alpha` (entry point, dist-a 1.0) is blocked by VLMZOO_BLOCK"
    )
    monkeypatch.delenv("VLMZOO_BLOCK")
    assert Catalogue.discover().get("connector", "alpha/x")
    assert witness.exists()


def test_an_unknown_name_in_the_block_list_is_reported(site, make_manifest, make_spec, monkeypatch, capsys):
    site.add("dist-a", {"alpha": make_manifest(make_spec("x"))})
    monkeypatch.setenv("VLMZOO_BLOCK", "alhpa,dist-b:alpha,,alpha")
    assert Catalogue.discover().unknown_blocks == ("alhpa", "dist-b:alpha")
    assert "vlmzoo: VLMZOO_BLOCK names `alhpa`, and there is no such plugin; did you mean `alpha`?\n" in capsys.readouterr().err


def test_each_broken_plugin_is_one_line_on_stderr_once(site, capsys):
    site.add("dist-a", {"sadly": "raise OSError('no\\nluck')\n"})
    Catalogue.discover(quiet=True)
    assert capsys.readouterr().err == ""
    Catalogue.discover()
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if "sadly" in line]
    assert len(lines) == 1
    assert lines[0].startswith("vlmzoo: plugin `sadly` (entry point, dist-a 1.0) is broken: OSError: no luck (")
    assert lines[0].endswith("; remedy: pip install --upgrade dist-a, or set VLMZOO_BLOCK=sadly to do without it")
    assert captured.out == ""
    Catalogue.discover()
    assert capsys.readouterr().err == ""


def test_strict_raises_at_once_with_every_reason(site, make_manifest, make_spec, monkeypatch):
    site.add("dist-a", {"alpha": "raise OSError('a')\n"})
    site.add("dist-b", {"beta": "x = 1\n"})
    monkeypatch.setenv("VLMZOO_BLOCK", "nobody")
    monkeypatch.setenv("VLMZOO_STRICT", "1")
    with pytest.raises(PluginError, match="VLMZOO_STRICT=1, and not every plugin is well:") as caught:
        Catalogue.discover()
    for word in ("plugin `alpha` (entry point, dist-a 1.0) is broken: OSError: a", "plugin `beta`", "names `nobody`"):
        assert sum(word in reason for reason in caught.value.reasons) == 1
    assert Catalogue.discover(quiet=True).plugins
    monkeypatch.setenv("VLMZOO_STRICT", "yes")
    with pytest.raises(ConfigError, match="the environment variable VLMZOO_STRICT is 'yes'; it must be 0 or 1"):
        Catalogue.discover()


def test_discover_is_a_fresh_value_and_the_default_a_cached_one(site, monkeypatch):
    assert Catalogue.discover() == Catalogue.discover()
    assert Catalogue.discover() is not Catalogue.discover()
    assert default_catalogue() is default_catalogue()
    before = default_catalogue()
    monkeypatch.setenv("VLMZOO_BLOCK", "toy")
    assert default_catalogue() is not before
    assert [plugin.name for plugin in default_catalogue().plugins if plugin.status == "blocked"] == ["toy"]


def test_a_plugin_that_switches_off_the_watchdog_is_caught_by_the_last_resort(site, make_manifest, make_spec, monkeypatch):
    site.add("dist-a", {"stubborn": "import faulthandler, time\nfaulthandler.cancel_dump_traceback_later()\ntime.sleep(600)\n"})
    site.add("dist-b", {"zeta": make_manifest(make_spec("x"))})
    monkeypatch.setattr(scan_process_module, "patience", lambda request: 4.0)
    catalogue = Catalogue.discover(quiet=True)
    assert [plugin.error for plugin in catalogue.plugins if plugin.name == "stubborn"] == [
        "its manifest did not return in time"
    ]
    assert catalogue.get("connector", "zeta/x")


def test_a_scan_that_cannot_start_says_why(site, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    with pytest.raises(ResourceError, match=r"the scan for plugins cannot start the Python `.*no-python`: .*No such file"):
        Catalogue.discover()
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path / "no-folder"))
        with pytest.raises(
            ResourceError, match=r"the scan for plugins needs a temporary folder that can be written: .*no-folder"
        ):
            Catalogue.discover()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(PluginError, match=r"the scan for plugins ended early \(exit status 1\): no message"):
        Catalogue.discover()


def test_the_scan_leaves_the_environment_of_this_process_alone(site):
    before = dict(os.environ)
    path = list(sys.path)
    Catalogue.discover(fresh=True)
    assert dict(os.environ) == before
    assert sys.path == path
