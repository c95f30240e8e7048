"""`vlmzoo check`: a table and JSON of the conformance kit's results, and exit code 4 where a check fails."""

import json

import pytest

PLUGIN = '''
"""A connector that says it halves the tokens, and does not."""

from vlmzoo_registry import Connector, ComponentSpec, VisionFeatures, check_tokens, hookimpl


class Half(Connector):
    """Gives back what goes in."""

    def __init__(self, config, context):
        super().__init__()
        self.width = context.input.width

    @property
    def output_width(self):
        return self.width

    def output_grid(self, grid):
        return None

    def token_count(self, grid, count):
        return count // 2

    def forward(self, features):
        check_tokens("half/half", "tokens", features.tokens, self.width)
        return VisionFeatures(features.tokens, None)


@hookimpl
def vlmzoo_components():
    return [ComponentSpec(kind="connector", name="half", factory="half:Half", summary="Halves.", tiny={})]
'''


def words(text):
    return " ".join(text.split())


@pytest.mark.slow
def test_a_sound_part(vlmzoo):
    done = vlmzoo("check", "toy/connector", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["name"], report["kind"], report["distribution"]) == ("toy/connector", "connector", "vlmzoo")
    counts = report["counts"]
    assert counts["passed"] == counts["run"] == counts["total"] == len(report["checks"]) >= 13
    last = report["checks"][-1]
    assert (last["name"], last["status"], last["reason"]) == ("survives_saving_in_a_model", "passed", "")
    assert all(check["rule"] and check["why"] and check["remedy"] for check in report["checks"])


@pytest.mark.slow
def test_a_broken_part_says_what_and_what_to_do_and_exits_with_4(vlmzoo):
    file = vlmzoo.folder / "half.py"
    file.write_text(PLUGIN, encoding="utf-8")
    done = vlmzoo("--plugin", str(file), "check", "half")
    assert done.returncode == 4
    text = words(done.stdout)
    assert "not-applicable imports_no_framework a plugin that is one local file holds its code beside its description" in text
    assert "failed returns_what_it_declares what comes out is not what was declared" in text
    assert (
        "for 3 rows of 16 tokens of width 12 (grid 4x4, prefix 0) it declares 8 tokens of width 12 (no grid, prefix 0)" in text
    )
    assert "the rule: For every grid it takes, width, count, grid and prefix that come out are those of `output_shape`" in text
    assert "what to do: `output_grid` and `token_count` must follow the same arithmetic as `forward`" in text
    assert "passed is_deterministic passed rows_are_independent" in text
    assert done.stderr.startswith("error: connector `half/half` (half.py sha256:")
    assert " fails 2 of 11 checks: `returns_what_it_declares`, `survives_saving_in_a_model`" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_name(vlmzoo):
    done = vlmzoo("check", "toy/conector")
    assert done.returncode == 2
    assert "did you mean `toy/connector`?" in done.stderr
