"""The recipes of the tutorials: planned offline in full size, and run whole in a small one on data in the published layouts.

Those of published models are in `test_published_recipes.py`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate.utils import set_seed
from PIL import Image

import vlmzoo
from vlmzoo.config.shipped import FOLDER
from vlmzoo.labels import labels
from vlmzoo.training.history import read_log
from vlmzoo_registry import ConfigError, DataError
from vlmzoo_registry.images import open_image

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "grey": (128, 128, 128)}
SHAPES = ("square", "circle", "stripe")


def draw(colour: str, shape: str) -> Image.Image:
    """A shape of a colour on white, 48 x 36 pixels: small, and a JPEG keeps it."""
    pixels = np.full((36, 48, 3), 255, dtype=np.uint8)
    rows, columns = np.mgrid[:36, :48]
    inside = {
        "square": (abs(rows - 18) < 12) & (abs(columns - 24) < 12),
        "circle": (rows - 18) ** 2 + (columns - 24) ** 2 < 196,
        "stripe": abs(rows - 18) < 5,
    }[shape]
    pixels[inside] = COLOURS[colour]
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a reader has it: a dozen pictures in COCO's layout, and the same in Flickr30k's."""
    folder = tmp_path_factory.mktemp("data")
    coco, flickr = folder / "coco" / "train2017", folder / "flickr30k" / "flickr30k-images"
    (folder / "coco" / "annotations").mkdir(parents=True)
    coco.mkdir()
    flickr.mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    lines = []
    for number, (colour, shape) in enumerate((colour, shape) for colour in COLOURS for shape in SHAPES):
        identifier = 391895 + 7 * number
        picture, said = draw(colour, shape), [f"A {colour} {shape}.", f"There is a {colour} {shape}."]
        picture.save(coco / f"{identifier:012d}.jpg", quality=95)
        picture.save(flickr / f"{identifier}.jpg", quality=95)
        images.append(
            {
                "license": 3,
                "file_name": f"{identifier:012d}.jpg",
                "coco_url": f"http://images.cocodataset.org/train2017/{identifier:012d}.jpg",
                "height": 36,
                "width": 48,
                "date_captured": "2013-11-14 11:18:45",
                "flickr_url": "",
                "id": identifier,
            }
        )
        for place, caption in enumerate(said):
            annotations.append({"image_id": identifier, "id": 2 * number + place, "caption": caption})
            lines.append(f"{identifier}.jpg#{place}\t{caption.replace('.', ' .')}\n")
    content = {
        "info": {"description": "COCO 2017 Dataset", "year": 2017},
        "licenses": [],
        "images": images,
        "annotations": annotations,
    }
    (folder / "coco" / "annotations" / "captions_train2017.json").write_text(json.dumps(content))
    (folder / "flickr30k" / "results_20130124.token").write_text("".join(lines))
    return folder


# What makes the recipe small: parts of the same families at random, bytes as tokens, fewer and faster steps.
SMALL = (
    "model.vision={name: transformers/vision, final_norm: true, config: {model_type: vit, hidden_size: 32, "
    "intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 2, image_size: 32, patch_size: 8}}",
    "model.language={name: transformers/causal-lm, config: {model_type: gpt2, n_embd: 48, n_layer: 3, n_head: 4, "
    "n_positions: 256, vocab_size: 300, bos_token_id: 1, eos_token_id: 2, attn_pdrop: 0, embd_pdrop: 0, resid_pdrop: 0, "
    # A frozen head can only point where its rows point: about as far as those of the pretrained one, not a seventh of it.
    "initializer_range: 0.2}}",
    "stages.0.precision=float32",
    "stages.0.batch_size=8",
    "stages.0.epochs=null",
    "stages.0.steps=60",
    "stages.0.train.language.lr=3e-3",
    "stages.0.train.connector.lr=3e-3",
)


