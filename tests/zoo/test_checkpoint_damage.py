"""Two hundred ways to damage a checkpoint: each is refused with its file or tensor named, and no model is touched by it."""

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import section, shake

import vlmzoo
from vlmzoo import checkpoint
from vlmzoo.manifest import INDEX, MANIFEST, file_sha256, read_json, write_json, write_manifest
from vlmzoo.model.tensors import own_tensors
from vlmzoo.model.vlm import PARTS, VLM
from vlmzoo_registry import CheckpointError

CONFIG = section("cross_attention")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, VLM]:
    """A checkpoint in several shards, an earlier one of the same model, and a model to load into."""
    root = tmp_path_factory.mktemp("damage")
    torch.manual_seed(0)
    model = shake(vlmzoo.build(CONFIG))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "SHARD_BYTES", 20_000)
        checkpoint.save(model, root / "earlier")
        checkpoint.save(shake(model, seed=1), root / "whole")
    return root / "whole", root / "earlier", vlmzoo.build(CONFIG)


# ---- damage that the digests show ------------------------------------------------------------------------------------------


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def flip(folder: Path, earlier: Path, chance: random.Random) -> str:
    file = chance.choice(files(folder))
    content = bytearray(file.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)
    return file.name


def zero_page(folder: Path, earlier: Path, chance: random.Random) -> str:
    file = chance.choice(files(folder))
    content = bytearray(file.read_bytes())
    start = chance.randrange(len(content)) // 512 * 512
    length = len(content[start : start + 512])
    assert any(content[start : start + length])
    content[start : start + length] = bytes(length)
    file.write_bytes(content)
    return file.name


def truncate(folder: Path, earlier: Path, chance: random.Random) -> str:
    file = chance.choice(files(folder))
    os.truncate(file, chance.randrange(file.stat().st_size))
    return file.name


def extend(folder: Path, earlier: Path, chance: random.Random) -> str:
    file = chance.choice(files(folder))
    with file.open("ab") as target:
        target.write(chance.randbytes(chance.randint(1, 64)))
    return file.name


def swap(folder: Path, earlier: Path, chance: random.Random) -> str:
    one, other = chance.sample(shards(folder), 2)
    one.rename(folder / "third")
    other.rename(one)
    (folder / "third").rename(other)
    return one.name


def delete(folder: Path, earlier: Path, chance: random.Random) -> str:
    file = chance.choice(files(folder))
    file.unlink()
    return file.name


def stale(folder: Path, earlier: Path, chance: random.Random) -> str:
    file = chance.choice(shards(folder))
    shutil.copy(earlier / file.name, file)
    return file.name


def left_over(folder: Path, earlier: Path, chance: random.Random) -> str:
    name = f"language-{chance.randrange(100):05}-of-00100.safetensors"
    shutil.copy(chance.choice(shards(earlier)), folder / name)
    return name


def rename(folder: Path, earlier: Path, chance: random.Random) -> str:
    file = chance.choice(files(folder))
    file.rename(folder / f"{file.name}.bak")
    return file.name


def link(folder: Path, earlier: Path, chance: random.Random) -> str:
    """The same bytes, but from elsewhere: they may change at any time."""
    file = chance.choice([file for file in files(folder) if file.name != MANIFEST])
    shutil.copy(file, folder.parent / "elsewhere")
    file.unlink()
    file.symlink_to(folder.parent / "elsewhere")
    return file.name


def one_tensor(folder: Path, earlier: Path, chance: random.Random) -> str:
    """A whole file of the right size, one tensor of it from another run."""
    file = chance.choice(shards(folder))
    tensors, others = load_file(file), load_file(earlier / file.name)
    name = chance.choice(sorted(tensors))
    save_file({**tensors, name: others[name]}, file, {"format": "pt"})
    return file.name


