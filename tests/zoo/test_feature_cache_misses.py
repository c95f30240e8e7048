"""Features are never stale: whatever they depend on changes, they are computed anew; damaged ones are told and never used."""

import errno
import fcntl
import json
import multiprocessing
import os
import resource
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import torch
from feature_runs import built, counted_views, mixed_recipe, prepared, shards, write_mixed_rows
from pyarrow import parquet
from safetensors import safe_open
from safetensors.torch import save_file
from small_models import LLAMA, causal_lm, picture, section

import vlmzoo
from vlmzoo.feature_cache import key as keys
from vlmzoo.feature_cache import prepare
from vlmzoo.feature_cache.key import feature_key, key_sha256
from vlmzoo.feature_cache.prepare import Wanted, features_folder
from vlmzoo.feature_cache.store import KEY, Features, FeatureStore
from vlmzoo.model.vlm import VLM
from vlmzoo.training.samples import Samples
from vlmzoo.training.train import train
from vlmzoo_registry import Arrangement, Catalogue, CheckpointError, DataError, ImageFile, ResourceError
from vlmzoo_registry.images import open_image

TILES = {"layout": {"name": "layouts/dynamic-tiles", "max_tiles": 4}}
CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The rows, and a cache folder that is this test's own."""
    monkeypatch.setenv("VLMZOO_CACHE", str(tmp_path / "cache"))
    return write_mixed_rows(tmp_path / "rows")


def encoded(plan: dict[str, Any], model: VLM | None = None, **options: Any) -> int:
    """How many views a run encodes before its first step."""
    with counted_views() as seen:
        prepared(plan, model, **options)
    return sum(seen)


# ---- what changes, and is a miss -------------------------------------------------------------------------------------------


def test_nothing_changed(rows: Path) -> None:
    assert encoded(mixed_recipe(rows)) == 4
    assert encoded(mixed_recipe(rows)) == 0


def change_weight(model: VLM) -> None:
    next(iter(model.vision.parameters())).data.view(-1)[7] += 1e-6


def change_buffer(model: VLM) -> None:
    model.vision.register_buffer("of_its_own", torch.zeros(1), persistent=False)


def change_sign_of_zero(model: VLM) -> None:
    bias = model.vision.get_parameter("blocks.0.output.bias")
    bias.data.view(-1)[0] = -0.0 if bias.data.view(-1)[0] == 0 else 0.0


@pytest.mark.parametrize("change", [change_weight, change_buffer, change_sign_of_zero])
def test_another_encoder(change: Callable[[VLM], None], rows: Path) -> None:
    plan = mixed_recipe(rows)
    assert encoded(plan, built(plan)) == 4
    other = built(plan)
    change(other)
    assert encoded(plan, other) == 4
    assert encoded(plan, other) == 0


def test_other_connectors_and_another_language_model_are_no_miss(rows: Path) -> None:
    plan = mixed_recipe(rows)
    model = built(plan)
    encoded(plan, model)
    for part in (model.connector, model.language):
        next(part.parameters()).data += 1
    assert encoded(plan, model) == 0


BASE = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic", "resize": "squash"}
OTHERS: dict[str, dict[str, Any]] = {
    "mean": {"mean": [0.4, 0.5, 0.5]},
    "std": {"std": [0.5, 0.5, 0.4]},
    "interpolation": {"interpolation": "nearest"},
    "way to resize": {"resize": "crop"},
    "fraction": {"crop_fraction": 0.5},
    "size": {"image_size": 40},
    "layer": {"layers": [-2]},
    "norm": {"final_norm": True},
    "prefix": {"prefix": "keep"},
}


def test_another_option_of_the_encoder(rows: Path) -> None:
    def key(**options: Any) -> str:
        plan = mixed_recipe(rows, section(vision={"name": "transformers/vision", "config": CLIP, **options}))
        return key_sha256(feature_key(built(plan), "float32"))

    keys_of_all = {"none": key(**BASE), **{name: key(**BASE | options) for name, options in OTHERS.items()}}
    assert len(set(keys_of_all.values())) == len(keys_of_all)
    assert key(**BASE) == keys_of_all["none"]


