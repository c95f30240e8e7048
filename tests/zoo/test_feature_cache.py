"""Features that are kept teach what images teach: the same loss, the same gradients, the same runs, and nothing encoded."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from feature_runs import built, counted_views, mixed_recipe, prepared, shards, write_mixed_rows
from resumable import outcome, recipe, stopped, write_rows
from safetensors import safe_open
from small_models import MLP, TOY_VISION, picture, section
from test_layouts_in_models import MODELS

from vlmzoo.feature_cache.prepare import features_folder
from vlmzoo.model.vlm import VLM
from vlmzoo.training.processes import PATIENCE
from vlmzoo.training.train import train
from vlmzoo_registry import ConfigError, DataError, ImageFile

SMALL = {"name": "toy/vision", "image_size": 32, "width": 24}
LARGE = {"name": "toy/vision", "image_size": 48, "width": 16, "class_token": True}
BLOCKS = {"name": "connectors/cross-attention", "every": 1, "heads": 2, "head_width": 8}
CLIP = {
    "name": "transformers/vision",
    "config": {
        "model_type": "clip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
        "attention_dropout": 0.5,
    },
    "layers": [-2],
    "prefix": "keep",
}
DROP_PATH = {
    "name": "timm/encoder",
    "config": {"architecture": "vit_tiny_patch16_224", "img_size": 32, "depth": 2, "drop_path_rate": 0.5},
}
ALL = {
    "unified": section(),
    "cross-attention, one size": section("cross_attention", connector=[BLOCKS]),
    "class token": section(vision=TOY_VISION | {"class_token": True, "prefix": "keep"}),
    "encoders over each other": section() | {"vision": [SMALL, LARGE]},
    "encoders behind one another": section() | {"vision": [SMALL, LARGE | {"width": 24, "prefix": "keep"}], "merge": "tokens"},
    "CLIP with dropout": section(vision=CLIP),
    "one view of any size": section() | {"layout": {"name": "layouts/native", "longest_edge": 64}},
    "tiles for two encoders": section()
    | {"vision": [SMALL, LARGE], "layout": {"name": "layouts/dynamic-tiles", "max_tiles": 4}},
    **MODELS,
}


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The rows, and a cache folder that is this test's own."""
    monkeypatch.setenv("VLMZOO_CACHE", str(tmp_path / "cache"))
    return write_mixed_rows(tmp_path / "rows")


def learnt(model: VLM, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of a batch, and the gradients of all that trains."""
    torch.manual_seed(0)
    model.zero_grad()
    output = model(**batch)
    output.loss.backward()
    return output.loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("name", "precision"),
    [*((name, "float32") for name in ALL), *((name, "bf16") for name in ("unified", "cross-attention", "hybrid"))],
)
def test_loss_and_gradients_are_those_of_pixels(name: str, precision: str, rows: Path) -> None:
    """To the last bits but two: a batch of other views goes through the encoder's products in other blocks."""
    run = prepared(mixed_recipe(rows, ALL[name], precision=precision))
    assert len(run.reader.store) == 4  # five are shown, two of which are one
    samples = [run.samples[index] for index in range(len(run.samples))]
    pixels, features = run.pixels(samples), run.features(samples)
    assert features.keys() - pixels.keys() == {"vision_features"} and pixels.keys() - features.keys() == {"pixel_values"}
    assert all(torch.equal(pixels[key], features[key]) for key in pixels.keys() & features.keys())
    tolerance = 1e-6 if precision == "float32" else 1e-2
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        loss, gradients = learnt(run.model, pixels)
        with counted_views() as seen:
            kept_loss, kept_gradients = learnt(run.model, features)
    assert not seen
    torch.testing.assert_close(kept_loss, loss, rtol=tolerance, atol=tolerance)
    assert gradients.keys() == kept_gradients.keys() and gradients
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    for key, gradient in gradients.items():
        torch.testing.assert_close(kept_gradients[key], gradient, rtol=tolerance, atol=tolerance * largest, msg=key)


def test_the_tokens_of_another_image_would_be_noticed(rows: Path) -> None:
    """That the test above can fail: exchanged features of two rows move the loss."""
    run = prepared(mixed_recipe(rows))
    batch = run.features([run.samples[0], run.samples[3]])
    exchanged = {**batch, "vision_features": batch["vision_features"].flip(0)}
    assert abs(float(learnt(run.model, batch)[0] - learnt(run.model, exchanged)[0])) > 1e-5


def test_what_comes_out_of_an_encoder_with_drop_path_is_kept(rows: Path) -> None:
    """A frozen encoder is in evaluation mode, so its random depth and dropout are off, in the cache as in training."""
    run = prepared(mixed_recipe(rows, section(vision=DROP_PATH)))
    samples = [run.samples[index] for index in range(5)]
    losses = [float(learnt(run.model, collate(samples))[0]) for collate in (run.pixels, run.features, run.pixels)]
    assert losses[0] == losses[2]
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)
    run.model.vision.train()
    assert float(learnt(run.model, run.pixels(samples))[0]) != losses[0]  # the depth is random, where it is not off