def header_name(folder: Path, earlier: Path, chance: random.Random) -> str:
    """A name in the header changes by one letter; the file stays a whole safetensors file."""
    file = chance.choice(shards(folder))
    content = file.read_bytes()
    name = chance.choice(sorted(load_file(file))).encode()
    file.write_bytes(content.replace(b'"' + name + b'"', b'"' + name[:-1] + b'X"', 1))
    return file.name


def respelt_manifest(folder: Path, earlier: Path, chance: random.Random) -> str:
    """The same content in other bytes: other white space, or a key that is there twice."""
    file = folder / MANIFEST
    text = file.read_text()
    file.write_text(chance.choice([text.replace("  ", "\t"), text.replace("{", '{"format": 2,', 1), text + "\n"]))
    return MANIFEST


RAW = [
    flip,
    zero_page,
    truncate,
    extend,
    swap,
    delete,
    stale,
    left_over,
    rename,
    link,
    one_tensor,
    header_name,
    respelt_manifest,
]


# ---- damage with digests that fit: what a faulty tool, or somebody, would write -------------------------------------------


def reseal(folder: Path) -> None:
    """Record the files as they are."""
    (folder / MANIFEST).unlink()
    write_manifest(folder, {}, {})


def held(folder: Path, chance: random.Random) -> tuple[Path, dict[str, torch.Tensor], str]:
    file = chance.choice(shards(folder))
    tensors = load_file(file)
    return file, tensors, chance.choice(sorted(tensors))


def reindex(folder: Path, change: Callable[[dict[str, str]], None]) -> None:
    index = read_json(folder / INDEX)
    change(index["weight_map"])
    write_json(folder / INDEX, index)
    reseal(folder)


def extra_tensor(folder: Path, earlier: Path, chance: random.Random) -> str:
    file, tensors, name = held(folder, chance)
    save_file({**tensors, f"{name}2": torch.ones(2)}, file, {"format": "pt"})
    reindex(folder, lambda names: names.update({f"{name}2": file.name}))
    return f"{name}2: the checkpoint has it, the model does not"


def unindexed_tensor(folder: Path, earlier: Path, chance: random.Random) -> str:
    file, tensors, name = held(folder, chance)
    save_file({**tensors, f"{name}2": torch.ones(2)}, file, {"format": "pt"})
    reseal(folder)
    return f"{name}2: the file holds it, the index does not name it"


def missing_tensor(folder: Path, earlier: Path, chance: random.Random) -> str:
    file, tensors, name = held(folder, chance)
    save_file({key: value for key, value in tensors.items() if key != name}, file, {"format": "pt"})
    reindex(folder, lambda names: names.pop(name))
    return f"{name}: the model has it, the checkpoint does not"


def indexed_but_missing(folder: Path, earlier: Path, chance: random.Random) -> str:
    file, tensors, name = held(folder, chance)
    save_file({key: value for key, value in tensors.items() if key != name}, file, {"format": "pt"})
    reseal(folder)
    return f"{name}: the index names it, the file does not hold it"


def wrong_shape(folder: Path, earlier: Path, chance: random.Random) -> str:
    file, tensors, name = held(folder, chance)
    shape = list(tensors[name].shape)
    save_file({**tensors, name: tensors[name][None].contiguous()}, file, {"format": "pt"})
    reseal(folder)
    return f"{name}: {[1, *shape]} float32 in the checkpoint, {shape} float32 in the model"


def wrong_type(folder: Path, earlier: Path, chance: random.Random) -> str:
    file, tensors, name = held(folder, chance)
    shape = list(tensors[name].shape)
    save_file({**tensors, name: tensors[name].half()}, file, {"format": "pt"})
    reseal(folder)
    return f"{name}: {shape} float16 in the checkpoint, {shape} float32 in the model"


def renamed_tensor(folder: Path, earlier: Path, chance: random.Random) -> str:
    file, tensors, name = held(folder, chance)
    save_file({(f"{key}_" if key == name else key): value for key, value in tensors.items()}, file, {"format": "pt"})
    reindex(folder, lambda names: names.update({f"{name}_": names.pop(name)}))
    return f"{name}_: the checkpoint has it, the model does not"


