"""Writing checkpoints: what they record, that they replace each other whole or not at all, and what is refused."""

import json
import os
import random
import resource
import signal
import stat
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_models import CROSS, LLAMA, causal_lm, section, shake

import vlmzoo
from vlmzoo import checkpoint, durable
from vlmzoo.manifest import INDEX, MANIFEST, file_sha256, read_manifest, verify
from vlmzoo.model.vlm import PARTS, VLM
from vlmzoo_registry import Catalogue, CheckpointError, PluginError, ResourceError


@pytest.fixture(scope="module")
def model() -> VLM:
    torch.manual_seed(0)
    return shake(vlmzoo.build(section()))


def refusal(action: Callable[[], object], kind: type[Exception] = CheckpointError) -> str:
    with pytest.raises(kind) as refused:
        action()
    return str(refused.value)


# ---- what is written -------------------------------------------------------------------------------------------------------


def test_the_manifest_names_every_file_and_who_ships_every_part(model: VLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "new" / "checkpoint", extra={"stage": "align", "parent": None})
    folder = tmp_path / "new" / "checkpoint"
    content = json.loads((folder / MANIFEST).read_text())
    assert content["format"] == json.loads((folder / "config.json").read_text())["format"] == 1
    assert content["extra"] == {"stage": "align", "parent": None}
    assert content["files"] == {
        file.name: {"sha256": file_sha256(file), "size": file.stat().st_size}
        for file in folder.iterdir()
        if file.name != MANIFEST
    }
    shipped = {"distribution": "vlmzoo", "version": version("vlmzoo")}
    assert content["components"] == {
        "vision": [{"kind": "vision_encoder", "name": "toy/vision", **shipped}],
        "connector": [{"kind": "connector", "name": "connectors/mlp", **shipped}],
        "language": [{"kind": "language_model", "name": "toy/language", **shipped}],
        "template": [{"kind": "template", "name": "tasks/plain", **shipped}],
    }


def test_the_index_is_the_standard_one(model: VLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "checkpoint")
    index = json.loads((tmp_path / "checkpoint" / INDEX).read_text())
    found = {name: file.name for file in (tmp_path / "checkpoint").glob("*.safetensors") for name in load_file(file)}
    assert index["weight_map"] == found
    assert set(found.values()) == {f"{part}.safetensors" for part in PARTS}
    kept = sum(tensor.nbytes for file in (tmp_path / "checkpoint").glob("*.safetensors") for tensor in load_file(file).values())
    assert index["metadata"] == {"total_size": kept}


def test_parts_split_at_the_limit_and_load(model: VLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SHARD_BYTES", 20_000)
    model.save_pretrained(tmp_path / "checkpoint")
    sizes = {
        file.name: [tensor.nbytes for tensor in load_file(file).values()]
        for file in sorted((tmp_path / "checkpoint").glob("*.safetensors"))
    }
    assert all(sum(held) <= 20_000 or len(held) == 1 for held in sizes.values())
    language = [name for name in sizes if name.startswith("language")]
    assert len(language) > 2
    assert language == [f"language-{number + 1:05}-of-{len(language):05}.safetensors" for number in range(len(language))]
    assert_equal(vlmzoo.load(tmp_path / "checkpoint"), model)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002, 0o027])
def test_file_modes_follow_the_umask(umask: int, model: VLM, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        model.save_pretrained(tmp_path / "checkpoint")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "checkpoint").iterdir()} == {0o666 & ~umask}
    assert stat.S_IMODE((tmp_path / "checkpoint").stat().st_mode) == 0o777 & ~umask


def assert_equal(one: VLM, other: VLM) -> None:
    expected = dict(other.named_parameters())
    assert dict(one.named_parameters()).keys() == expected.keys()
    assert [name for name, tensor in one.named_parameters() if not torch.equal(tensor, expected[name])] == []