@pytest.mark.parametrize(
    "other",
    [
        section(),
        section() | {"layout": {"name": "layouts/dynamic-tiles", "max_tiles": 2}},
        section() | {"layout": {"name": "layouts/dynamic-tiles", "max_tiles": 4, "thumbnail": False}},
        section() | {"layout": {"name": "layouts/anyres"}},
    ],
)
def test_another_layout(other: dict[str, Any], rows: Path) -> None:
    encoded(mixed_recipe(rows, section() | TILES))
    views = encoded(mixed_recipe(rows, other))
    assert views >= 4
    assert encoded(mixed_recipe(rows, section() | TILES)) == 0


def test_the_same_bytes_in_another_dataset_are_the_same_image(rows: Path, tmp_path: Path) -> None:
    encoded(mixed_recipe(rows))
    lines = [json.loads(line) for line in (rows / "rows.jsonl").read_text().splitlines()]
    table = {
        "messages": [line["messages"] for line in lines],
        "images": [[{"bytes": (rows / name).read_bytes()} for name in line["images"]] for line in lines],
    }
    parquet.write_table(pyarrow.table(table), tmp_path / "rows.parquet")
    plan = mixed_recipe(rows, data=[{"name": "arrow", "path": str(tmp_path / "rows.parquet")}])
    assert encoded(plan) == 0
    for shard in shards():
        shard.unlink()
    assert encoded(plan) == 4
    run = prepared(plan)
    pixels = run.pixels([run.samples[3]])["pixel_values"][0]
    torch.testing.assert_close(run.features([run.samples[3]])["vision_features"][0], run.model.see(pixels).tokens)


