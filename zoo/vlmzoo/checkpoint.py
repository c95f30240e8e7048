"""Checkpoints: one safetensors file per part, a standard index, and a manifest with digests that is written last.

Adapters lie beside them, in peft's own format. Loading is strict: a missing, surplus, misshapen or damaged tensor is an
error that names it. No pickle is written or read.
"""

import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from vlmzoo.adapters import adapted_names, adapter_parameters, peft_names, read_adapter
from vlmzoo.assemble import assemble, finish, make_processor
from vlmzoo.config import ModelConfig, load_model
from vlmzoo.durable import replaced_folder
from vlmzoo.exits import refuses_exit
from vlmzoo.manifest import INDEX, MANIFEST, FileRecord, Manifest, read_json, read_manifest, verify, write_json, write_manifest
from vlmzoo.model.configuration import FORMAT
from vlmzoo.model.tensors import layout, own_tensors
from vlmzoo.model.vlm import PARTS, VLM
from vlmzoo.shortened import enumerated, shortened
from vlmzoo_registry import Catalogue, CheckpointError, PluginError, ResourceError, VlmzooError, default_catalogue

INSTRUCTIONS = "instructions"
"""The folder of the tokenizer of a connector that reads the instruction."""

ADAPTERS, ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapters", "adapter_model.safetensors", "adapter_config.json"
SHARD_BYTES = 5 * 10**9

# What transformers notes of where a tokenizer was read from: the same tokenizer shall have the same bytes.
_WHERE_FROM = ("is_local", "local_files_only", "name_or_path")

# What `PreTrainedModel.save_pretrained` takes and transformers' Trainer passes: accepted with the value that changes nothing.
_HARMLESS = {
    "state_dict": None,
    "safe_serialization": True,
    "push_to_hub": False,
    "token": None,
    "variant": None,
    "save_peft_format": True,
    "save_original_format": True,
    "distributed_checkpoint": False,
}


@dataclass(frozen=True)
class Unchanged:
    """Parts of a model whose tensors are, bit for bit, those of a whole checkpoint: their files can be linked."""

    folder: Path
    parts: tuple[str, ...]


def save(
    vlm: VLM,
    folder: str | os.PathLike[str],
    *,
    extra: Mapping[str, Any] | None = None,
    unchanged: Unchanged | None = None,
    beside: Callable[[Path], None] | None = None,
    is_main_process: bool = True,
    **options: Any,
) -> None:
    """Write a checkpoint; one that is at `folder` is replaced in one step, and kept until the new one is whole and verified.

    Args:
        vlm: the model.
        folder: a new or empty folder, or a checkpoint to replace.
        extra: goes into the manifest as it is (the recipe's digest, the parent stage).
        unchanged: parts that need not be written again: their files are hard-linked, with the digest that is recorded for
            them, where the file system can do that.
        beside: writes further files into the folder it is given; the manifest covers them like all others.
        is_main_process: False writes nothing, as transformers' Trainer asks of all processes but one.
        options: those of transformers' `save_pretrained`, as far as they change nothing (`safe_serialization=True`).

    Raises `CheckpointError` where `folder` holds what is not a checkpoint's, or where the model could not be loaded again;
    `ResourceError` where the disk is full or the folder cannot be written.
    """
    _check_options(options)
    if not is_main_process:
        return
    if vlm.processor is None:
        raise CheckpointError(
            "the model has no processor, and a checkpoint holds its tokenizer: give `vlmzoo.from_transformers` the processor "
            "too"
        )
    target = Path(folder).resolve()
    _check_target(target)
    _check_reloadable(vlm)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replaced_folder(target) as staging:
            linked = _write(vlm, staging, extra or {}, unchanged, beside)
            verify(staging, linked)
    except (OSError, SafetensorError) as error:
        needed, free = _space(vlm, target)
        raise ResourceError(
            f"`{target}` could not be written ({error}); it takes {_mebibytes(needed)}, and {_mebibytes(free)} are free there"
        ) from error


