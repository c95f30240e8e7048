"""Checkpoints: one safetensors file per part, a standard index, and a manifest with digests that is written last.

A folder is complete or absent: it is written under a temporary name, flushed to disk, and renamed. Loading is strict: a
missing, surplus, misshapen or damaged tensor is an error that names it. No pickle is written or read.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedTokenizerFast

from vlmzoo.assemble import assemble, finish, make_processor
from vlmzoo.config import load_model
from vlmzoo.model.configuration import FORMAT, VLMConfig
from vlmzoo.model.vlm import PARTS, VLM
from vlmzoo_registry import Catalogue, CheckpointError, ResourceError, VlmzooError

MANIFEST = "manifest.json"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9


def save(vlm: VLM, folder: str | os.PathLike[str], *, extra: Mapping[str, Any] | None = None) -> None:
    """Write a checkpoint; an existing one at `folder` is replaced in one step, and kept until the new one is whole.

    `extra` goes into the manifest as it is (the recipe's digest, the parent stage).

    Raises `CheckpointError` where `folder` holds something that is not a checkpoint, `ResourceError` where the disk is full.
    """
    target = Path(folder)
    if target.exists() and not (target / MANIFEST).is_file() and any(target.iterdir()):
        raise CheckpointError(f"`{target}` holds files but no {MANIFEST}: no checkpoint, so it is not replaced; choose another")
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    try:
        try:
            _write(vlm, staging, extra or {})
        except (OSError, SafetensorError) as error:
            free = shutil.disk_usage(target.parent).free
            raise ResourceError(f"`{target}` could not be written ({error}); {free / 2**20:.0f} MiB are free there") from error
        _publish(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def load(folder: str | os.PathLike[str], *, catalogue: Catalogue | None = None) -> VLM:
    """Load a checkpoint: parts are built from the resolved config, and every tensor is checked and filled.

    Raises `CheckpointError` with every reason: files that are missing or damaged, tensors that are missing, surplus or of
    another shape; `PluginError` or `ConfigError` where a component it was made of is not installed.
    """
    path = Path(folder)
    manifest = verify(path)
    section = _read_json(path / "config.json")["model"]
    vlm_config = VLMConfig.from_dict(_read_json(path / "config.json"))
    model_config = load_model(section, catalogue=catalogue)
    try:
        parts = assemble(model_config)
    except VlmzooError as error:
        raise CheckpointError(f"`{path}`: the model it describes cannot be assembled here: {error}") from error
    tokenizer = PreTrainedTokenizerFast.from_pretrained(path)
    parts.language.resize(len(tokenizer))
    vlm = finish(model_config, parts, vlm_config.image_token_id)
    _fill(vlm, path, manifest, {part: f"{part}." for part in PARTS})
    token = tokenizer.convert_ids_to_tokens(vlm_config.image_token_id)
    vlm.processor = make_processor(vlm, model_config, tokenizer, token)
    vlm.generation_config = GenerationConfig.from_pretrained(path)
    return vlm


def load_part(vlm: VLM, part: str, folder: str | os.PathLike[str]) -> None:
    """Fill one part of a model from a checkpoint, where its recorded neighbours are those it has here.

    Raises `CheckpointError` where the part was trained between other neighbours, with both.
    """
    if part not in PARTS:
        raise CheckpointError(f"`part` (={part!r}) must be one of {', '.join(PARTS)}")
    path = Path(folder)
    manifest = verify(path)
    recorded, present = _read_json(path / "config.json")["model"], vlm.config.model
    watched = PARTS if part == "connector" else (part,)
    reasons = [
        f"`{name}`: the checkpoint has {_brief(recorded[name])}, the model {_brief(present[name])}"
        for name in watched
        if recorded[name] != present[name]
    ]
    if reasons:
        raise CheckpointError(f"`{path}`: its {part} was made for other parts", reasons)
    _fill(vlm, path, manifest, {part: f"{part}."})


def verify(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint whose files are all there and have the recorded sizes and digests.

    Raises `CheckpointError` with the name of every file that is missing or differs.
    """
    if not (folder / MANIFEST).is_file():
        what = "no such folder" if not folder.is_dir() else f"no {MANIFEST}: not a checkpoint, or its writing was interrupted"
        raise CheckpointError(f"`{folder}`: {what}")
    manifest = _read_json(folder / MANIFEST)
    if manifest.get("format") != FORMAT:
        raise CheckpointError(
            f"`{folder}`: its `format` is {manifest.get('format')!r}, this version reads {FORMAT}: use the vlmzoo that wrote it"
        )
    reasons = []
    for name, record in manifest["files"].items():
        file = folder / name
        if Path(name).name != name or file.is_symlink():
            reasons.append(f"{name}: not a plain file of the folder")
        elif not file.is_file():
            reasons.append(f"{name}: missing")
        elif file.stat().st_size != record["size"]:
            reasons.append(f"{name}: {file.stat().st_size} bytes, recorded {record['size']} (cut off, or another file)")
        elif _sha256(file) != record["sha256"]:
            reasons.append(f"{name}: its SHA-256 differs from the recorded one (damaged, or another file)")
    if reasons:
        raise CheckpointError(f"`{folder}` is damaged; restore it from a copy or take an earlier checkpoint", reasons)
    return manifest


def _write(vlm: VLM, staging: Path, extra: Mapping[str, Any]) -> None:
    weight_map: dict[str, str] = {}
    total = 0
    for part in PARTS:
        tensors = {f"{part}.{name}": tensor for name, tensor in own_tensors(vlm.parts[part]).items()}
        shards = _split(tensors)
        for number, shard in enumerate(shards, start=1):
            file = f"{part}.safetensors" if len(shards) == 1 else f"{part}-{number:05}-of-{len(shards):05}.safetensors"
            save_file(
                {name: tensor.detach().contiguous().cpu() for name, tensor in shard.items()}, staging / file, {"format": "pt"}
            )
            weight_map.update(dict.fromkeys(shard, file))
            total += sum(tensor.numel() * tensor.element_size() for tensor in shard.values())
    _write_json(staging / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    _write_json(staging / "config.json", {**vlm.config.to_dict(), "architectures": [type(vlm).__name__]})
    vlm.generation_config.save_pretrained(staging)
    vlm.processor.tokenizer.save_pretrained(staging)
    files = {
        file.name: {"sha256": _sha256(file), "size": file.stat().st_size}
        for file in sorted(staging.iterdir())
        if file.is_file()
    }
    _write_json(staging / MANIFEST, {"format": FORMAT, "components": _components(vlm), **extra, "files": files})
    # Files are readable as the umask says, not only by whoever wrote them.
    umask = os.umask(0)
    os.umask(umask)
    for file in staging.iterdir():
        file.chmod(0o666 & ~umask)
        _flush(file)
    staging.chmod(0o777 & ~umask)
    _flush(staging)


def _publish(staging: Path, target: Path) -> None:
    """Rename into place; what was there is removed only afterwards."""
    verify(staging)
    old = None
    if target.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent))
        os.replace(target, old / target.name)
    os.replace(staging, target)
    _flush(target.parent)
    if old is not None:
        shutil.rmtree(old)