def test_another_precision_another_library_another_product(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = built(mixed_recipe(rows))
    found = [key_sha256(feature_key(model, precision)) for precision in ("float32", "bf16")]
    monkeypatch.setattr(keys, "_version", lambda name: "99" if name == "pillow" else "1")
    found.append(key_sha256(feature_key(model, "float32")))
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    found.append(key_sha256(feature_key(model, "float32")))
    assert len(set(found)) == 4


def test_a_transform_that_does_otherwise_what_it_says_alike(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that changes where nothing that is written down does: what comes out of it is part of the key."""
    model = built(mixed_recipe(rows))
    before = key_sha256(feature_key(model, "float32"))
    transform = type(model.vision.transform)
    normalised = transform.normalised
    monkeypatch.setattr(transform, "normalised", lambda self, image: normalised(self, image) + 1e-6)
    assert key_sha256(feature_key(model, "float32")) != before


def test_other_bytes_under_the_same_name(rows: Path) -> None:
    plan = mixed_recipe(rows)
    encoded(plan)
    run = prepared(plan)
    before = run.features([run.samples[0]])["vision_features"]
    picture(99).save(rows / "0.png")
    assert encoded(plan) == 1
    run = prepared(plan)
    after = run.features([run.samples[0]])
    assert not torch.equal(after["vision_features"], before)
    expected = run.model.see(run.pixels([run.samples[0]])["pixel_values"][0]).tokens
    torch.testing.assert_close(after["vision_features"][0], expected)


@pytest.mark.parametrize(("layout", "place"), [({}, ", image 1"), (TILES, "")])
def test_an_image_that_changes_while_training(layout: dict[str, Any], place: str, rows: Path) -> None:
    run = prepared(mixed_recipe(rows, section() | layout))
    picture(99).save(rows / "2.png")
    run.features([run.samples[0]])
    with pytest.raises(DataError) as caught:
        run.features([run.samples[0], run.samples[1]])
    assert str(caught.value) == (
        f"{rows / 'rows.jsonl'}:2{place}: no features are kept of this image, so it is not the one that was there when the "
        "stage began: put it back, or start the same command again, which encodes what is new"
    )


def test_an_image_that_changes_while_it_is_encoded(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(self: ImageFile) -> Any:
        image = open_image(self.path, where=self.where, root=self.root)
        picture(98).save(self.path)
        return image

    monkeypatch.setattr(ImageFile, "__call__", opened)
    with pytest.raises(DataError, match=r"rows\.jsonl:1, image 0 changed while it was read: let it be, and start"):
        prepared(mixed_recipe(rows))
    assert not shards()


def test_an_image_that_is_cut_otherwise_than_it_was(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a layout comes to cut some size otherwise that the key does not try, the arrangement itself tells."""
    plan = mixed_recipe(rows, section() | TILES)
    model = built(plan)
    before = encoded(plan, model)
    key = feature_key(model, "float32")
    layout = type(model.layout)
    arrangement = layout.arrangement
    monkeypatch.setattr(layout, "arrangement", lambda self, size: arrangement(self, (120, 40) if size == (90, 90) else size))
    assert feature_key(model, "float32") == key
    views = model.layout.views(model.layout.arrangement((90, 90)))
    monkeypatch.setattr(layout, "cut", lambda self, image, transform: [torch.zeros(3, 32, 32)] * views)
    monkeypatch.setattr(keys, "_views_sha256", lambda vlm: key["views_sha256"])
    assert encoded(plan, model) == views
    assert before > views
    assert encoded(plan, model) == 0


# ---- damaged ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0, 5, 300, -100])
def test_a_shard_that_is_cut_off_is_computed_again(kept: int, rows: Path) -> None:
    plan = mixed_recipe(rows)
    encoded(plan)
    (shard,) = shards()
    shard.write_bytes(shard.read_bytes()[:kept])
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "_say", lambda console, line: said.append(line))
        assert encoded(plan) == 4
    assert len(said) == 2
    assert said[0].startswith(f"Stage `s`: `{shard}` is damaged (")
    assert said[0].endswith("); it is removed, and its images are encoded again.")
    assert not shard.exists() and len(shards()) == 1
    assert encoded(plan) == 0


def rewrite(shard: Path, change: Callable[[dict[str, torch.Tensor], list[dict[str, Any]]], None]) -> None:
    """The same shard with something else in it."""
    with safe_open(shard, framework="pt") as file:
        entries = json.loads(file.metadata()["entries"])
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - no mapping
    change(tensors, entries)
    save_file(tensors, shard, metadata={"entries": json.dumps(entries)})


def flip_value(tensors: dict[str, torch.Tensor], entries: list[dict[str, Any]]) -> None:
    tensors["0"].view(-1)[3] += 1e-6


def other_shape(tensors: dict[str, torch.Tensor], entries: list[dict[str, Any]]) -> None:
    tensors["0"] = tensors["0"].reshape(1, tensors["0"].shape[2], -1)


def other_type(tensors: dict[str, torch.Tensor], entries: list[dict[str, Any]]) -> None:
    tensors["0"] = tensors["0"].view(torch.int32).view(torch.float32).double()


def exchange(tensors: dict[str, torch.Tensor], entries: list[dict[str, Any]]) -> None:
    tensors["0"], tensors["1"] = tensors["1"], tensors["0"]


def other_owner(tensors: dict[str, torch.Tensor], entries: list[dict[str, Any]]) -> None:
    entries[0]["content"], entries[1]["content"] = entries[1]["content"], entries[0]["content"]


@pytest.mark.parametrize("change", [flip_value, other_shape, other_type, exchange, other_owner])
def test_features_that_are_not_what_was_written_are_never_used(
    change: Callable[[dict[str, torch.Tensor], list[dict[str, Any]]], None], rows: Path
) -> None:
    plan = mixed_recipe(rows)
    model = built(plan)
    encoded(plan, model)
    (shard,) = shards()
    rewrite(shard, change)
    run = prepared(plan, model)
    with pytest.raises(CheckpointError) as caught:
        run.features([run.samples[0], run.samples[1]])
    assert str(caught.value).startswith(f"`{shard}`: cached features are damaged (SHA-256 ")
    assert str(caught.value).endswith("the file is removed, and the same command encodes its images again and goes on")
    assert encoded(plan, model) == 4
    run = prepared(plan, model)
    run.features([run.samples[0], run.samples[1]])


def unknown_entry(tensors: dict[str, torch.Tensor], entries: list[dict[str, Any]]) -> None:
    entries.pop()


def no_digest(tensors: dict[str, torch.Tensor], entries: list[dict[str, Any]]) -> None:
    del entries[0]["sha256"]


@pytest.mark.parametrize("change", [unknown_entry, no_digest])
def test_a_shard_that_does_not_say_what_it_holds(
    change: Callable[[dict[str, torch.Tensor], list[dict[str, Any]]], None], rows: Path
) -> None:
    plan = mixed_recipe(rows)
    encoded(plan)
    rewrite(shards()[0], change)
    assert encoded(plan) == 4


def test_a_shard_that_vanishes_while_training(rows: Path) -> None:
    run = prepared(mixed_recipe(rows))
    shards()[0].unlink()
    with pytest.raises(CheckpointError, match="are gone; the same command encodes its images again and goes on"):
        run.features([run.samples[0]])


def refused_by_the_system(fault: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on no shard can be opened, by whom ever; safetensors then says that it is not there."""
    plain = Path.open

    def refused(self: Path, *args: Any, **options: Any) -> Any:
        if self.suffix == ".safetensors":
            raise OSError(fault, os.strerror(fault), str(self))
        return plain(self, *args, **options)

    def not_found(path: Path, framework: str) -> Any:
        raise FileNotFoundError(f"No such file or directory: {path}")

    monkeypatch.setattr(Path, "open", refused)
    monkeypatch.setattr("vlmzoo.feature_cache.store.safe_open", not_found)


@pytest.mark.parametrize("fault", [errno.EMFILE, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("when", ["beginning", "training"])
def test_a_shard_that_cannot_be_opened_is_left(fault: int, when: str, rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be looked at is not damaged: days of encoding would be lost to a limit of open files."""
    plan = mixed_recipe(rows)
    run = prepared(plan)
    shard = shards()[0]
    kept = shard.read_bytes()
    run.reader.store._handles.clear()
    refused_by_the_system(fault, monkeypatch)
    with pytest.raises(ResourceError) as caught:
        prepared(plan) if when == "beginning" else run.features([run.samples[0]])
    assert str(caught.value).startswith(f"`{shard}`: kept features cannot be opened ([Errno {fault}] {os.strerror(fault)}")
    assert str(caught.value).endswith("(`ulimit -n`) or memory, and start the same command again")
    monkeypatch.undo()
    assert shard.read_bytes() == kept


def test_a_shard_for_which_no_file_can_be_opened_is_left(tmp_path: Path) -> None:
    """With the limit of the system itself: one file more may be opened, then none."""
    store = FeatureStore(tmp_path, {})
    arrangement = Arrangement(1, 1, 4, 4)
    store.write([Features("bytes-0", (4, 4), arrangement, torch.zeros(1, 3, 2))])
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    held = []
    try:
        with suppress(OSError):
            while True:
                held.append(open(os.devnull, "rb"))  # noqa: SIM115 - closed below
        for _ in range(2):
            with pytest.raises(ResourceError, match="kept features cannot be opened"):
                store.read("bytes-0", arrangement)
            held.pop().close()
    finally:
        for file in held:
            file.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert torch.equal(store.read("bytes-0", arrangement), torch.zeros(1, 3, 2))


@pytest.mark.parametrize("text", ["{", "{}", '{"format": 0}'])
def test_a_folder_of_another_key(text: str, rows: Path) -> None:
    plan = mixed_recipe(rows)
    encoded(plan)
    (folder,) = features_folder().iterdir()
    (folder / KEY).write_text(text)
    with pytest.raises(ResourceError) as caught:
        prepared(plan)
    assert str(caught.value).startswith(f"`{folder / KEY}` is damaged (")
    assert str(caught.value).endswith(f"): remove `{folder}`, and it is made anew")


def test_features_of_packed_rows(rows: Path) -> None:
    """One row after the other in a single one: images stay with their rows."""
    run = prepared(mixed_recipe(rows, section(language=causal_lm(LLAMA | {"max_position_embeddings": 512}))))
    run.features.flatten = run.pixels.flatten = True
    samples = [run.samples[index] for index in (1, 2, 0, 3)]
    batch, pixels = run.features(samples), run.pixels(samples)
    assert batch["input_ids"].shape[0] == 1 and batch["vision_features"].shape[:2] == (4, 2)
    torch.testing.assert_close(run.model(**batch).loss, run.model(**pixels).loss)


def test_the_plan_tells_what_the_disk_needs(rows: Path) -> None:
    for model in (section(), section() | {"vision": [{"name": "toy/vision"}, {"name": "toy/vision", "image_size": 48}]}):
        recipe = mixed_recipe(rows, model, cache_features=True)
        run = prepared(recipe)
        tokens = run.reader.read([run.samples[0].images], ["row"])["vision_features"]
        assert vlmzoo.plan(recipe).stages[0].cached_bytes == tokens.nbytes
    assert vlmzoo.plan(mixed_recipe(rows)).stages[0].cached_bytes is None


PATCHES = """
from torch import nn
from torch.nn import functional
from vlmzoo_registry import ComponentSpec, FeatureShape, ImageTransform, VisionEncoder, VisionFeatures, hookimpl


class Patches(VisionEncoder):
    def __init__(self, config):
        super().__init__()

    output_shape = property(lambda self: FeatureShape(width=192, count=16, grid=(4, 4)))
    transform = property(lambda self: ImageTransform(32, 32, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bilinear"))
    encoder_blocks = property(lambda self: [])

    @classmethod
    def resolve(cls, config):
        return config

    def shape_at(self, size):
        return self.output_shape

    def forward(self, pixels):
        return VisionFeatures(functional.pixel_unshuffle(pixels, 8).flatten(2).transpose(1, 2), (4, 4), 0)


@hookimpl
def vlmzoo_components():
    return [
        ComponentSpec(kind="vision_encoder", name="patches", factory="bare:Patches", summary="Pixels", license="MIT"),
    ]
"""


def test_an_encoder_without_parameters(rows: Path) -> None:
    plugin = rows / "bare.py"
    plugin.write_text(PATCHES)
    catalogue = Catalogue.discover(extra=[plugin])
    recipe = mixed_recipe(rows, section(vision={"name": "bare/patches"}), cache_features=True)
    assert vlmzoo.plan(recipe, catalogue=catalogue).stages[0].cached_bytes == 16 * 192 * 4
    train(recipe, output=rows / "run", catalogue=catalogue)
    (shard,) = shards()
    with safe_open(shard, framework="pt") as file:
        assert [file.get_tensor(name).nbytes for name in file.keys()] == [16 * 192 * 4] * 4  # noqa: SIM118 - no mapping


# ---- faults that are not written for the reader -----------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_a_lack_of_memory_says_what_needs_less(workers: int, rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: VLM, pixels: torch.Tensor) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7 GiB\nand more")

    monkeypatch.setattr(VLM, "see", full)
    with pytest.raises(ResourceError) as caught:
        train(mixed_recipe(rows, cache_features=True, workers=workers), output=rows / "run")
    assert str(caught.value) == (
        "stage `s`, encoding images: not enough memory (CUDA out of memory. Tried to allocate 7 GiB); lower `micro_batch` "
        "(=3), which needs less and makes the same update"
    )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("owner", "method", "said"),
    [
        (Samples, "__getitem__", "row 0 (from 0) of the stage's data cannot be read"),
        (ImageFile, "digest", "{rows}:1, image 0 cannot be read"),
        (ImageFile, "__call__", "{rows}:1, image 0 cannot be used"),
    ],
)
def test_faults_of_datasets_are_told_with_their_row(
    owner: type, method: str, said: str, workers: int, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any, *place: int) -> Any:
        raise KeyError("caption")

    monkeypatch.setattr(owner, method, broken)
    with pytest.raises(DataError) as caught:
        prepared(mixed_recipe(rows, workers=workers))
    assert str(caught.value).startswith(f"{said.format(rows=rows / 'rows.jsonl')}: KeyError: 'caption' (test_feature_cache_mis")
    assert str(caught.value).endswith("mend the dataset or the part that raised this, or drop the row")
    assert isinstance(caught.value.__cause__, KeyError)


# ---- disk, interruption, other processes -----------------------------------------------------------------------------------


def test_a_disk_without_room_is_told_before_all_is_encoded(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 3 * 16 * 24 * 4  # of three images; there are four
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - free, free))
    with counted_views() as seen, pytest.raises(ResourceError) as caught:
        prepared(mixed_recipe(rows))
    assert sum(seen) == 3  # the first batch, from which the rest is known
    (folder,) = features_folder().iterdir()
    assert str(caught.value) == (
        f"`{folder}`: features take 0.0 MiB more, and only 0.0 MiB are free there; make room, set VLMZOO_CACHE to another "
        "folder, or leave `cache_features` out of the stage"
    )