def require_space(vlm: VLM, folder: Path) -> None:
    """Raise `ResourceError` where a checkpoint of this model would not fit into `folder`: better before training than after."""
    needed, free = _space(vlm, folder)
    if needed > free:
        raise ResourceError(
            f"`{folder}`: a checkpoint takes {_mebibytes(needed)}, and only {_mebibytes(free)} are free there; make room, or "
            "choose another folder"
        )


@refuses_exit
def load(folder: str | os.PathLike[str], *, catalogue: Catalogue | None = None) -> VLM:
    """Load a checkpoint: parts are built from the resolved config, and every tensor is checked and filled.

    Raises `CheckpointError` with every reason: files that are missing or damaged, tensors that are missing, surplus or of
    another shape; `PluginError` where a component it was made of is not installed, with the distribution that has it.
    """
    path = Path(folder)
    manifest = verify(path)
    content = read_json(path / "config.json")
    model_config = _model_config(path, manifest, content, catalogue)
    try:
        parts = assemble(model_config)
    except VlmzooError as error:
        raise CheckpointError(f"`{path}`: the model it describes cannot be assembled here: {error}") from error
    tokenizer = PreTrainedTokenizerFast.from_pretrained(path)
    parts.language.resize(len(tokenizer))
    image_token_id: int = content["image_token_id"]
    vlm = finish(model_config, parts, image_token_id)
    generation_config = GenerationConfig.from_pretrained(path)
    for part in PARTS:
        if f"{ADAPTERS}/{part}/{ADAPTER_CONFIG}" in manifest.files:
            vlm.adapters[part] = read_adapter(vlm.parts[part], path / ADAPTERS / part)
    _fill(vlm, path, manifest, PARTS)
    token = tokenizer.convert_ids_to_tokens(image_token_id)
    own = path / INSTRUCTIONS
    instructions = PreTrainedTokenizerFast.from_pretrained(own) if f"{INSTRUCTIONS}/tokenizer.json" in manifest.files else None
    vlm.processor = make_processor(vlm, model_config, tokenizer, token, instructions)
    vlm.generation_config = generation_config
    return vlm


@refuses_exit
def load_part(vlm: VLM, part: str, folder: str | os.PathLike[str]) -> None:
    """Fill one part of a model from a checkpoint, where its recorded neighbours are those it has here.

    Raises `CheckpointError` where the part was trained between other neighbours, with both; the model is then as it was.
    """
    if part not in PARTS:
        raise CheckpointError(f"`part` (={part!r}) must be one of {', '.join(PARTS)}")
    path = Path(folder)
    manifest = verify(path)
    recorded, present = _section(path, read_json(path / "config.json")), vlm.config.model
    watched = PARTS if part == "connector" else (part,)
    reasons = [
        f"`{name}`: the checkpoint has {_brief(recorded[name])}, the model {_brief(present[name])}"
        for name in watched
        if recorded[name] != present[name]
    ]
    if reasons:
        raise CheckpointError(f"`{path}`: its {part} was made for other parts", reasons)
    there = path / ADAPTERS / part / ADAPTER_CONFIG
    here = vlm.adapters[part].dump() if part in vlm.adapters else None
    if (read_json(there) if there.exists() else None) != here:
        raise CheckpointError(
            f"`{path}`: its {part} has {'adapters' if there.exists() else 'no adapters'}, and the model's has "
            f"{'none' if here is None else 'some' if not there.exists() else 'others'}: load the whole checkpoint instead"
        )
    _fill(vlm, path, manifest, (part,))


def _check_options(options: Mapping[str, Any]) -> None:
    reasons = []
    for name, value in options.items():
        if name not in _HARMLESS:
            reasons.append(f"`{name}` is not an option of vlmzoo's checkpoints: leave it out")
        elif value is not _HARMLESS[name]:
            reasons.append(
                f"`{name}` can only be {_HARMLESS[name]!r} here: the model's own tensors are written, as safetensors"
            )
    if reasons:
        raise CheckpointError("the checkpoint cannot be written as asked", reasons)