# ---- whole runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rows of one image each."""
    monkeypatch.setenv("VLMZOO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "pictures").mkdir()
    return write_rows(tmp_path / "pictures")


def weights(output: Path) -> dict[str, bytes]:
    return {name: data for name, data in outcome(output).items() if name.endswith(".safetensors")}


def test_a_run_is_the_same_to_the_bit_and_encodes_once(pictures: Path, tmp_path: Path) -> None:
    straight = train(recipe(pictures), output=tmp_path / "straight")
    plan = recipe(pictures, cache_features=True)
    with counted_views() as seen:
        stopped(tmp_path / "kept", plan, "align", 3)
        kept = train(plan, output=tmp_path / "kept")  # it goes on
    assert kept.losses == straight.losses
    assert weights(tmp_path / "kept") == weights(tmp_path / "straight")
    assert sum(seen) == 7  # once each, over two stages of five steps
    with counted_views() as seen, pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageFile, "__call__", lambda self: pytest.fail("an image was decoded"))
        again = train(recipe(pictures, cache_features=True, workers=2), output=tmp_path / "again")
    assert not seen
    assert again.losses == straight.losses


SCRIPT = """
import json, sys
import torch
torch.set_num_threads(1)
from vlmzoo.training.train import train

plan, output = json.loads(open(sys.argv[1]).read()), sys.argv[2]
result = train(plan, output=output)
open(output + f"/losses.{torch.distributed.get_rank()}", "w").write(json.dumps(result.losses))
group = torch.distributed.group.WORLD._get_backend(torch.device("cpu"))
open(output + f"/patience.{torch.distributed.get_rank()}", "w").write(str(group.options._timeout.total_seconds()))
"""


@pytest.mark.slow
def test_two_processes_share_what_they_encode(pictures: Path, tmp_path: Path) -> None:
    plans = [recipe(pictures, cache_features=kept) for kept in (False, True)]
    for plan in plans:
        del plan["stages"][1:]
    straight = train(plans[0], output=tmp_path / "straight")
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "plan.json").write_text(json.dumps(plans[1]))
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    files = [str(tmp_path / name) for name in ("script.py", "plan.json", "two")]
    done = subprocess.run([*start, *files], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-5000:]
    losses = [json.loads((tmp_path / "two" / f"losses.{rank}").read_text()) for rank in (0, 1)]
    assert losses[0] == losses[1] == pytest.approx(straight.losses, rel=1e-5)
    for rank in (0, 1):
        assert float((tmp_path / "two" / f"patience.{rank}").read_text()) == PATIENCE.total_seconds() >= 3600
    counts = []
    for shard in shards():
        with safe_open(shard, framework="pt") as file:
            counts.append(len(file.keys()))
    assert sorted(counts) == [3, 4]


def test_only_what_is_drawn_is_encoded(pictures: Path, tmp_path: Path) -> None:
    with counted_views() as seen:
        train(recipe(pictures, cache_features=True, steps=1), output=tmp_path / "run")
    assert sum(seen) == 4  # one batch of four of the seven rows; the second stage draws the same


def test_rows_that_are_left_out_are_not_encoded(pictures: Path, tmp_path: Path) -> None:
    (pictures / "3.png").write_bytes((pictures / "3.png").read_bytes()[:200])
    plan = recipe(pictures, cache_features=True, on_bad_row="skip", max_bad_rows=2, epochs=2)
    for stage in plan["stages"]:
        del stage["steps"]
    with counted_views() as seen:
        train(plan, output=tmp_path / "run")
    assert sum(seen) == 6
    with pytest.raises(DataError, match=r"rows\.jsonl:4: image: .*3\.png` (is damaged|cannot be opened)"):
        train(recipe(pictures, cache_features=True), output=tmp_path / "strict")


