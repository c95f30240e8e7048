"""What metadata says: requirements that are not met, stale editable installations, distributions installed twice."""

import json

import pytest

from vlmzoo_registry.installation import duplicates, plugin_distributions, stale_entry_points
from vlmzoo_registry.requirements import missing_requirements


@pytest.mark.parametrize(
    ("requirement", "instead"),
    [
        ("absent-package-of-nobody", "not installed"),
        ("absent-package-of-nobody>=1; python_version < '3'", None),
        ("pluggy", None),
        ("Pluggy>=1", None),
        ("pluggy>=1000", "is installed"),
        ("pluggy<0.1", "is installed"),
        ("typer[extra-of-nobody]>=0.1", None),
    ],
)
def test_requirements(requirement, instead):
    missing = missing_requirements([requirement])
    if instead is None:
        assert missing == []
    else:
        assert [text for text, _ in missing] == [requirement]
        assert instead in missing[0][1]


def test_a_prerelease_meets_a_requirement(site):
    site.metadata("fake-alpha", "2.0a1", "")
    assert missing_requirements(["fake-alpha>=1"]) == []
    assert missing_requirements(["fake-alpha>=2"]) == [("fake-alpha>=2", "2.0a1 is installed")]


@pytest.fixture
def editable(site, tmp_path):
    """Install a project as editable, with these entry points in its metadata and those in its `pyproject.toml`."""

    def install(installed, written):
        project = tmp_path / "my project"
        project.mkdir()
        lines = "\n".join(f"{name} = {value}" for name, value in installed.items())
        info = site.metadata("dist-a", "1.0", f"[vlmzoo.plugins]\n{lines}\n").parent
        origin = {"url": project.as_uri(), "dir_info": {"editable": True}}
        (info / "direct_url.json").write_text(json.dumps(origin), encoding="utf-8")
        table = "\n".join(f'{name} = "{value}"' for name, value in written.items())
        text = f'[project]\nname = "dist-a"\n[project.entry-points."vlmzoo.plugins"]\n{table}\n'
        (project / "pyproject.toml").write_text(text, encoding="utf-8")
        return project, plugin_distributions([str(site.folder)])

    return install


def test_an_installation_that_is_up_to_date(editable):
    _, found = editable({"alpha": "a.plugin"}, {"alpha": "a.plugin"})
    assert [distribution.entry_points for distribution in found] == [(("alpha", "a.plugin"),)]
    assert stale_entry_points(found) == []


def test_a_stale_installation_is_told_with_every_difference(editable):
    project, found = editable({"alpha": "a.plugin", "beta": "b"}, {"alpha": "a.other", "gamma": "c"})
    assert stale_entry_points(found) == [
        f"dist-a: the plugins in {project / 'pyproject.toml'} differ from the installed metadata "
        f"(not installed yet: `gamma`; gone: `beta`; changed: `alpha`); pip install -e {project}"
    ]


def test_a_project_that_is_gone_or_garbled(editable):
    project, found = editable({"alpha": "a"}, {"alpha": "a"})
    (project / "pyproject.toml").write_text("[project\n", encoding="utf-8")
    assert stale_entry_points(found)[0].startswith(f"dist-a: its project {project} cannot be read: ")
    (project / "pyproject.toml").unlink()
    assert "No such file" in stale_entry_points(found)[0]


def test_a_distribution_that_is_installed_twice(site, tmp_path):
    other = type(site)(tmp_path / "other")
    site.metadata("dist-a", "1.0", "[vlmzoo.plugins]\nalpha = a\n")
    other.metadata("Dist_A", "0.9", "")
    path = [str(site.folder), str(other.folder), str(site.folder)]
    found = plugin_distributions(path)
    assert len(found) == 1
    assert duplicates(found, path) == [
        f"dist-a is installed 2 times: 1.0 in {site.folder}, 0.9 in {other.folder}; pip uninstall dist-a until one is left"
    ]
    assert duplicates(found, path[:1]) == []


def test_stale_metadata_without_plugins_does_not_hide_the_plugins(site, tmp_path):
    stale = type(site)(tmp_path / "stale")
    stale.metadata("dist-a", "0.9", "[console_scripts]\nx = y:z\n")
    site.metadata("dist-a", "1.0", "[vlmzoo.plugins]\nalpha = a\n")
    path = [str(stale.folder), str(site.folder)]
    found = plugin_distributions(path)
    assert [distribution.version for distribution in found] == ["1.0"]
    assert duplicates(found, path)
