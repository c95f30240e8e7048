"""`vlmzoo list` and `vlmzoo show`: tables and JSON tell the same."""

import json

from vlmzoo_registry import Catalogue


def words(text):
    return " ".join(text.split())


def test_list_tells_the_same_in_both_forms(vlmzoo, manifest):
    vlmzoo.install("dist-a", "alpha", manifest("part", summary="Turns one thing into another.", license="MIT", paper="A 1"))
    rows = json.loads(vlmzoo("list", "--json").stdout)
    assert {
        "name": "alpha/part",
        "kind": "connector",
        "summary": "Turns one thing into another.",
        "distribution": "dist-a",
        "version": "1.0",
        "license": "MIT",
        "paper": "A 1",
    } in rows
    text = words(vlmzoo("list", COLUMNS="200").stdout)
    for row in rows:
        source = [f"{row['distribution']} {row['version']}", row["license"], row["paper"]]
        line = " · ".join(item.replace("https://arxiv.org/abs/", "arXiv:") for item in source if item)
        assert words(f"{row['name']} {row['summary']} {line}") in text
        assert row["kind"] in text
    assert f"{len(rows)} parts." in text


def test_list_of_one_kind(vlmzoo):
    rows = json.loads(vlmzoo("list", "--kind", "connector", "--json").stdout)
    assert {row["kind"] for row in rows} == {"connector"}
    assert [row["name"] for row in rows] == [component.full_name for component in Catalogue.discover().components("connector")]
    wrong = vlmzoo("list", "--kind", "conector")
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines()[-1] == "error: there is no kind `conector`; did you mean `connector`?"


CONFIG = '''
from typing import Annotated, Literal
from pydantic import BaseModel, Field
from vlmzoo_registry import ComponentConfig

class Inner(BaseModel):
    depth: int = 1

class PartConfig(ComponentConfig):
    """What can be said
    about a part."""

    queries: Annotated[int, Field(ge=1, le=9)]
    mode: Literal["fast", "slow"] = "fast"
    rate: float | None = Field(default=None, gt=0, description="How fast it goes.")
    sizes: tuple[int, ...] = (1, 2)
    mean: tuple[float, float] = (0.5, 0.5)
    inner: Inner = Inner()
    on: bool = True
'''


def test_show_tells_the_options_in_both_forms(vlmzoo, manifest):
    more = {"config": "fake_part_config:PartConfig", "requires": ("absent-package>=2", "pluggy>=1"), "capabilities": {"layers"}}
    vlmzoo.install("dist-a", "alpha", manifest("part", **more))
    (vlmzoo.site / "fake_part_config.py").write_text(CONFIG, encoding="utf-8")
    done = vlmzoo("show", "part", "--json")
    assert done.returncode == 0, done.stderr
    fields = json.loads(done.stdout)
    assert fields["options"] == [
        option("queries", "integer >= 1 <= 9", required=True),
        option("mode", "fast | slow", "fast"),
        option("rate", "number > 0 | null", description="How fast it goes."),
        option("sizes", "list of integer", [1, 2]),
        option("mean", "[number, number]", [0.5, 0.5]),
        option("inner", "mapping", {"depth": 1}),
        option("on", "true | false", True),
    ]
    assert fields["about"] == "What can be said\nabout a part."
    assert (fields["api"], fields["capabilities"]) == (1, ["layers"])
    assert fields["requires"] == ["absent-package>=2", "pluggy>=1"]
    assert fields["missing"] == ["absent-package>=2 (not installed)"]
    text = words(vlmzoo("show", "alpha/part").stdout)
    for known in (
        "alpha/part connector, API 1",
        "capabilities layers",
        "requires absent-package>=2, pluggy>=1",
        "missing absent-package>=2 (not installed)",
        "factory json:loads",
        "What can be said about a part.",
        "queries integer >= 1 <= 9 required",
        'mode fast | slow default "fast"',
        "rate number > 0 | null default null How fast it goes.",
        "sizes list of integer default [1, 2]",
        'inner mapping default {"depth": 1}',
        "on true | false default true",
    ):
        assert known in text


def option(name, kind, default=None, required=False, description=None):
    return {"name": name, "type": kind, "required": required, "default": default, "description": description}


def test_show_without_options_and_with_options_that_cannot_be_read(vlmzoo, manifest):
    vlmzoo.install("dist-a", "alpha", manifest("spare"))
    vlmzoo.install("dist-b", "beta", manifest("sad", config="absent_module:X"))
    assert vlmzoo("show", "spare").stdout.rstrip().endswith("No options.")
    done = vlmzoo("show", "sad")
    assert done.returncode == 0
    assert "The options cannot be read: connector `beta/sad` (dist-b 1.0): config `absent_module:X`" in words(done.stdout)
    fields = json.loads(vlmzoo("show", "sad", "--json").stdout)
    assert fields["options"] is None
    assert "absent_module" in fields["error"]


def test_show_where_a_name_is_ambiguous(vlmzoo, manifest):
    vlmzoo.install("dist-a", "alpha", manifest("part"))
    vlmzoo.install("dist-b", "beta", manifest("part", kind="metric"))
    done = vlmzoo("show", "part")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "error: `part` is the name of 2 components: connector `alpha/part`, metric `beta/part`; say which kind"
    )
    assert json.loads(vlmzoo("show", "part", "--kind", "metric", "--json").stdout)["name"] == "beta/part"