def command(folder: Path, *arguments: str) -> str:
    """What the command line prints, called in this folder; a failure fails the test with what it said."""
    done = subprocess.run(
        [sys.executable, "-c", "from vlmzoo.cli import main; main()", *arguments],
        cwd=folder,
        env={**os.environ, "COLUMNS": "160"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_captioner_trains_its_connector_and_two_blocks_and_captions_an_image(data, tmp_path):
    run = tmp_path / "run"
    said = command(data, "train", "vit-gpt2-coco", *SMALL, "--output", str(run))
    assert "last 2 of 3 blocks" in said
    steps = read_log(run / "pretrain").steps
    assert steps[-1]["loss"] < 0.25 * steps[0]["loss"]
    checkpoint = run / "pretrain" / "checkpoint"
    image = data / "coco" / "train2017" / "000000391895.jpg"
    caption = command(data, "generate", str(checkpoint), "--image", str(image)).strip()
    assert caption
    model = vlmzoo.load(checkpoint)
    batch = model.processor(text="", images=[[open_image(image, where="test")]])
    ids = model.generate(**batch, max_new_tokens=32, do_sample=False)
    assert model.processor.decode(ids, prompt_length=batch["input_ids"].shape[1]) == [caption]
    # What the recipe freezes has not moved: the first of three blocks is as it was built, the last two are not.
    set_seed(0)
    fresh = vlmzoo.build("vit-gpt2-coco", overrides=SMALL)
    moved = {
        name.split(".")[3]
        for (name, new), old in zip(model.language.named_parameters(), fresh.language.parameters(), strict=True)
        if ".h." in name and not new.equal(old)
    }
    assert moved == {"1", "2"}


@pytest.mark.slow
def test_the_assistant_learns_answers_alone_and_answers_about_an_image(data, tmp_path, monkeypatch):
    run = tmp_path / "run"
    monkeypatch.chdir(data)
    found = labels("vit-distilgpt2-flickr30k", samples=24, overrides=SMALL)
    assert found.samples == len(found.rows) == 24
    for row in found.rows:
        before, after = "".join(piece.text for piece in row.pieces).split(" ASSISTANT:")
        assert before.startswith("USER: <image>")
        assert before.endswith((".", "?"))
        # The answer with its end, and nothing before it.
        assert "".join(piece.text for piece in row.pieces if piece.supervised) == after
        assert after.endswith(" .<eos>")
    assert len({row.pieces[2].text for row in found.rows}) == 5  # every request of the recipe is drawn
    vlmzoo.train("vit-distilgpt2-flickr30k", output=run, overrides=SMALL)
    steps = read_log(run / "instruct").steps
    assert steps[-1]["loss"] < 0.25 * steps[0]["loss"]
    image = data / "flickr30k" / "flickr30k-images" / "391895.jpg"
    answer = command(
        data, "generate", str(run / "instruct" / "checkpoint"), "--image", str(image), "--prompt", "Describe this image."
    )
    # It has learnt the form of the answers, and to stop: no byte model of 60 steps would by chance.
    assert answer.strip().endswith(".")
    assert len(answer.strip()) < 32


# ---- full size -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without data, on a machine that has downloaded nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    return tmp_path


# Parameters as published: ViT-B/16 with its pooler, GPT-2, DistilGPT2 (whose head is tied to its embedding).
FULL = {
    "vit-gpt2-coco": (86_389_248, 124_439_808),
    "vit-distilgpt2-flickr30k": (86_389_248, 81_912_576),
}


@pytest.mark.parametrize("name", list(FULL))
def test_full_size_recipes_are_planned_offline(nowhere, name):
    found = vlmzoo.plan(name)
    sizes = {part.part: part.parameters for part in found.parts}
    assert (sizes["vision"], sizes["language"]) == FULL[name]
    assert (found.image_tokens, found.text_slots) == (196, 196)
    notes = [note for note in found.notes if "is described from the figures that come with vlmzoo" in note]
    assert len(notes) == 2
    assert notes[0].startswith("`google/vit-base-patch16-224-in21k` is not on this machine")


def test_paths_of_a_shipped_recipe_start_where_one_stands(nowhere):
    recipe = vlmzoo.config.load_recipe("vit-gpt2-coco")
    assert recipe.stages[0].data[0].config.path == nowhere / "coco" / "annotations" / "captions_train2017.json"
    beside = vlmzoo.config.load_recipe(FOLDER / "vit-gpt2-coco.yaml")
    assert beside.stages[0].data[0].config.path == FOLDER / "coco" / "annotations" / "captions_train2017.json"


def test_a_file_of_that_name_comes_before_a_shipped_recipe(nowhere):
    (nowhere / "vit-gpt2-coco").write_text("nothing: 1\n")
    with pytest.raises(ConfigError, match="vit-gpt2-coco:1:1"):
        vlmzoo.config.load_recipe("vit-gpt2-coco")
    with pytest.raises(ConfigError, match=r"vit-gpt-coco: no such file; did you mean `vit-gpt2-coco`\?"):
        vlmzoo.config.load_recipe("vit-gpt-coco")


def test_missing_data_is_named_before_anything_is_downloaded(nowhere, monkeypatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was asked for before the data was looked at")

    monkeypatch.setattr("vlmzoo.training.train.build", refuse)
    with pytest.raises(DataError, match=r"coco/annotations/captions_train2017.json` cannot be read"):
        vlmzoo.train("vit-gpt2-coco", output=nowhere / "run")