# ---- whole or not at all ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("there_is_one", [True, False])
def test_everything_is_on_disk_before_the_name_is(
    there_is_one: bool, model: VLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fsync of every file, then of the folder, then the rename, then fsync of the parent: the order a power cut asks for."""
    if there_is_one:
        model.save_pretrained(tmp_path / "checkpoint")
    events: list[tuple[str, Path]] = []

    def recorded(name: str, function: Callable[..., object], path: Callable[..., Path]) -> Callable[..., object]:
        def call(*args: object) -> object:
            events.append((name, path(*args)))
            return function(*args)

        return call

    monkeypatch.setattr(os, "fsync", recorded("fsync", os.fsync, lambda fd: Path(os.readlink(f"/proc/self/fd/{fd}"))))
    monkeypatch.setattr(os, "replace", recorded("rename", os.replace, lambda one, other: other))
    monkeypatch.setattr(durable, "_exchange", recorded("exchange", durable._exchange, lambda one, other: other))
    model.save_pretrained(tmp_path / "checkpoint")
    staging = events[0][1].parent
    assert events == [
        *(("fsync", staging / file.name) for file in sorted((tmp_path / "checkpoint").iterdir())),
        ("fsync", staging),
        ("exchange" if there_is_one else "rename", tmp_path / "checkpoint"),
        ("fsync", tmp_path),
    ]


def fill(model: VLM, value: float) -> VLM:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    return model


def value_of(folder: Path) -> float:
    """The one value that all tensors of a checkpoint have; fails for a mixture, and for one that does not verify."""
    verify(folder)
    values = {
        value
        for file in folder.glob("*.safetensors")
        for tensor in load_file(file).values()
        for value in tensor.unique().tolist()
    }
    (value,) = values
    return value


def run_and_kill(work: Callable[[], object], after: float) -> None:
    """Do something in a process of its own and kill it there without warning."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


@pytest.mark.parametrize("exchanged", [True, False])
def test_killed_at_any_moment(exchanged: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first is whole there is none; later there is always one, old or new, and never a mixture."""
    if not exchanged:
        monkeypatch.setattr(durable, "_exchange", lambda one, other: False)
    model = vlmzoo.build(section())
    began = time.perf_counter()
    fill(model, 0.5).save_pretrained(tmp_path / "timed")
    once = time.perf_counter() - began
    target = tmp_path / "run" / "checkpoint"
    chance = random.Random(0)

    def save_on() -> None:
        for value in range(1, 1000):
            fill(model, float(value)).save_pretrained(target)

    found: list[float] = []
    longest, rounds = 2.5 * once, 0
    while rounds < 25 or (len(found) < 5 and longest < 100 * once):
        rounds += 1
        if rounds > 12 and not found:
            longest *= 1.5  # a process that was just forked may be slow where others run
        run_and_kill(save_on, chance.uniform(0, longest))
        if target.exists():
            found.append(value_of(target))
        elif found:
            # Only where folders cannot be exchanged; the old one is whole then, and the next save gives it its name back.
            assert not exchanged
            value_of(target.with_name(".checkpoint.vlmzoo-old"))
    assert len(found) >= 5
    model.save_pretrained(target)
    assert [file.name for file in target.parent.iterdir()] == ["checkpoint"], "what the killed ones left is not tidied up"


def test_killed_between_the_two_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where folders cannot be exchanged: the old one lies aside whole, and the next save gives it its name back first."""
    model = fill(vlmzoo.build(section()), 1.0)
    model.save_pretrained(tmp_path / "checkpoint")
    monkeypatch.setattr(durable, "_exchange", lambda one, other: False)
    replace = os.replace

    def dying(one: Path, other: Path) -> None:
        replace(one, other)
        os._exit(9)

    child = os.fork()
    if child == 0:
        os.replace = dying  # type: ignore[assignment]
        model.save_pretrained(tmp_path / "checkpoint")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert not (tmp_path / "checkpoint").exists()
    assert value_of(tmp_path / ".checkpoint.vlmzoo-old") == 1.0
    with monkeypatch.context() as patch:
        # The next one fails before it has written anything: the old one is there again all the same.
        patch.setattr(checkpoint, "_write", lambda *_: (_ for _ in ()).throw(OSError("planted")))
        refusal(lambda: model.save_pretrained(tmp_path / "checkpoint"), ResourceError)
    assert value_of(tmp_path / "checkpoint") == 1.0
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint"]


def test_a_second_rename_that_fails_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = fill(vlmzoo.build(section()), 1.0)
    model.save_pretrained(tmp_path / "checkpoint")
    monkeypatch.setattr(durable, "_exchange", lambda one, other: False)
    replace = os.replace

    def failing(one: Path, other: Path) -> None:
        if one.name.endswith(".partial"):
            raise PermissionError("planted")
        replace(one, other)

    monkeypatch.setattr(os, "replace", failing)
    message = refusal(lambda: fill(model, 2.0).save_pretrained(tmp_path / "checkpoint"), ResourceError)
    assert "could not be written (planted)" in message
    assert value_of(tmp_path / "checkpoint") == 1.0
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint"]


def test_a_save_at_work_is_not_tidied_away(tmp_path: Path) -> None:
    with durable.replaced_folder(tmp_path / "checkpoint") as first:
        (first / "a").write_text("first")
        with durable.replaced_folder(tmp_path / "checkpoint") as second:
            (second / "a").write_text("second")
            assert (first / "a").exists()
    assert (tmp_path / "checkpoint" / "a").read_text() == "first"


def test_a_checkpoint_that_is_replaced_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name may have come to mean another folder between the manifest and the tensors."""
    model = fill(vlmzoo.build(section()), 1.0)
    model.save_pretrained(tmp_path / "checkpoint")
    fill(model, 2.0)
    read = checkpoint._read_tensors

    def replaced(file: Path, names: set[str]) -> dict[str, torch.Tensor]:
        if file.name.startswith("language"):
            model.save_pretrained(tmp_path / "checkpoint")
        return read(file, names)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_read_tensors", replaced)
        assert refusal(lambda: vlmzoo.load(tmp_path / "checkpoint")) == (
            f"`{tmp_path / 'checkpoint'}` was replaced by another checkpoint while it was read: load it again"
        )
    assert_equal(vlmzoo.load(tmp_path / "checkpoint"), model)


def limited(size: int, work: Callable[[], object]) -> str:
    """What `work` raises in a process whose files may not grow beyond `size` bytes."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        try:
            work()
            said = "nothing was raised"
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writer, said.encode()[:4000])
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as source:
        return source.read()


def test_a_full_disk_leaves_the_old_one_and_no_rubbish(tmp_path: Path) -> None:
    model = fill(vlmzoo.build(section()), 1.0)
    model.save_pretrained(tmp_path / "checkpoint")
    sizes = sorted(file.stat().st_size for file in (tmp_path / "checkpoint").iterdir())
    fill(model, 2.0)
    for size in [0, 1, 100, *(size - 1 for size in sizes)]:
        said = limited(size, lambda: model.save_pretrained(tmp_path / "checkpoint"))
        assert said.startswith(f"ResourceError: `{tmp_path / 'checkpoint'}` could not be written ("), (size, said)
        assert "); it takes 0.2 MiB, and " in said
        assert said.endswith(" MiB are free there")
        assert value_of(tmp_path / "checkpoint") == 1.0
        assert [file.name for file in tmp_path.iterdir()] == ["checkpoint"]
    assert limited(sizes[-1], lambda: model.save_pretrained(tmp_path / "checkpoint")) == "nothing was raised"
    assert value_of(tmp_path / "checkpoint") == 2.0


def test_a_folder_that_cannot_be_written(model: VLM, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = refusal(lambda: model.save_pretrained(tmp_path / "file" / "checkpoint"), ResourceError)
    assert message.startswith(f"`{tmp_path / 'file' / 'checkpoint'}` could not be written ([Errno 17] File exists")


# ---- what is not replaced --------------------------------------------------------------------------------------------------


def test_only_a_checkpoint_is_replaced(model: VLM, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    assert refusal(lambda: model.save_pretrained(folder)) == (
        f"`{folder}` holds files but no manifest.json: no checkpoint, so it is not replaced; choose another"
    )
    (folder / "thesis.tex").rename(tmp_path / "thesis.tex")
    model.save_pretrained(folder)  # an empty folder is taken
    (tmp_path / "thesis.tex").rename(folder / "thesis.tex")
    assert refusal(lambda: model.save_pretrained(folder)) == (
        f"`{folder}` is a checkpoint that also holds thesis.tex, which would be lost: move that, or choose another folder"
    )
    assert (folder / "thesis.tex").read_text() == "years of work"
    assert (
        refusal(lambda: model.save_pretrained(folder / "thesis.tex")) == f"`{folder / 'thesis.tex'}` is a file: name a folder"
    )


def test_a_link_to_a_checkpoint_stays_a_link(model: VLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "step-1")
    (tmp_path / "latest").symlink_to("step-1")
    model.save_pretrained(tmp_path / "latest")
    assert (tmp_path / "latest").is_symlink()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["latest", "step-1"]


# ---- what could not be loaded again ----------------------------------------------------------------------------------------


def test_a_model_that_was_changed_is_not_written(tmp_path: Path) -> None:
    model = vlmzoo.build(section())
    model.connector.to(torch.bfloat16)
    model.language.register_parameter("added", torch.nn.Parameter(torch.ones(2)))
    model.vision.positions = None
    message = refusal(lambda: model.save_pretrained(tmp_path / "checkpoint"))
    assert message == "\n".join(
        [
            "the model has been changed since it was built, so its config no longer describes it: convert it back before "
            "saving, or build it so (`dtype`)",
            *sorted(
                f"  - connector.{name}: {list(tensor.shape)} bfloat16, built as {list(tensor.shape)} float32"
                for name, tensor in model.connector.named_parameters()
            ),
            "  - language.added: not there when the model was built",
            "  - vision.positions: gone since the model was built",
        ]
    )
    assert list(tmp_path.iterdir()) == []


def test_state_that_is_no_tensor_is_not_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = vlmzoo.build(section())
    monkeypatch.setattr(type(model.vision), "get_extra_state", lambda self: {"secret": 1}, raising=False)
    assert "vision._extra_state: state that is no tensor" in refusal(lambda: model.save_pretrained(tmp_path / "checkpoint"))


# ---- transformers' callers -------------------------------------------------------------------------------------------------


def test_options_that_change_nothing_are_taken(model: VLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "none", state_dict=None, is_main_process=False)  # as Trainer calls it
    assert not (tmp_path / "none").exists()
    model.save_pretrained(tmp_path / "one", state_dict=None, is_main_process=True, safe_serialization=True, push_to_hub=False)
    assert_equal(type(model).from_pretrained(tmp_path / "one"), model)


def test_options_that_would_change_something_are_refused(model: VLM, tmp_path: Path) -> None:
    message = refusal(
        lambda: model.save_pretrained(tmp_path / "one", state_dict={}, safe_serialization=False, max_shard_size="1GB")
    )
    assert message == "\n".join(
        [
            "the checkpoint cannot be written as asked",
            "  - `state_dict` can only be None here: the model's own tensors are written, as safetensors",
            "  - `safe_serialization` can only be True here: the model's own tensors are written, as safetensors",
            "  - `max_shard_size` is not an option of vlmzoo's checkpoints: leave it out",
        ]
    )
    assert list(tmp_path.iterdir()) == []


# ---- one part alone --------------------------------------------------------------------------------------------------------


def test_one_part_alone(model: VLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "checkpoint")
    fresh = vlmzoo.build(section())
    before = {name: tensor.clone() for name, tensor in fresh.named_parameters()}
    vlmzoo.load_part(fresh, "connector", tmp_path / "checkpoint")
    theirs = dict(model.named_parameters())
    for name, tensor in fresh.named_parameters():
        assert torch.equal(tensor, theirs[name] if name.startswith("connector.") else before[name])
    assert (
        refusal(lambda: vlmzoo.load_part(fresh, "head", tmp_path))
        == "`part` (='head') must be one of vision, connector, language"
    )


def test_a_connector_between_other_parts_is_refused(model: VLM, tmp_path: Path) -> None:
    """Even where every shape fits: what it learnt holds between its own neighbours."""
    model.save_pretrained(tmp_path / "checkpoint")
    other = vlmzoo.build(
        section(vision={"name": "toy/vision", "final_norm": True}, language={"name": "toy/language", "depth": 3})
    )
    before = {name: tensor.clone() for name, tensor in other.named_parameters()}
    message = refusal(lambda: vlmzoo.load_part(other, "connector", tmp_path / "checkpoint"))
    vision = '{{"class_token": false, "depth": 2, "final_norm": {}, "heads": 2, "image_size": 32, "layers": [-1], '
    vision += '"name": "toy/vision", "patch": 8, "prefix": "drop", "width": 24}}'
    language = (
        '{{"control_tokens": [], "depth": {}, "heads": 4, "learned_positions": null, "name": "toy/language", "width": 32}}'
    )
    assert message == "\n".join(
        [
            f"`{tmp_path / 'checkpoint'}`: its connector was made for other parts",
            f"  - `vision`: the checkpoint has {vision.format('false')}, the model {vision.format('true')}",
            f"  - `language`: the checkpoint has {language.format(2)}, the model {language.format(3)}",
        ]
    )
    assert "`language`" in refusal(lambda: vlmzoo.load_part(other, "language", tmp_path / "checkpoint"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.named_parameters())


# ---- components that are not here ------------------------------------------------------------------------------------------


def test_a_part_of_a_plugin_that_is_not_installed(tmp_path: Path) -> None:
    plugin = tmp_path / "acme.py"
    plugin.write_text(
        "from vlmzoo_registry import ComponentSpec, hookimpl\n"
        "@hookimpl\n"
        "def vlmzoo_components():\n"
        "    return [ComponentSpec(kind='connector', name='wire', factory='vlmzoo_toy.connector:ToyConnector',\n"
        "                          summary='A wire', license='MIT')]\n"
    )
    catalogue = Catalogue.discover(extra=[plugin])
    model = vlmzoo.build(section(connector=[{"name": "acme/wire"}]), catalogue=catalogue)
    model.save_pretrained(tmp_path / "checkpoint")
    assert_equal(vlmzoo.load(tmp_path / "checkpoint", catalogue=catalogue), model)
    (record,) = read_manifest(tmp_path / "checkpoint").components["connector"]
    message = refusal(lambda: vlmzoo.load(tmp_path / "checkpoint"), PluginError)
    first, *reasons = message.splitlines()
    assert first == f"`{tmp_path / 'checkpoint'}` was made by components that are not here; install their distributions"
    assert len(reasons) == 1
    assert reasons[0].startswith(f"  - connector `acme/wire` of acme.py {record.version}: no connector is named `acme/wire`")


def test_a_config_that_this_version_does_not_understand(tmp_path: Path) -> None:
    model = vlmzoo.build(section())
    model.config.model["vision"]["dream"] = True
    model.save_pretrained(tmp_path / "checkpoint")
    message = refusal(lambda: vlmzoo.load(tmp_path / "checkpoint"))
    assert message.startswith(f"`{tmp_path / 'checkpoint'}`: its config.json is not understood here: ")
    assert "dream: unknown key (toy/vision knows: " in message


def test_loaded_parts_are_those_of_the_checkpoint_not_of_the_seed(tmp_path: Path) -> None:
    """A load that left a tensor at its random start would differ under another seed."""
    torch.manual_seed(1)
    model = shake(vlmzoo.build(section("cross_attention", connector=CROSS, language=causal_lm(LLAMA))))
    model.save_pretrained(tmp_path / "checkpoint")
    for seed in (2, 3):
        torch.manual_seed(seed)
        assert_equal(vlmzoo.load(tmp_path / "checkpoint"), model)
