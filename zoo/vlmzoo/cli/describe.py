"""A component as plain data: the same fields for tables and for `--json`."""

from typing import Any

from vlmzoo_registry.component import Component


def describe(component: Component) -> dict[str, Any]:
    """Name, kind, and where it comes from."""
    return {
        "name": component.full_name,
        "kind": component.spec.kind,
        "summary": component.spec.summary,
        "distribution": component.distribution,
        "version": component.version,
        "license": component.spec.license,
        "paper": component.spec.paper,
    }


def source(fields: dict[str, Any]) -> str:
    """Distribution and version, licence, paper: what is known of it, on one line."""
    paper = (fields["paper"] or "").replace("https://arxiv.org/abs/", "arXiv:")
    known = [f"{fields['distribution']} {fields['version']}", fields["license"], paper]
    return " · ".join(item for item in known if item)
