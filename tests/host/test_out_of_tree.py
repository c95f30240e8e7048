"""A plugin from outside the repository is found, described and proved like our own; a broken one beside it disturbs nothing."""

import json
from pathlib import Path

import pytest

RAINBOW = Path(__file__).parent / "distributions" / "vlmzoo-rainbow"
BROKEN = (
    "vlmzoo: plugin `broken` (entry point, vlmzoo-broken 0.7.0) is broken: ModuleNotFoundError: "
    "No module named 'package_that_nobody_has' ("
)


def test_it_is_listed_beside_ours(installed_distributions):
    done = installed_distributions.vlmzoo("list", "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["rainbow/rainbow"] == {
        "name": "rainbow/rainbow",
        "kind": "connector",
        "summary": "A gated perceptron on each token (SwiGLU).",
        "distribution": "vlmzoo-rainbow",
        "version": "3.2.0",
        "license": "Apache-2.0",
        "paper": "https://arxiv.org/abs/2002.05202",
    }
    assert "connectors/mlp" in rows
    assert [line for line in done.stderr.splitlines() if line.startswith(BROKEN)] != []


def test_its_options_are_shown(installed_distributions):
    done = installed_distributions.vlmzoo("show", "rainbow", "--json")
    assert done.returncode == 0, done.stderr
    options = {option["name"]: option for option in json.loads(done.stdout)["options"]}
    assert options["expansion"]["type"] == "number > 0"
    assert options["expansion"]["default"] == 2.0


def test_the_doctor_knows_both(installed_distributions):
    done = installed_distributions.vlmzoo("doctor", "--json")
    assert done.returncode == 0, done.stderr
    plugins = {plugin["name"]: plugin for plugin in json.loads(done.stdout)["plugins"]}
    assert (plugins["rainbow"]["status"], plugins["rainbow"]["missing"]) == ("ok", [])
    assert plugins["broken"]["status"] == "broken"
    assert "package_that_nobody_has" in plugins["broken"]["error"]
    assert plugins["broken"]["remedy"] == (
        "install the package that provides `package_that_nobody_has`, or set VLMZOO_BLOCK=broken to do without it"
    )
    assert plugins["connectors"]["status"] == "ok"


def test_asking_for_a_part_of_the_broken_one_gives_its_error(installed_distributions):
    done = installed_distributions.vlmzoo("show", "broken/anything")
    assert done.returncode == 4
    assert (
        "error: component `broken/anything` cannot be used: plugin `broken` (entry point, vlmzoo-broken 0.7.0)" in done.stderr
    )
    assert "Traceback" not in done.stderr


def test_the_broken_one_can_be_blocked(installed_distributions):
    done = installed_distributions.vlmzoo("show", "rainbow", VLMZOO_BLOCK="broken", VLMZOO_STRICT="1")
    assert (done.returncode, done.stderr) == (0, "")
    strict = installed_distributions.vlmzoo("show", "rainbow", VLMZOO_STRICT="1")
    assert strict.returncode == 4
    assert "package_that_nobody_has" in strict.stderr


@pytest.mark.slow
def test_the_project_passes_its_own_tests_and_the_conformance_kit_where_it_is_installed(installed_distributions):
    done = installed_distributions.run("-m", "pytest", "-v", "-p", "no:cacheprovider", str(RAINBOW))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("test_rainbow.py::") == 6
    assert done.stdout.count("test_conformance.py::test_conformance[rainbow/rainbow-") >= 8
