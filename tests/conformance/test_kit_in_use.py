"""The kit as its users meet it: reports that count, failures that are expected with a reason, pytest or none."""

import importlib.util
import random
import socket
import subprocess
import sys
from pathlib import Path
from unittest import SkipTest

import numpy as np
import pytest
import torch
from sound_parts import SOUND, described

from vlmzoo_registry import ConfigError, PluginError
from vlmzoo_registry.testing import Check, CheckFailure, NotApplicable, checks_for, parametrize_with_checks, run_checks
from vlmzoo_registry.testing.network import NetworkUseError, no_network

FORGETFUL = described("connector", "broken_parts:ForgetfulConnector")
SOUND_CONNECTOR = SOUND["connector"]


def passes(component):
    """It passes.

    Why: it is there to.

    If it fails: it cannot.
    """


def does_not_apply(component):
    """It never applies.

    Why: for a test.

    If it fails: it cannot.
    """
    raise NotApplicable("there is nothing to look at")


def exits(component):
    """It ends the process.

    Why: for a test.

    If it fails: do not.
    """
    raise SystemExit(3)


# Reports


def test_a_report_counts_what_ran_and_what_did_not():
    report = run_checks(FORGETFUL, extra=[passes, does_not_apply, exits])
    total = len(list(checks_for(FORGETFUL))) + 3
    counts = {"total": total, "run": total - 1, "passed": total - 3, "failed": 2, "expected-fail": 0, "not-applicable": 1}
    assert report.counts == counts
    assert report.summary() == (
        f"connector `dummy/part` (tests 0): {total - 1} of {total} checks run, {total - 3} passed, 2 failed, 0 failed as "
        "expected, 1 not applicable"
    )
    assert [result.name for result in report.failures] == ["gradients_reach_every_parameter", "exits"]
    assert report.failures[1].reason.startswith("SystemExit: 3")
    with pytest.raises(CheckFailure) as caught:
        report.raise_for_failures()
    assert caught.value.reasons[0] == (
        "gradients_reach_every_parameter: 1 of 3 parameters get no gradient\n  - forgotten; what to do: use the parameter, "
        "remove it, or (an encoder) name it in `unused_parameters`; look for `detach`, `no_grad`, and an activation that is 0 "
        "for every input."
    )
    data = report.to_dict()
    assert (data["name"], data["kind"], data["counts"]) == ("dummy/part", "connector", counts)
    assert data["checks"][-2] == {
        "name": "does_not_apply",
        "status": "not-applicable",
        "reason": "there is nothing to look at",
        "rule": "It never applies.",
        "why": "for a test.",
        "remedy": "it cannot.",
    }


def test_a_failure_can_be_expected_with_a_reason():
    expected = {"gradients_reach_every_parameter": "the tensor is for the next version"}
    report = run_checks(FORGETFUL, expected_failures=expected)
    assert report.failures == ()
    assert (report.counts["failed"], report.counts["expected-fail"]) == (0, 1)
    (result,) = [result for result in report.results if result.status == "expected-fail"]
    assert result.reason.startswith("the tensor is for the next version (1 of 3 parameters get no gradient")


def test_an_expected_failure_that_stays_away_fails():
    report = run_checks(SOUND_CONNECTOR, expected_failures={"builds_on_meta": "it looks at values"})
    assert [(result.name, result.reason) for result in report.failures] == [
        ("builds_on_meta", "it passes now, and was expected to fail (it looks at values): expect it no more")
    ]


def test_an_expected_failure_needs_a_check_and_a_reason():
    with pytest.raises(ConfigError) as caught:
        run_checks(SOUND_CONNECTOR, expected_failures={"builds_on_metal": "x", "is_deterministic": " "})
    assert caught.value.reasons == (
        "`builds_on_metal` is no check of connector `dummy/part` (tests 0); did you mean `builds_on_meta`?",
        "`is_deterministic` needs a reason",
    )


def test_a_kind_of_a_plugins_own_is_checked_for_what_holds_for_all():
    component = described("template", "sound_parts:SoundTemplate", kind="gadget")
    assert [check.name for check in checks_for(component)] == [
        "imports_no_framework",
        "refuses_unknown_options",
        "options_survive_a_round_trip",
    ]


# Checks


