"""The connector passes vlmzoo's conformance kit: the same checks that its own parts run through."""

from vlmzoo_registry.testing import Check, parametrize_with_checks


@parametrize_with_checks("rainbow/rainbow")
def test_conformance(check: Check) -> None:
    check.run()
