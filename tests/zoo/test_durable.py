"""A file is there whole: the earlier one or the new one, and nothing beside it. Folders are tested as checkpoints."""

import json
from pathlib import Path

import pytest

from vlmzoo import durable
from vlmzoo.durable import replace_file, replace_json


def test_a_file_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    for data in ({"word": "Käse", "number": 1}, {"word": "\u2028", "number": 2}):
        replace_json(target, data)
        assert json.loads(target.read_text(encoding="utf-8")) == data
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]
    assert data["word"] in target.read_text(encoding="utf-8")  # as it is, for whoever looks into it


@pytest.mark.parametrize("fault", ["_flush_entry", "os.replace"])
def test_what_cannot_be_written_leaves_the_earlier_one(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.txt"
    replace_file(target, "before")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"{durable.__name__}.{fault}", full)
    with pytest.raises(OSError, match="No space left"):
        replace_file(target, "after")
    assert target.read_text() == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_data_that_is_no_json_leaves_the_earlier_one(tmp_path: Path) -> None:
    replace_json(tmp_path / "a.json", [1])
    with pytest.raises(TypeError):
        replace_json(tmp_path / "a.json", {"path": tmp_path})
    assert (tmp_path / "a.json").read_text() == "[\n  1\n]\n"