def test_a_check_says_rule_why_and_remedy_when_it_fails():
    (check,) = [check for check in checks_for(FORGETFUL) if check.name == "gradients_reach_every_parameter"]
    with pytest.raises(PluginError) as caught:
        check.run()
    message = str(caught.value)
    assert "connector `dummy/part` (tests 0) fails `gradients_reach_every_parameter`: 1 of 3 parameters" in message
    for begin in ("the rule: Every parameter that can train", "why: a tensor without", "what to do: use the parameter"):
        assert begin in message


def test_every_check_is_explained():
    def silent(component):
        """It has a rule, and nothing more."""

    with pytest.raises(TypeError, match="check `silent` has no paragraph that begins with `Why:`"):
        Check(SOUND_CONNECTOR, silent)
    with pytest.raises(TypeError, match="check `<lambda>` has no rule"):
        Check(SOUND_CONNECTOR, lambda component: None)
    for component in SOUND.values():
        for check in checks_for(component):
            assert check.rule and check.why and check.remedy


def test_what_does_not_apply_is_skipped_by_pytest():
    with pytest.raises(SkipTest, match="there is nothing to look at"):
        Check(SOUND_CONNECTOR, does_not_apply).run()


def test_checks_leave_nothing_behind():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    states = (random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().tolist())
    for name in ("ConnectorThatTurnsGradientsOff", "ConnectorThatChangesTheType", "NoisyConnector"):
        run_checks(described("connector", f"broken_parts:{name}"))
    assert (random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().tolist()) == states
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32


# No network


def test_the_network_is_refused_and_every_attempt_remembered():
    with no_network() as tried, socket.socket() as internet, socket.socket(socket.AF_UNIX) as local:
        with pytest.raises(NetworkUseError, match=r"connection to .*192\.0\.2\.1.*: a tiny part is built offline"):
            internet.connect(("192.0.2.1", 80))
        with pytest.raises(NetworkUseError):
            socket.create_connection(("example.invalid", 80))
        with pytest.raises(FileNotFoundError):
            local.connect("/no/such/socket")
    assert tried == ["connection to ('192.0.2.1', 80)", "look-up of host 'example.invalid'"]
    with socket.socket() as internet:
        internet.settimeout(0.01)
        with pytest.raises(OSError) as caught:
            internet.connect(("127.0.0.1", 1))
        assert not isinstance(caught.value, NetworkUseError)


# pytest, and none


def test_the_decorator_makes_one_test_for_each_check():
    @parametrize_with_checks("toy/connector", "connectors/mlp", extra=[passes], expected_failures={"passes": "who knows"})
    def test_conformance(check):
        """As in a plugin's suite."""

    (mark,) = test_conformance.pytestmark
    assert mark.args[0] == "check"
    count = sum(
        len(list(checks_for(check.component, extra=[passes])))
        for check in (mark.args[1][0].values[0], mark.args[1][-1].values[0])
    )
    assert len(mark.args[1]) == count
    first, last = mark.args[1][0], mark.args[1][-1]
    assert first.id == "toy/connector-imports_no_framework"
    assert (last.id, [(mark.name, mark.kwargs) for mark in last.marks]) == (
        "connectors/mlp-passes",
        [("xfail", {"strict": True, "reason": "who knows"})],
    )


def test_the_decorator_refuses_unknown_names_and_none():
    with pytest.raises(ConfigError, match="did you mean `toy/connector`"):
        parametrize_with_checks("toy/conector")
    with pytest.raises(TypeError, match="at least one"):
        parametrize_with_checks()


def test_the_kit_works_without_pytest():
    script = (
        "import sys; sys.modules['pytest'] = None\n"
        "from vlmzoo_registry import default_catalogue\n"
        "from vlmzoo_registry.testing import run_checks\n"
        "report = run_checks(default_catalogue().get(None, 'toy/connector'))\n"
        "report.raise_for_failures(); print(report.counts['passed'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 12


def test_the_kit_needs_no_zoo():
    folder = Path(importlib.util.find_spec("vlmzoo_registry.testing").origin).parent
    sources = {file.name: file.read_text(encoding="utf-8") for file in folder.glob("*.py")}
    assert len(sources) > 20
    assert [name for name, text in sources.items() if "import vlmzoo\n" in text or "from vlmzoo." in text] == []