def own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The parameters and saved buffers of a module by name, each once: a tied tensor has the name it is reached by first."""
    saved = set(module.state_dict())
    buffers = {name: tensor for name, tensor in module.named_buffers() if name in saved}
    return dict(module.named_parameters()) | buffers


def _split(tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Shards of at most `SHARD_BYTES`, at least one; a larger tensor has its own."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        length = tensor.numel() * tensor.element_size()
        if shards[-1] and size + length > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += length
    return shards


def _fill(vlm: VLM, path: Path, manifest: dict[str, Any], prefixes: Mapping[str, str]) -> None:
    """Copy the tensors of these parts into the model; nothing is changed before all names, shapes and types are right."""
    weight_map: dict[str, str] = _read_json(path / INDEX)["weight_map"]
    wanted = {
        f"{prefix}{name}": tensor for part, prefix in prefixes.items() for name, tensor in own_tensors(vlm.parts[part]).items()
    }
    recorded = {name: file for name, file in weight_map.items() if name.startswith(tuple(prefixes.values()))}
    reasons = [f"{name}: the model has it, the checkpoint does not" for name in wanted.keys() - recorded.keys()]
    reasons += [f"{name}: the checkpoint has it, the model does not" for name in recorded.keys() - wanted.keys()]
    reasons += [f"{name}: {file} is not in the manifest" for name, file in recorded.items() if file not in manifest["files"]]
    loaded: dict[str, Tensor] = {}
    if not reasons:
        for file in sorted(set(recorded.values())):
            loaded.update(_read_tensors(path / file, [name for name, where in recorded.items() if where == file]))
        for name, tensor in wanted.items():
            if loaded[name].shape != tensor.shape:
                reasons.append(f"{name}: shape {list(loaded[name].shape)} in the checkpoint, {list(tensor.shape)} in the model")
            elif loaded[name].dtype != tensor.dtype:
                reasons.append(f"{name}: {loaded[name].dtype} in the checkpoint, {tensor.dtype} in the model")
    if reasons:
        shown = sorted(reasons)[:10]
        more = [f"and {len(reasons) - len(shown)} more"] if len(reasons) > len(shown) else []
        raise CheckpointError(f"`{path}`: its tensors are not those of the model", shown + more)
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(loaded[name])


def _read_tensors(file: Path, names: list[str]) -> dict[str, Tensor]:
    try:
        with safe_open(file, framework="pt") as source:
            missing = set(names) - set(source.keys())
            if missing:
                raise CheckpointError(f"`{file}`: the index says it holds {sorted(missing)[0]}, but it does not")
            return {name: source.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise CheckpointError(f"`{file}` is not a whole safetensors file ({error})") from error


def _components(vlm: VLM) -> dict[str, Any]:
    section = vlm.config.model
    choices = {"vision": [section["vision"]], "connector": section["connector"], "language": [section["language"]]}
    return {part: [choice["name"] for choice in chosen] for part, chosen in choices.items()}


def _brief(section: Any) -> str:
    text = json.dumps(section, sort_keys=True)
    return text if len(text) <= 200 else text[:200] + "..."


def _sha256(file: Path) -> str:
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"`{file}` cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"`{file}` holds a {type(content).__name__}, not an object")
    return content


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _flush(path: Path) -> None:
    with _descriptor(path) as descriptor:
        os.fsync(descriptor)


@contextmanager
def _descriptor(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
