"""Saved points: damaged or another run's ones are refused by name, full disks harm none, frozen parts are linked into them."""

import errno
import os
import resource
import shutil
import signal
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from resumable import assert_same, outcome, recipe, refused, stopped, write_rows

import vlmzoo
from vlmzoo import checkpoint, manifest
from vlmzoo.manifest import verify
from vlmzoo.training import fit as fitting
from vlmzoo.training.fit import NotFiniteError
from vlmzoo.training.train import train
from vlmzoo_registry import CheckpointError, ResourceError, VlmzooError


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What both stages train on."""
    return write_rows(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def straight(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The outcome of a run that was never stopped."""
    output = tmp_path_factory.mktemp("straight")
    train(recipe(rows), output=output)
    return outcome(output)


# ---- what can be wrong with a saved point -----------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["training.safetensors", "training.json", "connector.safetensors", "vision.safetensors"])
def test_a_damaged_point_is_refused_by_name(file: str, rows: Path, tmp_path: Path, straight: dict[str, Any]) -> None:
    resume = stopped(tmp_path, recipe(rows))
    content = bytearray((resume / file).read_bytes())
    content[-2] ^= 1
    (resume / file).write_bytes(content)
    error = refused(CheckpointError, lambda: train(recipe(rows), output=tmp_path))
    assert error.message == (
        f"the run cannot go on from `{resume}`: `{resume}` is damaged; restore it from a copy or take an earlier checkpoint; "
        f"remove `{resume}` to train the stage from its beginning"
    )
    assert error.reasons == (f"{file}: its SHA-256 differs from the recorded one (damaged, or another file)",)
    shutil.rmtree(resume)
    train(recipe(rows), output=tmp_path)
    assert_same(outcome(tmp_path), straight)


def test_a_damaged_finished_stage_is_refused_by_name(rows: Path, tmp_path: Path) -> None:
    stopped(tmp_path, recipe(rows), "instruct", 1)
    whole = tmp_path / "align" / "checkpoint"
    with (whole / "language.safetensors").open("ab") as file:
        file.write(b"\0")
    error = refused(CheckpointError, lambda: train(recipe(rows), output=tmp_path))
    assert error.message.startswith("the finished stage cannot be used: ")
    assert error.message.endswith(f"; remove `{whole.parent}` to train it again")
    assert "language.safetensors" in error.reasons[0]


def test_a_point_of_another_run_is_refused(rows: Path, tmp_path: Path) -> None:
    """A folder that was copied there by hand."""
    resume = stopped(tmp_path / "one", recipe(rows))
    other = recipe(rows)
    other["seed"] = 4
    stopped(tmp_path / "two", other, "align", 1)
    shutil.copytree(resume, tmp_path / "two" / "align" / "resume")
    error = refused(CheckpointError, lambda: train(other, output=tmp_path / "two"))
    assert "it was saved by another run" in error.message
    assert [reason.partition(":")[0] for reason in error.reasons] == ["`recipe_sha256`"]


def test_an_ordinary_checkpoint_is_no_point(rows: Path, tmp_path: Path) -> None:
    resume = stopped(tmp_path, recipe(rows))
    model, extra = vlmzoo.load(resume), manifest.read_manifest(resume).extra
    shutil.rmtree(resume)
    checkpoint.save(model, resume, extra=extra)
    error = refused(CheckpointError, lambda: train(recipe(rows), output=tmp_path))
    assert f"`{resume / 'training.json'}` cannot be read as JSON" in error.message