def test_a_cache_folder_that_cannot_be_made(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VLMZOO_CACHE", str(tmp_path / "file"))
    with pytest.raises(
        ResourceError, match=r"where features are kept, cannot be used \(.*\): mend its permissions, or set VLMZOO"
    ):
        prepared(mixed_recipe(rows))


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_keeps_what_was_encoded(stop: signal.Signals, rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    see = VLM.see

    def stopping(self: VLM, pixels: torch.Tensor) -> Any:
        os.kill(os.getpid(), stop)
        return see(self, pixels)

    before = signal.signal(stop, signal.default_int_handler)
    try:
        monkeypatch.setattr(VLM, "see", stopping)
        with pytest.raises(KeyboardInterrupt):
            prepared(mixed_recipe(rows))
        monkeypatch.setattr(VLM, "see", see)
    finally:
        signal.signal(stop, before)
    assert encoded(mixed_recipe(rows)) == 1  # a batch of three was under way


def test_several_shards(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "SHARD_BYTES", 1)
    run = prepared(mixed_recipe(rows))
    assert len(shards()) == 2
    monkeypatch.setattr("vlmzoo.feature_cache.store._OPEN", 1)
    for index in (0, 3, 0):
        batch, pixels = run.features([run.samples[index]]), run.pixels([run.samples[index]])
        torch.testing.assert_close(batch["vision_features"][0], run.model.see(pixels["pixel_values"][0]).tokens)


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_read_the_same(threads: int, rows: Path) -> None:
    run = prepared(mixed_recipe(rows, workers=threads, micro_batch=1))
    for index in (0, 3):
        batch, pixels = run.features([run.samples[index]]), run.pixels([run.samples[index]])
        assert torch.equal(batch["vision_features"][0], run.model.see(pixels["pixel_values"][0]).tokens)
    (rows / "3.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"rows\.jsonl:4: images: .*3\.png` is not an image of a known format"):
        prepared(mixed_recipe(rows, workers=threads, micro_batch=1))


class Asked(Exception):
    """A process has said what it would encode, and waits for the others."""


def wanted_of(plan: dict[str, Any], model: VLM, ranks: int) -> list[list[Wanted]]:
    """What each of so many processes would encode of its rows."""
    brought: list[list[Wanted]] = []

    def asked(mine: list[Wanted]) -> list[list[Wanted]]:
        brought.append(mine)
        raise Asked

    for rank in range(ranks):
        with pytest.raises(Asked):
            prepared(plan, model, rank=rank, ranks=ranks, exchange=asked)
    return brought


@pytest.mark.parametrize(("ranks", "found", "shares"), [(2, [1, 3], [2, 2]), (3, [2, 3], [2, 1, 1]), (5, [1, 2], [1] * 4)])
def test_processes_share_images_and_not_rows(ranks: int, found: list[int], shares: list[int], rows: Path) -> None:
    """Rows have as many images as they like, and images that other rows have too: each is encoded once, by whom ever."""
    plan = mixed_recipe(rows)
    model = built(plan)
    brought = wanted_of(plan, model, ranks)
    assert [len(part) for part in brought][:2] == found
    done = [encoded(plan, model, rank=rank, ranks=ranks, exchange=lambda mine: brought) for rank in range(ranks)]
    assert done[: len(shares)] == shares and sum(done) == 4
    assert encoded(plan, model) == 0


def test_the_room_that_all_processes_need_is_asked_for(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is room for three images, one of two processes has two to write, and both have four."""
    plan = mixed_recipe(rows)
    model = built(plan)
    brought = wanted_of(plan, model, 2)
    free = 3 * 16 * 24 * 4
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - free, free))
    with pytest.raises(ResourceError, match="are free there; make room"):
        prepared(plan, model, ranks=2, exchange=lambda mine: brought)
    assert not shards()


def _prepare(plan: dict[str, Any]) -> None:
    prepared(plan)


def test_runs_at_the_same_time_share_the_folder(rows: Path) -> None:
    plan = mixed_recipe(rows)
    context = multiprocessing.get_context("fork")
    runs = [context.Process(target=_prepare, args=(plan,)) for _ in range(3)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(60)
    assert [run.exitcode for run in runs] == [0, 0, 0]
    assert 1 <= len(shards()) <= 6
    assert encoded(plan) == 0
    run_after = prepared(plan)
    assert len(run_after.reader.store) == 4
    run_after.features([run_after.samples[index] for index in range(5)])


def test_what_a_killed_process_left_is_removed_and_what_another_writes_is_not(rows: Path) -> None:
    plan = mixed_recipe(rows)
    encoded(plan)
    (folder,) = features_folder().iterdir()
    left, young, held = (folder / f".{name}.safetensors.partial" for name in ("left", "young", "held"))
    for path in (left, young, held):
        path.write_bytes(b"half")
    for path in (left, held):
        os.utime(path, (1, 1))
    with held.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        encoded(plan)
    assert (left.exists(), young.exists(), held.exists()) == (False, True, True)


def test_a_failed_write_leaves_nothing(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Any, target: Any) -> None:
        raise OSError(28, "No space left on device")

    store = prepared(mixed_recipe(rows)).reader.store
    assert isinstance(store, FeatureStore)
    for shard in shards():
        shard.unlink()
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(
        ResourceError, match=r"cannot be used .*No space left on device.*: make room, or set VLMZOO_CACHE to anoth"
    ):
        prepared(mixed_recipe(rows))
    assert sorted(path.name for path in store.folder.iterdir()) == [KEY]
