"""What a checkpoint's `manifest.json` says: the parts it was made of, and the size and SHA-256 of every file.

It is written last and carries a digest of itself, so a folder whose manifest verifies is whole, to the last byte.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vlmzoo.model.configuration import FORMAT
from vlmzoo_registry import CheckpointError

MANIFEST = "manifest.json"
INDEX = "model.safetensors.index.json"
REQUIRED = ("config.json", "generation_config.json", INDEX, "tokenizer.json", "tokenizer_config.json")

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class FileRecord(_Strict):
    """What a file was when it was written."""

    sha256: Sha256
    size: Annotated[int, Field(ge=0)]


class ComponentRecord(_Strict):
    """A component that a part was made by: its kind, its full name, and the distribution that shipped it."""

    kind: str
    name: str
    distribution: str
    version: str


class Manifest(_Strict):
    """The whole of it.

    `components` are those of each part, in order; `extra` is what the writer added (recipe digest, stage, parent); `files`
    are all files of the folder but this one; `sha256` is the digest of everything else in here.
    """

    format: int
    components: dict[str, tuple[ComponentRecord, ...]]
    extra: dict[str, Any]
    files: dict[str, FileRecord]
    sha256: Sha256

    @property
    def all_components(self) -> list[ComponentRecord]:
        """Those of all parts."""
        return [component for components in self.components.values() for component in components]


def write_manifest(
    folder: Path,
    components: Mapping[str, tuple[ComponentRecord, ...]],
    extra: Mapping[str, Any],
    linked: Mapping[str, FileRecord] | None = None,
) -> None:
    """Record every file that `folder` holds now; those that are `linked` keep the record they had, and are not read."""
    linked = linked or {}
    content = {
        "format": FORMAT,
        "components": {part: [record.model_dump() for record in records] for part, records in components.items()},
        "extra": dict(extra),
        "files": {
            name: linked[name].model_dump() if name in linked else {"sha256": file_sha256(file), "size": file.stat().st_size}
            for name, file in ((file.relative_to(folder).as_posix(), file) for file in folder.rglob("*"))
            if file.is_file()
        },
    }
    content["sha256"] = hashlib.sha256(_text(content)).hexdigest()
    (folder / MANIFEST).write_bytes(_text(content))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint, whose own digest is right; its files are not looked at.

    Raises `CheckpointError` for a folder that is no checkpoint, another format, and a manifest that was changed.
    """
    file = folder / MANIFEST
    if not file.is_file():
        what = "no such folder" if not folder.is_dir() else f"no {MANIFEST}: not a checkpoint, or its writing was interrupted"
        raise CheckpointError(f"`{folder}`: {what}")
    content = read_json(file)
    if content.get("format") != FORMAT:
        raise CheckpointError(
            f"`{folder}`: its `format` is {content.get('format')!r}, this version reads {FORMAT}: use the vlmzoo that wrote it"
        )
    digest = hashlib.sha256(_text({key: value for key, value in content.items() if key != "sha256"})).hexdigest()
    # The bytes too: a change that leaves the meaning as it was is still a change.
    if content.get("sha256") != digest or file.read_bytes() != _text(content):
        raise CheckpointError(f"`{file}` is damaged or was edited: its SHA-256 is not the one it records")
    try:
        return Manifest.model_validate_json(_text(content))
    except ValidationError as error:
        reasons = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise CheckpointError(f"`{file}` is not the manifest of a checkpoint", reasons) from error


def verify(folder: Path, linked: Collection[str] = ()) -> Manifest:
    """The manifest of a checkpoint whose files are all there and have the recorded sizes and digests.

    Of the files that were `linked` a moment ago, which whoever wrote them verified, only the size is looked at. Raises
    `CheckpointError` with the name of every file that is missing, differs, or holds weights that are not recorded.
    """
    manifest = read_manifest(folder)
    reasons = [f"{name}: not recorded" for name in REQUIRED if name not in manifest.files]
    for name, record in sorted(manifest.files.items()):
        file = folder / name
        if not _is_plain(folder, name):
            reasons.append(f"{name!r}: not a plain file of the folder")
        elif not file.is_file():
            reasons.append(f"{name}: missing")
        elif file.stat().st_size != record.size:
            reasons.append(f"{name}: {file.stat().st_size} bytes, recorded {record.size} (cut off, or another file)")
        elif name not in linked and file_sha256(file) != record.sha256:
            reasons.append(f"{name}: its SHA-256 differs from the recorded one (damaged, or another file)")
    surplus = {file.relative_to(folder).as_posix() for file in folder.rglob("*.safetensors")} - manifest.files.keys()
    reasons += [f"{name}: holds weights, but is not recorded (left over from another checkpoint)" for name in sorted(surplus)]
    if reasons:
        raise CheckpointError(f"`{folder}` is damaged; restore it from a copy or take an earlier checkpoint", reasons)
    return manifest


def _is_plain(folder: Path, name: str) -> bool:
    """Whether a name leads to a file of the folder, or of a folder in it, by no other way: no `..`, no link."""
    steps = name.split("/")
    if "\0" in name or "\\" in name or any(step in ("", ".", "..") for step in steps):
        return False
    return not any((folder / "/".join(steps[:length])).is_symlink() for length in range(1, len(steps) + 1))


def file_sha256(file: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises `CheckpointError` where there is none."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"`{file}` cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"`{file}` holds a {type(content).__name__}, not an object")
    return content


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """JSON of one form: the same content has the same bytes."""
    file.write_bytes(_text(content))


def _text(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode("ascii")