def test_connectors_share_what_is_kept(rows: Path) -> None:
    """What a comparison of connectors needs: the encoder runs for the first of them alone."""
    tiles = {"layout": {"name": "layouts/dynamic-tiles", "max_tiles": 4}}
    prepared(mixed_recipe(rows, section() | tiles))
    shuffled = section(connector=[{"name": "connectors/pixel-shuffle"}, *MLP]) | tiles
    for other in (shuffled, section("cross_attention", connector=[BLOCKS]) | tiles):
        with counted_views() as seen:
            run = prepared(mixed_recipe(rows, other))
        assert not seen
        learnt(run.model, run.features([run.samples[1]]))
    assert len(list(features_folder().iterdir())) == 1
    assert len(shards()) == 1


def test_adapters_of_an_earlier_stage_belong_to_the_encoder(pictures: Path, tmp_path: Path) -> None:
    plan = recipe(pictures, section(vision=CLIP))
    plan["stages"][0]["train"]["vision"] = {"mode": "lora", "rank": 2, "lr": 1e-1}
    straight = train(plan, output=tmp_path / "straight")
    plan["stages"][1]["cache_features"] = True
    kept = train(plan, output=tmp_path / "kept")
    assert kept.losses == pytest.approx(straight.losses, abs=1e-6)
    assert len(shards()) == 1


# ---- refused ---------------------------------------------------------------------------------------------------------------


def test_a_stage_that_trains_the_encoder_keeps_nothing(pictures: Path, tmp_path: Path) -> None:
    plan = recipe(pictures, cache_features=True)
    plan["stages"][0]["train"]["vision"] = {"lr": 1e-3}
    with pytest.raises(ConfigError) as caught:
        train(plan, output=tmp_path / "run")
    (reason,) = caught.value.reasons
    assert "stages.0.cache_features" in reason
    assert "keeps what a frozen encoder makes of images, and `train.vision` changes it: leave one of them out" in reason
    assert not features_folder().exists()


def test_an_encoder_that_trains_all_the_same(rows: Path) -> None:
    plan = mixed_recipe(rows)
    model = built(plan)
    model.vision.requires_grad_(True)
    with pytest.raises(
        ConfigError, match="stage `s`: `cache_features` keeps what a frozen encoder makes of images, and this one"
    ):
        prepared(plan, model)


def refused(model: VLM, batch: dict[str, Any]) -> str:
    with pytest.raises(DataError) as caught:
        model(**batch)
    return str(caught.value)


@pytest.mark.parametrize("architecture", ["unified", "cross_attention"])
def test_features_that_are_not_the_encoders(architecture: str, rows: Path) -> None:
    run = prepared(mixed_recipe(rows, section(architecture)))
    samples = [run.samples[0], run.samples[1]]
    batch, pixels = run.features(samples), run.pixels(samples)
    found = batch["vision_features"]
    assert found.shape == (2, 2, 16, 24)
    said = "tokens of width {} per view, but the vision encoder makes 16 of width 24 of such views: these are not its features"
    assert "`vision_features` has 15 " + said.format(24) in refused(run.model, {**batch, "vision_features": found[:, :, :15]})
    assert "`vision_features` has 16 " + said.format(23) in refused(run.model, {**batch, "vision_features": found[..., :23]})
    assert "`pixel_values` and `vision_features` were given" in refused(run.model, batch | pixels)
    run.model.vision.requires_grad_(True)
    run.model.train()
    assert "but the vision encoder trains, and they cannot change with it: pass pixels" in refused(run.model, batch)
    run.model.eval()
    run.model(**batch)


@pytest.mark.parametrize("name", ["unified", "unified, newlines", "cross-attention", "hybrid"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_features_generate_what_pixels_do(name: str, use_cache: bool, rows: Path) -> None:
    run = prepared(mixed_recipe(rows, ALL[name]))
    model = run.model.eval()
    samples = [run.samples[index] for index in range(3)]
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "use_cache": use_cache}
    expected = model.generate(**run.pixels.prompts(samples), **options)
    assert torch.equal(model.generate(**run.features.prompts(samples), **options), expected)


def test_an_image_that_is_opened_by_a_plain_callable_is_known_by_its_pixels(rows: Path) -> None:
    from vlmzoo.feature_cache.content import content

    one, same, other = picture(1), picture(1), picture(2)
    assert content(lambda: one) == content(lambda: same) != content(lambda: other)
    assert content(ImageFile(rows / "0.png", None, "")) != content(ImageFile(rows / "1.png", None, ""))
    (rows / "copy.png").write_bytes((rows / "0.png").read_bytes())
    assert content(ImageFile(rows / "0.png", None, "")) == content(ImageFile(rows / "copy.png", rows, "row 2"))