def _check_target(target: Path) -> None:
    """Refuse to replace anything but a checkpoint: what else lies in the folder would be lost."""
    if not target.exists():
        return
    if not target.is_dir():
        raise CheckpointError(f"`{target}` is a file: name a folder")
    names = {entry.relative_to(target).as_posix() for entry in target.rglob("*")}
    if not names:
        return
    if MANIFEST not in names:
        raise CheckpointError(f"`{target}` holds files but no {MANIFEST}: no checkpoint, so it is not replaced; choose another")
    recorded = read_manifest(target).files.keys()
    folders = {around.as_posix() for name in recorded for around in Path(name).parents}
    foreign = sorted(names - recorded - folders - {MANIFEST})
    if foreign:
        raise CheckpointError(
            f"`{target}` is a checkpoint that also holds {enumerated(foreign, 5)}, which would be lost: move that, or choose "
            "another folder"
        )


def _check_reloadable(vlm: VLM) -> None:
    """Refuse to write what `load` would refuse: it rebuilds the parts from the config, and that has not changed since."""
    reasons = [reason for part in PARTS for reason in _foreign_adapters(vlm, part)]
    for part in PARTS:
        module, now, built = vlm.parts[part], layout(vlm.parts[part]), vlm.built[part]
        named = {name for name, _ in module.named_parameters(remove_duplicate=False)}
        named |= {name for name, _ in module.named_buffers(remove_duplicate=False)}
        reasons += [f"{part}.{name}: state that is no tensor" for name in module.state_dict().keys() - named]
        reasons += [f"{part}.{name}: not there when the model was built" for name in now.keys() - built.keys()]
        reasons += [f"{part}.{name}: gone since the model was built" for name in built.keys() - now.keys()]
        reasons += [
            f"{part}.{name}: {_described(*now[name])}, built as {_described(*built[name])}"
            for name in now.keys() & built.keys()
            if now[name] != built[name]
        ]
    if reasons:
        raise CheckpointError(
            "the model has been changed since it was built, so its config no longer describes it: convert it back before "
            "saving, or build it so (`dtype`)",
            shortened(sorted(reasons)),
        )


def _foreign_adapters(vlm: VLM, part: str) -> list[str]:
    """Reasons against adapters that would not be saved, or not be put back: those that something else has put on the part."""
    module = vlm.parts[part]
    known = {id(tensor) for tensor in (*own_tensors(module).values(), *adapter_parameters(module).values())}
    reasons = [
        f"{part}.{name}: of an adapter that vlmzoo has not put there, and does not save"
        for name, parameter in module.named_parameters()
        if id(parameter) not in known
    ]
    recorded = vlm.adapters[part].layers if part in vlm.adapters else frozenset()
    return reasons + [
        f"{part}.{name}: adapted, and vlmzoo has not done that"
        if name not in recorded
        else f"{part}.{name}: its adapter is gone"
        for name in recorded ^ adapted_names(module)
    ]