def of_no_part(folder: Path, earlier: Path, chance: random.Random) -> str:
    file, tensors, name = held(folder, chance)
    save_file({**tensors, f"head.{name}": torch.ones(2)}, file, {"format": "pt"})
    reindex(folder, lambda names: names.update({f"head.{name}": file.name}))
    return f"head.{name}: of no part (vision, connector, language)"


def outside(folder: Path, earlier: Path, chance: random.Random) -> str:
    file, _, name = held(folder, chance)
    shutil.copy(file, folder.parent / "outside.safetensors")
    where = chance.choice(["../outside.safetensors", str(folder.parent / "outside.safetensors"), "./../outside.safetensors"])
    reindex(folder, lambda names: names.update({key: where for key, held_in in names.items() if held_in == file.name}))
    return f"{name}: {where!r} is not in the manifest"


def recorded_outside(folder: Path, earlier: Path, chance: random.Random) -> str:
    """The manifest itself points outside, with the right digest."""
    file, _, _ = held(folder, chance)
    shutil.copy(file, folder.parent / "outside.safetensors")
    where = chance.choice(["../outside.safetensors", str(folder.parent / "outside.safetensors"), "..", "nul\0byte"])
    content = read_json(folder / MANIFEST)
    content["files"][where] = {"sha256": file_sha256(file), "size": file.stat().st_size}
    sign(folder, content)
    return f"{where!r}: not a plain file of the folder" if where != ".." else "..: missing"


def unrecorded(folder: Path, earlier: Path, chance: random.Random) -> str:
    name = chance.choice(["config.json", INDEX, "tokenizer.json"])
    content = read_json(folder / MANIFEST)
    del content["files"][name]
    sign(folder, content)
    return f"{name}: not recorded"


def misshapen_manifest(folder: Path, earlier: Path, chance: random.Random) -> str:
    content = read_json(folder / MANIFEST)
    name = chance.choice(sorted(content["files"]))
    content["files"][name]["size"] = chance.choice(["12", None, -1, 1.5])
    sign(folder, content)
    return f"files.{name}.size: "


def misshapen_index(folder: Path, earlier: Path, chance: random.Random) -> str:
    write_json(folder / INDEX, chance.choice([{}, {"weight_map": []}, {"weight_map": {"vision.a": 3}}]))
    reseal(folder)
    return f"{INDEX}` has no `weight_map` from tensors to files"


def misshapen_config(folder: Path, earlier: Path, chance: random.Random) -> str:
    content = read_json(folder / "config.json")
    del content[chance.choice(["model", "image_token_id"])]
    write_json(folder / "config.json", content)
    reseal(folder)
    return "config.json` does not describe a model of vlmzoo"


def deep_json(folder: Path, earlier: Path, chance: random.Random) -> str:
    (folder / INDEX).write_text("[" * 100_000)
    reseal(folder)
    return f"{INDEX}` cannot be read as JSON"


def not_safetensors(folder: Path, earlier: Path, chance: random.Random) -> str:
    file = chance.choice(shards(folder))
    file.write_bytes(chance.randbytes(100))
    reseal(folder)
    return f"{file.name}` is not a whole safetensors file"