@pytest.mark.parametrize("change", ["caption", "row"])
def test_other_data_than_the_run_began_with(change: str, rows: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(rows, data)
    stopped(tmp_path / "run", recipe(data))
    lines = (data / "rows.jsonl").read_text().splitlines()
    lines = [lines[0].replace('"a"', '"b"'), *lines[1:]] if change == "caption" else lines[:-1]
    (data / "rows.jsonl").write_text("\n".join(lines) + "\n")
    stage = tmp_path / "run" / "align"
    assert refused(CheckpointError, lambda: train(recipe(data), output=tmp_path / "run")).message == (
        f"`{stage / 'resume'}` was saved with other data than `data` names now: put the data back as it was, or remove "
        f"`{stage}` to train the stage again"
    )


def test_a_log_that_was_edited_is_named(rows: Path, tmp_path: Path) -> None:
    stopped(tmp_path, recipe(rows))
    log = tmp_path / "align" / "log.jsonl"
    log.write_text(log.read_text() + "so far so good\n")
    message = str(refused(VlmzooError, lambda: train(recipe(rows), output=tmp_path)))
    assert message.startswith(f"`{log}` has a line that is not JSON (")
    log.unlink()
    assert len(train(recipe(rows), output=tmp_path).losses) == 10


# ---- disk and memory -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [2, 3, 5])
def test_a_disk_that_is_full(
    save: int, rows: Path, tmp_path: Path, straight: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a later point, of a stage's checkpoint, of the next stage's point: what was saved before stays good."""
    count = 0
    verified = checkpoint.verify

    def full(folder: Path, *linked: Any) -> Any:
        nonlocal count
        if ".partial" in folder.name:
            count += 1
            if count == save:
                raise OSError(errno.ENOSPC, "No space left on device")
        return verified(folder, *linked)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "verify", full)
        error = refused(ResourceError, lambda: train(recipe(rows), output=tmp_path))
    name = {2: "align/resume", 3: "align/checkpoint", 5: "instruct/resume"}[save]
    assert error.message.startswith(f"`{(tmp_path / name).resolve()}` could not be written ([Errno 28] No space left on device")
    assert " MiB, and " in error.message
    before = tmp_path / {2: "align/resume", 3: "align/resume", 5: "instruct/resume"}[save]
    assert verify(before).extra["step"] == {2: 2, 3: 4, 5: 2}[save]
    train(recipe(rows), output=tmp_path)
    assert_same(outcome(tmp_path), straight)


def test_a_disk_that_is_full_for_real(rows: Path, tmp_path: Path, straight: dict[str, Any]) -> None:
    """A limit on the size of files, in a child: the optimizer's state is what does not fit."""
    plan = recipe(rows)
    resume = stopped(tmp_path, plan, "instruct", 3)
    limit = (resume / "training.safetensors").stat().st_size - 1
    assert limit > (resume / "connector.safetensors").stat().st_size
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            train(plan, output=tmp_path)
        except ResourceError as error:
            os._exit(7 if "File too large" in str(error) else 8)
        finally:
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert verify(resume).extra["step"] == 2
    train(plan, output=tmp_path)
    assert_same(outcome(tmp_path), straight)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: not enough memory: you tried to allocate 4 bytes."
        ),
        MemoryError(),
    ],
)
def test_a_lack_of_memory_says_what_helps(
    error: Exception, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(self: Any, rows: Any) -> None:
        raise error

    monkeypatch.setattr(fitting.GlobalBatch, "backward", exhausted)
    said = (str(error).splitlines() or ["MemoryError"])[0]
    assert refused(ResourceError, lambda: train(recipe(rows), output=tmp_path)).message == (
        f"stage `align`, step 0: not enough memory ({said}); lower `micro_batch` (=2), which needs less and makes the same "
        "update"
    )
    one = recipe(rows, micro_batch=1)  # nothing was trained: the recipe may be changed
    assert refused(ResourceError, lambda: train(one, output=tmp_path)).message.endswith(
        "`micro_batch` is 1 already: train fewer parts, or take smaller ones or shorter rows"
    )


def test_memory_that_torch_cannot_give(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of the CPU's own allocator, for more memory than any machine has."""
    monkeypatch.setattr(fitting.GlobalBatch, "backward", lambda self, rows: torch.empty(2**56))
    message = refused(ResourceError, lambda: train(recipe(rows), output=tmp_path)).message
    assert message.startswith("stage `align`, step 0: not enough memory (")


def test_another_error_of_torch_stays_what_it_is(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting.GlobalBatch, "backward", lambda self, rows: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):
        train(recipe(rows), output=tmp_path)


# ---- files of parts that did not change -------------------------------------------------------------------------------------


def test_files_of_frozen_parts_are_linked_and_not_read_again(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    digest = manifest.file_sha256

    def watched(file: Path) -> str:
        read.append(f"{file.parent.parent.name}/{file.name}")
        return digest(file)

    monkeypatch.setattr(manifest, "file_sha256", watched)
    train(recipe(rows), output=tmp_path)
    one, two = tmp_path / "align" / "checkpoint", tmp_path / "instruct" / "checkpoint"
    for part, linked in (("vision", True), ("connector", False), ("language", False)):
        assert (one / f"{part}.safetensors").samefile(two / f"{part}.safetensors") == linked
    # Written once, by the first point of the first stage, and then read twice: to be recorded, and to be verified.
    assert read.count("align/vision.safetensors") == 2
    assert read.count("align/language.safetensors") == 2
    assert read.count("instruct/vision.safetensors") == 0
    assert read.count("instruct/language.safetensors") == 2 * 3
    assert read.count("align/connector.safetensors") == 2 * 3
    assert vlmzoo.load(two) is not None


def test_a_linked_file_keeps_its_mode(rows: Path, tmp_path: Path) -> None:
    """It is that of an earlier checkpoint, which may be protected, or somebody else's."""
    plan = recipe(rows)
    train({**plan, "stages": plan["stages"][:1]}, output=tmp_path / "one")
    model, earlier = vlmzoo.load(tmp_path / "one" / "align" / "checkpoint"), tmp_path / "one" / "align" / "checkpoint"
    (earlier / "vision.safetensors").chmod(0o440)
    checkpoint.save(model, tmp_path / "two", unchanged=checkpoint.Unchanged(earlier, ("vision",)))
    two = tmp_path / "two"
    assert (two / "vision.safetensors").samefile(earlier / "vision.safetensors")
    modes = {name: stat.S_IMODE((two / f"{name}.safetensors").stat().st_mode) for name in ("vision", "language")}
    assert modes == {"vision": 0o440, "language": stat.S_IMODE((two / "manifest.json").stat().st_mode)}


def test_without_links_the_files_are_written(
    rows: Path, tmp_path: Path, straight: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(source: Any, target: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(checkpoint.os, "link", none)
    train(recipe(rows), output=tmp_path)
    assert_same(outcome(tmp_path), straight)
    one, two = (tmp_path / stage / "checkpoint" / "vision.safetensors" for stage in ("align", "instruct"))
    assert not one.samefile(two)


def test_a_frozen_part_that_moved_is_never_saved_as_if_it_had_not(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file would be linked, and the checkpoint would not be the model."""
    advance = fitting.StepProgress.advance

    def meddling(self: Any, loss: float, seconds: float) -> None:
        advance(self, loss, seconds)
        if self._done == 3:
            with torch.no_grad():
                meddled[-1].vision.positions.add_(1)

    meddled: list[Any] = []
    original = fitting.set_trainable
    monkeypatch.setattr(fitting, "set_trainable", lambda model, parts: (meddled.append(model), original(model, parts))[1])
    monkeypatch.setattr(fitting.StepProgress, "advance", meddling)
    message = str(refused(VlmzooError, lambda: train(recipe(rows), output=tmp_path)))
    assert "`vision.positions` is frozen, but has moved" in message
    assert verify(tmp_path / "align" / "resume").extra["step"] == 2


def test_a_stage_whose_loss_is_no_number_keeps_its_last_point(rows: Path, tmp_path: Path) -> None:
    plan = recipe(rows, steps=60, schedule="constant", warmup=0.0)
    plan["stages"][0]["train"]["connector"]["lr"] = 1e30
    with pytest.raises(NotFiniteError):
        train(plan, output=tmp_path)
    resume = tmp_path / "align" / "resume"
    assert not resume.exists() or verify(resume)