def _write(
    vlm: VLM,
    staging: Path,
    extra: Mapping[str, Any],
    unchanged: Unchanged | None,
    beside: Callable[[Path], None] | None,
) -> dict[str, FileRecord]:
    """Write every file; returns the records of those that were linked."""
    weight_map: dict[str, str] = {}
    linked: dict[str, FileRecord] = {}
    total = 0
    for part in PARTS:
        tensors = {f"{part}.{name}": tensor for name, tensor in own_tensors(vlm.parts[part]).items()}
        if unchanged is not None and part in unchanged.parts:
            files = _link(tensors, unchanged.folder, staging)
            if files is not None:
                linked |= files.records
                weight_map |= files.weight_map
                total += sum(_bytes(tensor) for tensor in tensors.values())
                continue
        shards = _split(tensors)
        for number, shard in enumerate(shards, start=1):
            file = f"{part}.safetensors" if len(shards) == 1 else f"{part}-{number:05}-of-{len(shards):05}.safetensors"
            save_file(
                {name: tensor.detach().contiguous().cpu() for name, tensor in shard.items()}, staging / file, {"format": "pt"}
            )
            weight_map.update(dict.fromkeys(shard, file))
            total += sum(_bytes(tensor) for tensor in shard.values())
    for part, adapter in vlm.adapters.items():
        target = staging / ADAPTERS / part
        target.mkdir(parents=True)
        adapters = {name: tensor.detach().contiguous().cpu() for name, tensor in peft_names(vlm.parts[part]).items()}
        save_file(adapters, target / ADAPTER_WEIGHTS, {"format": "pt"})
        write_json(target / ADAPTER_CONFIG, adapter.dump())
    write_json(staging / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    described = {**vlm.config.to_diff_dict(), "architectures": [type(vlm).__name__], "format": FORMAT}
    write_json(staging / "config.json", described)
    vlm.generation_config.save_pretrained(staging)
    _save_tokenizer(vlm.processor.tokenizer, staging)
    if vlm.processor.instructions is not None:
        _save_tokenizer(vlm.processor.instructions.tokenizer, staging / INSTRUCTIONS)
    if beside is not None:
        beside(staging)
    write_manifest(staging, vlm.components, extra, linked)
    # safetensors makes its files readable by their writer alone; the others are as the umask says.
    mode = (staging / MANIFEST).stat().st_mode
    for written in staging.rglob("*"):
        # A file that was linked is that of an earlier checkpoint too, which may be somebody else's.
        if written.is_file() and written.name not in linked:
            written.chmod(mode)
    return linked


def _save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    write_json(file, {key: value for key, value in read_json(file).items() if key not in _WHERE_FROM})


@dataclass(frozen=True)
class _Linked:
    records: dict[str, FileRecord]
    weight_map: dict[str, str]


def _link(tensors: Mapping[str, Tensor], earlier: Path, staging: Path) -> _Linked | None:
    """Link the files that hold exactly these tensors in a checkpoint; None where there are none, or no links are possible."""
    recorded = read_manifest(earlier).files
    index: dict[str, str] = read_json(earlier / INDEX)["weight_map"]
    weight_map = {name: index[name] for name in tensors if name in index}
    files = sorted(set(weight_map.values()))
    if weight_map.keys() != tensors.keys() or {name for name, file in index.items() if file in files} != tensors.keys():
        return None
    try:
        for file in files:
            os.link(earlier / file, staging / file)
    except OSError:  # another file system, one without links, or too many of them: written as ever
        for file in files:
            (staging / file).unlink(missing_ok=True)
        return None
    return _Linked({file: recorded[file] for file in files}, weight_map)


def _split(tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Shards of at most `SHARD_BYTES`, at least one; a larger tensor has its own."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        length = _bytes(tensor)
        if shards[-1] and size + length > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += length
    return shards


def _model_config(path: Path, manifest: Manifest, content: Mapping[str, Any], catalogue: Catalogue | None) -> ModelConfig:
    """The config of the model, its components found among the installed ones."""
    found = catalogue or default_catalogue()
    reasons = []
    for record in manifest.all_components:
        try:
            found.get(record.kind, record.name)
        except VlmzooError as error:
            reasons.append(f"{record.kind} `{record.name}` of {record.distribution} {record.version}: {error}")
    if reasons:
        raise PluginError(f"`{path}` was made by components that are not here; install their distributions", reasons)
    try:
        return load_model(_section(path, content), catalogue=found)
    except VlmzooError as error:
        raise CheckpointError(f"`{path}`: its config.json is not understood here: {error}") from error


def _section(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """The `model:` section that `config.json` keeps."""
    section = content.get("model")
    if not isinstance(section, dict) or not section.keys() >= set(PARTS) or not isinstance(content.get("image_token_id"), int):
        raise CheckpointError(f"`{path / 'config.json'}` does not describe a model of vlmzoo (`model`, `image_token_id`)")
    return section


def _fill(vlm: VLM, path: Path, manifest: Manifest, parts: Collection[str]) -> None:
    """Copy the tensors of these parts into the model; nothing is changed before all names, shapes and types are right."""
    wanted = {f"{part}.{name}": tensor for part in parts for name, tensor in own_tensors(vlm.parts[part]).items()}
    weight_map = read_json(path / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise CheckpointError(f"`{path / INDEX}` has no `weight_map` from tensors to files")
    reasons = [f"{name}: of no part ({', '.join(PARTS)})" for name in weight_map if name.partition(".")[0] not in PARTS]
    recorded = {name: file for name, file in weight_map.items() if name.partition(".")[0] in parts}
    reasons += [f"{name}: the model has it, the checkpoint does not" for name in wanted.keys() - recorded.keys()]
    reasons += [f"{name}: the checkpoint has it, the model does not" for name in recorded.keys() - wanted.keys()]
    # What is in the manifest has been verified: a plain file of this folder.
    reasons += [f"{name}: {file!r} is not in the manifest" for name, file in recorded.items() if file not in manifest.files]
    loaded: dict[str, Tensor] = {}
    for part in parts:
        if part in vlm.adapters:
            reasons += _match_adapters(vlm.parts[part], part, path / ADAPTERS / part / ADAPTER_WEIGHTS, wanted, loaded)
    if not reasons:
        for file in sorted(set(recorded.values())):
            loaded |= _read_tensors(path / file, {name for name, where in weight_map.items() if where == file})
        # The files are open now, and stay those that they are.
        if read_manifest(path).sha256 != manifest.sha256:
            raise CheckpointError(f"`{path}` was replaced by another checkpoint while it was read: load it again")
        for name, tensor in wanted.items():
            there = loaded[name]
            if (there.shape, there.dtype) != (tensor.shape, tensor.dtype):
                here = _described(tensor.shape, tensor.dtype)
                reasons.append(f"{name}: {_described(there.shape, there.dtype)} in the checkpoint, {here} in the model")
    if reasons:
        raise CheckpointError(f"`{path}`: its tensors are not those of the model", shortened(sorted(reasons)))
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(loaded[name])


def _match_adapters(
    module: nn.Module, part: str, file: Path, wanted: dict[str, Tensor], loaded: dict[str, Tensor]
) -> list[str]:
    """Add a part's adapters to what is wanted and what is loaded; the reasons where these are not the same."""
    here = {f"{part}.{name}": parameter for name, parameter in peft_names(module).items()}
    try:
        with safe_open(file, framework="pt") as source:
            there = {f"{part}.{name}": source.get_tensor(name) for name in source.keys()}  # noqa: SIM118 - no dict
    except (OSError, SafetensorError) as error:  # also where the manifest does not name it
        raise CheckpointError(f"`{file}` is not a whole safetensors file ({error})") from error
    wanted |= here
    loaded |= there
    reasons = [f"{name}: the model's adapters have it, the checkpoint's do not" for name in here.keys() - there.keys()]
    return reasons + [f"{name}: the checkpoint's adapters have it, the model's do not" for name in there.keys() - here.keys()]


def _read_tensors(file: Path, names: set[str]) -> dict[str, Tensor]:
    """The tensors of a file, of which the index says that it holds these and no other; read from disk when they are used."""
    try:
        with safe_open(file, framework="pt") as source:
            held = set(source.keys())
            reasons = [f"{name}: the index names it, the file does not hold it" for name in names - held]
            reasons += [f"{name}: the file holds it, the index does not name it" for name in held - names]
            if reasons:
                raise CheckpointError(f"`{file}` and {INDEX} do not agree", shortened(sorted(reasons)))
            return {name: source.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise CheckpointError(f"`{file}` is not a whole safetensors file ({error})") from error


def _space(vlm: VLM, target: Path) -> tuple[int, int]:
    """How many bytes the tensors of a checkpoint take, and how many are free."""
    needed = sum(_bytes(tensor) for part in PARTS for tensor in own_tensors(vlm.parts[part]).values())
    needed += sum(_bytes(tensor) for part in vlm.adapters for tensor in adapter_parameters(vlm.parts[part]).values())
    folder = next(folder for folder in (target, *target.parents) if folder.is_dir())
    return needed, shutil.disk_usage(folder).free


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"


def _described(shape: Sequence[int], dtype: torch.dtype) -> str:
    return f"{list(shape)} {str(dtype).removeprefix('torch.')}"


def _brief(section: Any) -> str:
    text = json.dumps(section, sort_keys=True)
    return text if len(text) <= 200 else text[:200] + "..."


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