def sign(folder: Path, content: dict[str, object]) -> None:
    """A manifest whose own digest is right."""
    content.pop("sha256")
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    content["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    write_json(folder / MANIFEST, content)


SEALED = [
    extra_tensor,
    unindexed_tensor,
    missing_tensor,
    indexed_but_missing,
    wrong_shape,
    wrong_type,
    renamed_tensor,
    of_no_part,
    outside,
    recorded_outside,
    unrecorded,
    misshapen_manifest,
    misshapen_index,
    misshapen_config,
    deep_json,
    not_safetensors,
]


@pytest.mark.parametrize("mutate", RAW)
def test_every_change_of_bytes_is_refused(mutate, saved: tuple[Path, Path, VLM], tmp_path: Path) -> None:
    whole, earlier, model = saved
    before = state(model)
    for seed in range(20):
        chance = random.Random(seed)
        folder = tmp_path / str(seed) / "checkpoint"
        shutil.copytree(whole, folder)
        name = mutate(folder, earlier, chance)
        with pytest.raises(CheckpointError) as refused:
            vlmzoo.load(folder)
        assert name in str(refused.value), (seed, name, str(refused.value))
        part = chance.choice(PARTS)
        with pytest.raises(CheckpointError) as refused:
            vlmzoo.load_part(model, part, folder)
        assert name in str(refused.value)
    assert_same(state(model), before)


@pytest.mark.parametrize("mutate", SEALED)
def test_every_change_of_content_is_refused(mutate, saved: tuple[Path, Path, VLM], tmp_path: Path) -> None:
    whole, earlier, model = saved
    before = state(model)
    for seed in range(4):
        folder = tmp_path / str(seed) / "checkpoint"
        shutil.copytree(whole, folder)
        message = mutate(folder, earlier, random.Random(seed))
        with pytest.raises(CheckpointError) as refused:
            vlmzoo.load(folder)
        assert message in str(refused.value)
        assert refused.value.exit_code == 5
        refusals = 0
        for part in PARTS:
            try:
                vlmzoo.load_part(model, part, folder)
            except CheckpointError:
                refusals += 1
            else:  # the damage lies in another part, and this one is as it was written
                assert_same(own_tensors(model.parts[part]), stored(whole, part))
        assert refusals > 0
        restore(model, before)


def test_the_whole_one_loads(saved: tuple[Path, Path, VLM]) -> None:
    """So that the refusals above are not refusals of everything."""
    whole, _, _ = saved
    assert len(shards(whole)) >= 5
    model = vlmzoo.load(whole)
    for part in PARTS:
        assert_same(own_tensors(model.parts[part]), stored(whole, part))


def stored(folder: Path, part: str) -> dict[str, torch.Tensor]:
    """What the files of a part hold."""
    found: dict[str, torch.Tensor] = {}
    for file in folder.glob(f"{part}*.safetensors"):
        found |= {name.removeprefix(f"{part}."): tensor for name, tensor in load_file(file).items()}
    return found


def state(model: VLM) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in own_tensors(model).items()}


def restore(model: VLM, before: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in own_tensors(model).items():
            tensor.copy_(before[name])


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


# ---- messages, to the letter -----------------------------------------------------------------------------------------------


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as refused:
        vlmzoo.load(folder)
    return str(refused.value)


def test_no_checkpoint(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none") == f"`{tmp_path / 'none'}`: no such folder"
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert refusal(tmp_path) == f"`{tmp_path}`: no manifest.json: not a checkpoint, or its writing was interrupted"


def test_another_format(saved: tuple[Path, Path, VLM], tmp_path: Path) -> None:
    shutil.copytree(saved[0], tmp_path / "next")
    content = json.loads((tmp_path / "next" / MANIFEST).read_text())
    (tmp_path / "next" / MANIFEST).write_text(json.dumps({**content, "format": 2}))
    assert refusal(tmp_path / "next") == (
        f"`{tmp_path / 'next'}`: its `format` is 2, this version reads 1: use the vlmzoo that wrote it"
    )


def test_all_damaged_files_are_named_at_once(saved: tuple[Path, Path, VLM], tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(saved[0], folder)
    (folder / "tokenizer.json").unlink()
    first, second = shards(folder)[:2]
    size = first.stat().st_size
    os.truncate(first, 100)
    content = bytearray(second.read_bytes())
    content[-1] ^= 1
    second.write_bytes(content)
    assert refusal(folder) == "\n".join(
        [
            f"`{folder}` is damaged; restore it from a copy or take an earlier checkpoint",
            f"  - {first.name}: 100 bytes, recorded {size} (cut off, or another file)",
            f"  - {second.name}: its SHA-256 differs from the recorded one (damaged, or another file)",
            "  - tokenizer.json: missing",
        ]
    )
