"""What a choice makes is what its contract promises, or the component is named that breaks it."""

from pathlib import Path

import pytest

from vlmzoo.config import load_choice
from vlmzoo_registry import Catalogue, Metric, PluginError, Template


def test_it_makes_what_the_contract_promises() -> None:
    assert load_choice("metric", {"name": "tasks/exact"}).make(Metric).score("A dog.", "a dog") == 1.0


def test_another_thing_than_the_contract_promises_is_refused(tmp_path: Path) -> None:
    plugin = tmp_path / "odd.py"
    plugin.write_text(
        "from vlmzoo_registry import ComponentSpec, hookimpl\n"
        "def number(config):\n"
        "    return 7\n"
        "@hookimpl\n"
        "def vlmzoo_components():\n"
        "    return [ComponentSpec(kind='template', name='number', factory='odd:number', summary='A number')]\n"
    )
    choice = load_choice("template", {"name": "odd/number"}, Catalogue.discover(extra=[plugin]))
    with pytest.raises(PluginError, match=r"^`odd/number` makes a int, not a Template$"):
        choice.make(Template)
