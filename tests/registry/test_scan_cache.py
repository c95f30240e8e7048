"""The cache saves the scan while nothing has changed, sees every change, and costs nothing when it is damaged."""

import json
import os

import pytest

from vlmzoo_registry import Catalogue
from vlmzoo_registry import discovery as discovery_module
from vlmzoo_registry import scan_cache as scan_cache_module


@pytest.fixture
def scans(monkeypatch):
    """Counts how often manifests are really read."""
    calls = []
    real = discovery_module.run_scan

    def counted(request):
        calls.append(request)
        return real(request)

    monkeypatch.setattr(discovery_module, "run_scan", counted)
    return calls


@pytest.fixture
def alpha(site, make_manifest, make_spec):
    site.add("dist-a", {"alpha": make_manifest(make_spec("x"))})
    return site.folder / "fake_dist_a_alpha.py"


def names(plugin="alpha"):
    return [component.spec.name for component in Catalogue.discover(quiet=True).components() if component.plugin == plugin]


def cache_file():
    (file,) = (scan_cache_module.cache_folder() / "catalogue").glob("*.json")
    return file


def test_a_second_discovery_reads_no_manifest(alpha, scans):
    assert names() == ["x"]
    assert names() == ["x"]
    assert len(scans) == 1
    Catalogue.discover(fresh=True, quiet=True)
    assert len(scans) == 2


def test_an_edited_manifest_is_seen(alpha, scans, make_manifest, make_spec):
    assert names() == ["x"]
    alpha.write_text(make_manifest(make_spec("x"), make_spec("another")), encoding="utf-8")
    assert names() == ["another", "x"]
    assert len(scans) == 2


def test_a_module_that_the_manifest_imports_is_watched_too(site, scans, make_manifest):
    helper = site.write("fake_helper_module.py", "NAMES = ['one']\n")
    text = (
        "from vlmzoo_registry import ComponentSpec, hookimpl\nfrom fake_helper_module import NAMES\n@hookimpl\n"
        "def vlmzoo_components():\n"
        "    return [ComponentSpec(kind='connector', name=n, factory='json:loads', summary='s') for n in NAMES]\n"
    )
    site.add("dist-a", {"alpha": text})
    assert names() == ["one"]
    helper.write_text("NAMES = ['one', 'two']\n", encoding="utf-8")
    assert names() == ["one", "two"]


def test_an_installation_and_a_removal_are_seen(alpha, site, scans, make_manifest, make_spec):
    assert names("beta") == []
    site.add("dist-b", {"beta": make_manifest(make_spec("y"))})
    assert names("beta") == ["y"]
    (site.folder / "dist_b-1.0.dist-info" / "entry_points.txt").unlink()
    assert names("beta") == []


def test_changed_entry_points_are_seen(alpha, site, scans):
    assert names() == ["x"]
    site.metadata("dist-a", "1.0", "[vlmzoo.plugins]\nrenamed = fake_dist_a_alpha\n")
    assert names() == []
    assert names("renamed") == ["x"]


def test_a_broken_plugin_is_seen_to_be_well_again(site, scans, make_manifest, make_spec):
    site.metadata("dist-a", "1.0", "[vlmzoo.plugins]\nalpha = fake_later.inner.plugin\n")
    site.write("fake_later/__init__.py", "")
    assert names() == []
    assert names() == []
    assert len(scans) == 1, "a broken plugin is kept in the cache too"
    site.write("fake_later/inner/__init__.py", "")
    assert names() == []
    site.write("fake_later/inner/plugin.py", "import (\n")
    assert names() == []
    site.write("fake_later/inner/plugin.py", make_manifest(make_spec("x")))
    assert names() == ["x"]


def test_what_hung_is_looked_at_again(site, scans):
    site.add("dist-a", {"alpha": "import time\ntime.sleep(600)\n"})
    for _ in range(2):
        Catalogue.discover(quiet=True, seconds=1.0)
    assert len(scans) == 2


def test_another_block_list_or_path_is_another_scan(alpha, scans, monkeypatch, tmp_path):
    names()
    monkeypatch.setenv("VLMZOO_BLOCK", "alpha")
    assert names() == []
    monkeypatch.delenv("VLMZOO_BLOCK")
    assert names() == ["x"]
    assert len(scans) == 2
    (tmp_path / "more").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "more"))
    assert names() == ["x"]
    assert len(scans) == 3


def damage_truncate(text):
    return text[: len(text) // 2]


def damage_flip(text):
    return text.replace('"name": "x"', '"name": "z"')


def damage_empty(text):
    return ""


def damage_other_json(text):
    return "[1, 2]"


def damage_null(text):
    return "null"


def damage_format(text):
    data = json.loads(text)
    data["content"]["format"] = 999
    return json.dumps({"digest": scan_cache_module._digest(data["content"]), "content": data["content"]})


def damage_shape(text):
    data = json.loads(text)
    del data["content"]["records"][0]["specs"]
    return json.dumps({"digest": scan_cache_module._digest(data["content"]), "content": data["content"]})


@pytest.mark.parametrize(
    "damage",
    [damage_truncate, damage_flip, damage_empty, damage_other_json, damage_null, damage_format, damage_shape],
    ids=lambda damage: damage.__name__,
)
def test_a_damaged_cache_is_ignored_and_written_again(alpha, scans, damage):
    names()
    before = cache_file().read_text(encoding="utf-8")
    damaged = damage(before)
    assert damaged != before
    cache_file().write_text(damaged, encoding="utf-8")
    assert names() == ["x"]
    assert len(scans) == 2
    assert names() == ["x"]
    assert len(scans) == 2


def test_bytes_that_are_no_text_are_ignored(alpha, scans):
    names()
    cache_file().write_bytes(b"\xff\xfe\x00\x01")
    assert names() == ["x"]


def test_a_cache_folder_that_cannot_be_made_is_done_without(alpha, scans, monkeypatch, tmp_path):
    (tmp_path / "a-file").write_text("in the way", encoding="utf-8")
    monkeypatch.setenv("VLMZOO_CACHE", str(tmp_path / "a-file" / "cache"))
    for _ in range(2):
        assert names() == ["x"]
    assert len(scans) == 2


def test_only_so_many_scans_are_kept(alpha, scans, monkeypatch):
    monkeypatch.setattr(scan_cache_module, "FILES", 2)
    for block in ("a", "b", "c"):
        monkeypatch.setenv("VLMZOO_BLOCK", block)
        names()
    folder = scan_cache_module.cache_folder() / "catalogue"
    assert len(list(folder.glob("*.json"))) == 2
    assert list(folder.glob("*.tmp")) == []
    names()
    assert len(scans) == 3, "the newest is kept"


def test_the_platform_chooses_the_folder_where_the_user_does_not(monkeypatch):
    monkeypatch.delenv("VLMZOO_CACHE", raising=False)
    assert scan_cache_module.cache_folder().name == "vlmzoo"
    monkeypatch.setenv("VLMZOO_CACHE", os.path.join("some", "where"))
    assert str(scan_cache_module.cache_folder()) == os.path.join("some", "where")
