"""What a library calls deprecated fails the suite, whether it warns or writes into its log."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from deprecations import Deprecations

TESTS = Path(__file__).parents[1]

PLANTED = """
import logging
import warnings

import pytest


def test_warns():
    warnings.warn("`old` is deprecated, use `new`", FutureWarning)


def test_warns_otherwise():
    warnings.warn("`old` will be removed in version 6", DeprecationWarning)


def test_logs():
    logging.getLogger("transformers.utils.generic").warning("`past_key_values`/`cache_params` are deprecated. Use `cache`.")


def test_says_something_else():
    warnings.warn("this is slow", FutureWarning)
    logging.getLogger("transformers").warning("some weights were newly initialized")
"""


def test_planted_deprecations_fail(tmp_path: Path) -> None:
    planted = tmp_path / "test_planted.py"
    planted.write_text(PLANTED)
    command = [sys.executable, "-m", "pytest", "-c", str(TESTS.parent / "pyproject.toml"), "--rootdir", str(TESTS.parent)]
    run = subprocess.run(
        [*command, "-p", "conftest", str(planted), "-rA"], cwd=TESTS, capture_output=True, text=True, timeout=300, check=False
    )
    outcomes = {line.split("::")[1].split(" ")[0]: line.split(" ")[0] for line in run.stdout.splitlines() if "::test_" in line}
    assert outcomes == {
        "test_warns": "FAILED",
        "test_warns_otherwise": "FAILED",
        "test_logs": "ERROR",
        "test_says_something_else": "PASSED",
    }, run.stdout + run.stderr


def test_a_line_of_a_log_is_told_once() -> None:
    found = Deprecations()
    found.emit(logging.LogRecord("peft.tuners", logging.WARNING, "", 0, "`%s` is deprecated", ("old",), None))
    with pytest.raises(AssertionError, match=r"peft\.tuners: `old` is deprecated"):
        found.check()
    found.check()
