"""Every check of the kit finds the fault it is there for, says what it found, and leaves sound parts alone."""

import pytest
from broken_parts import EVERYTHING, FAULTS
from sound_parts import SOUND

from vlmzoo_registry.testing import common_checks, run_checks
from vlmzoo_registry.testing.batteries import BATTERIES, INSTRUCTED


@pytest.mark.parametrize("battery", SOUND)
def test_a_sound_part_passes_every_check_of_its_kind(battery):
    report = run_checks(SOUND[battery])
    checks = (*BATTERIES["connector"], *INSTRUCTED) if battery == "connector with text" else BATTERIES[battery]
    assert {result.name: result.reason for result in report.results if result.status != "passed"} == {}
    assert report.counts["run"] == len(common_checks.CHECKS) + 1 + len(checks)


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_fault_is_found(fault):
    report = run_checks(fault.component)
    reasons = {result.name: result.reason for result in report.failures}
    assert fault.says in reasons.get(fault.check, "nothing")
    if fault.also != EVERYTHING:
        assert " ".join(sorted(reasons)) == " ".join(sorted({fault.check, *fault.also}))


def test_every_check_has_a_fault_that_it_finds():
    found = {(fault.battery, fault.check) for fault in FAULTS}
    assert {check.__name__ for check in common_checks.CHECKS} <= {check for _, check in found}
    wanted = {(battery, check.__name__) for battery, checks in BATTERIES.items() for check in checks}
    wanted |= {("connector with text", check.__name__) for check in INSTRUCTED}
    wanted |= {(battery, common_checks.builds_tiny_offline.__name__) for battery in BATTERIES}
    assert wanted - found == set()
    print(f"\n{len(FAULTS)} faults for {len(wanted)} checks of {len(BATTERIES)} kinds, and for those of all kinds")
