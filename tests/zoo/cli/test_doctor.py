"""`vlmzoo doctor` finds every way in which plugins are not well, and always ends well itself."""

import json

import pytest


def words(text):
    return " ".join(text.split())


@pytest.fixture
def ward(vlmzoo, manifest, tmp_path):
    """One of each: well, well with something missing, broken, in conflict, blocked, stale, installed twice."""
    vlmzoo.install("dist-well", "well", manifest("part"))
    vlmzoo.install("dist-poor", "poor", manifest("part", requires=("absent-package>=2", "pluggy>=1000", "pluggy")))
    vlmzoo.install("dist-sad", "sad", "raise OSError('no luck')\n", version="0.3")
    vlmzoo.install("dist-one", "twin", manifest("part"))
    vlmzoo.install("dist-two", "twin", manifest("part"))
    vlmzoo.install("dist-shut", "shut", "raise OSError('never read')\n")
    info = vlmzoo.install("dist-stale", "stale", manifest("part"))
    project = tmp_path / "project"
    project.mkdir()
    (project / "pyproject.toml").write_text('[project.entry-points."vlmzoo.plugins"]\nfresh = "x"\n', encoding="utf-8")
    origin = {"url": project.as_uri(), "dir_info": {"editable": True}}
    (info / "direct_url.json").write_text(json.dumps(origin), encoding="utf-8")
    other = vlmzoo.site / "dist_well-0.9.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: dist-well\nVersion: 0.9\n", encoding="utf-8")
    return vlmzoo


BLOCK = {"VLMZOO_BLOCK": "shut,sda"}


def test_every_finding_in_both_forms(ward):
    done = ward("doctor", "--json", **BLOCK)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    plugins = {plugin["name"]: plugin for plugin in found["plugins"] if plugin["name"] != "twin"}
    twins = [plugin for plugin in found["plugins"] if plugin["name"] == "twin"]
    assert plugins["well"] == {
        "name": "well",
        "status": "ok",
        "distribution": "dist-well",
        "version": plugins["well"]["version"],
        "reference": "fake_dist_well",
        "error": None,
        "remedy": None,
        "components": ["connector well/part"],
        "missing": [],
    }
    assert plugins["poor"]["status"] == "ok"
    assert plugins["poor"]["missing"][0] == (
        'poor/part requires absent-package>=2 (not installed): pip install "absent-package>=2"'
    )
    assert plugins["poor"]["missing"][1].startswith("poor/part requires pluggy>=1000 (1.")
    assert len(plugins["poor"]["missing"]) == 2
    assert plugins["sad"]["status"] == "broken"
    assert plugins["sad"]["error"].startswith("OSError: no luck (")
    assert plugins["sad"]["remedy"] == "pip install --upgrade dist-sad, or set VLMZOO_BLOCK=sad to do without it"
    assert [twin["status"] for twin in twins] == ["conflict", "conflict"]
    assert twins[0]["error"] == "connector `twin/part` is provided by dist-one 1.0 and dist-two 1.0"
    assert "VLMZOO_BLOCK=dist-one:twin" in twins[0]["remedy"]
    assert (plugins["shut"]["status"], plugins["shut"]["error"]) == ("blocked", None)
    notes = found["notes"]
    assert "VLMZOO_BLOCK names `sda`, and there is no such plugin; did you mean `sad`?" in notes
    assert any(
        note.startswith("dist-stale: the plugins in ") and "not installed yet: `fresh`; gone: `stale`" in note for note in notes
    )
    assert any(note.startswith("dist-well is installed 2 times: ") for note in notes)
    assert found["environment"]["python"]
    assert found["environment"]["torch"]

    text = words(ward("doctor", COLUMNS="400", **BLOCK).stdout)
    for plugin in found["plugins"]:
        assert words(f"{plugin['status']} {plugin['name']} {plugin['distribution']} {plugin['version']}") in text
        for line in [plugin["error"], plugin["remedy"], *plugin["missing"]]:
            assert line is None or words(line) in text
    for note in notes:
        assert words(note) in text
    assert "1 broken, 2 conflict" in text
    assert f"2 requirements missing, {len(notes)} notes." in text


def test_what_was_repaired_is_seen_at_once(ward, manifest):
    assert "no luck" in ward("doctor").stdout
    (ward.site / "fake_dist_sad.py").write_text(manifest("part"), encoding="utf-8")
    assert "no luck" not in ward("doctor").stdout


def test_strict_makes_findings_an_exit_code(ward, vlmzoo):
    done = ward("doctor", VLMZOO_STRICT="1", **BLOCK)
    assert done.returncode == 4
    assert "no luck" in done.stdout
    assert done.stderr == "error: VLMZOO_STRICT=1, and 3 plugins are not well, with 3 notes\n"


def test_the_other_commands_work_beside_all_this(ward):
    done = ward("list", "--json")
    assert done.returncode == 0
    names = {row["name"] for row in json.loads(done.stdout)}
    assert {"well/part", "poor/part", "stale/part", "connectors/linear"} <= names
    assert "twin/part" not in names
    assert sum(line.startswith("vlmzoo: plugin `twin`") for line in done.stderr.splitlines()) == 2
