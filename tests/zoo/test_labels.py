"""What `labels` shows is what training learns: the same draws, the same ids, every supervised token and no other."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from small_models import picture, section

from vlmzoo.assemble import build
from vlmzoo.cli.labels import shown
from vlmzoo.config import load_recipe
from vlmzoo.data import Collator
from vlmzoo.data.encode import IGNORE
from vlmzoo.labels import LabelledRow, Labels, Piece, labels, labels_of_stages
from vlmzoo.training.samples import make_collator, stage_samples
from vlmzoo.training.train import train
from vlmzoo_registry import AssemblyError, ConfigError, DataError, ImageFile

CONTROL = {"name": "toy/language", "control_tokens": ["<|im_start|>", "<|im_end|>"]}
BERT = {
    "name": "transformers/masked-lm",
    "config": {
        "model_type": "bert",
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 262,
        "max_position_embeddings": 64,
    },
}
ROWS = [
    {
        "messages": [{"role": "user", "content": "<image>\nWhat is it?"}, {"role": "assistant", "content": "ein Käse 😀"}],
        "image": "0.png",
    },
    {
        "messages": [
            {"role": "user", "content": "<image><image> Same?"},
            {"role": "assistant", "content": "No."},
            {"role": "user", "content": "Sure?"},
            {"role": "assistant", "content": "Yes\nI am."},
        ],
        "images": ["0.png", "1.png"],
    },
    {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello!"}]},
]


def recipe(folder: Path, *, template: Any = "chatml_direct", rows: list[Any] = ROWS, **model: Any) -> dict[str, Any]:
    for number in range(2):
        picture(number).save(folder / f"{number}.png")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = [{"name": "chat", "path": str(folder / "rows.jsonl"), "images": str(folder)}]
    stage = {"objective": "instruct", "data": data, "train": {"connector": {"lr": 1e-3}}, "batch_size": 2, "steps": 1}
    return {
        "model": {**section(**{"language": CONTROL, **model}), "template": template},
        "stages": [{"name": "first", **stage}],
        "seed": 3,
    }


def by_source(found: Labels) -> dict[str, LabelledRow]:
    return {row.source.rpartition(":")[2]: row for row in found.rows}


@pytest.mark.parametrize("template", ["chatml_direct", "vicuna_v1", "tokenizer"])
def test_the_tokens_are_those_of_training(tmp_path, template):
    config = recipe(tmp_path, template=template)
    found = labels(config, samples=3)
    plan = load_recipe(config, (), None)
    model, data = build(plan.model), stage_samples(plan.stages[0])
    collate = make_collator(model, plan.stages[0])
    places = {data[index].source: index for index in range(len(data))}
    assert len({row.source for row in found.rows}) == 3
    for row, index in ((row, places[row.source]) for row in found.rows):
        encoded = collate.encode(data[index])
        assert row.tokens == len(encoded.input_ids) == sum(piece.tokens for piece in row.pieces)
        assert row.supervised == int((encoded.labels != IGNORE).sum())
        assert row.supervised == sum(piece.tokens for piece in row.pieces if piece.supervised)
        learnt = "".join(piece.text for piece in row.pieces if piece.supervised)
        assert learnt == model.processor.tokenizer.decode(encoded.input_ids[encoded.labels != IGNORE])
        images = [piece for piece in row.pieces if piece.kind == "image"]
        assert len(images) == row.images == len(data[index].images)
        assert {piece.tokens for piece in images} <= {model.image_shape.count}
    assert (found.samples, found.image_slots) == (3, model.image_shape.count)
    assert found.tokens == sum(row.tokens for row in found.rows)
    assert found.to_dict()["supervised"] == found.supervised == sum(row.supervised for row in found.rows)


def test_the_order_is_that_in_which_training_draws(tmp_path, monkeypatch):
    drawn: list[str] = []
    collated = Collator.__call__
    monkeypatch.setattr(
        Collator, "__call__", lambda self, samples: drawn.extend(each.source for each in samples) or collated(self, samples)
    )
    config = recipe(tmp_path, rows=[{**ROWS[0], "id": str(number)} for number in range(8)])
    config["stages"][0] |= {"batch_size": 4, "steps": 2}
    train(config, output=tmp_path / "run")
    assert [row.source for row in labels(config, samples=6).rows] == drawn[:6]
    assert len(set(drawn)) == 8 and drawn != sorted(drawn)
    sorting = copy.deepcopy(config)
    sorting["stages"][0]["batching"] = {"group_by": "length"}
    assert labels(sorting, samples=8) == labels(config, samples=8)  # before batching


@pytest.mark.parametrize("cuts", [False, True], ids=["whole", "tiles"])
def test_no_image_is_opened_unless_it_is_shown(tmp_path, monkeypatch, cuts):
    """Where a layout cuts by size, the head of a file says it."""
    config = recipe(tmp_path)
    if cuts:
        config["model"]["layout"] = {"name": "layouts/dynamic-tiles", "max_tiles": 4}
    opened = []
    original = ImageFile.__call__
    monkeypatch.setattr(ImageFile, "__call__", lambda self: opened.append(self.path.name) or original(self))
    found = labels_of_stages(config)
    assert opened == []
    assert any(piece.kind == "image" for row in found[0].rows for piece in row.pieces)
    shown = labels_of_stages(config, pictures=True)
    assert sorted(opened) == ["0.png", "0.png", "1.png"]  # each image of each row once
    assert all(len(row.pictures) == row.images for row in shown[0].rows)
    assert found[0].to_dict() == shown[0].to_dict()  # pictures are for the page


def test_pieces_of_a_conversation(tmp_path):
    row = by_source(labels(recipe(tmp_path)))["2"]
    pieces = [
        (piece.text, piece.kind, piece.supervised, piece.tokens)
        for piece in row.pieces
        if piece.kind != "text" or piece.supervised
    ]
    assert [piece for piece in pieces if piece[2]] == [
        ("No.", "text", True, 3),
        ("<|im_end|>", "control", True, 1),
        ("Yes\nI am.", "text", True, 9),
        ("<|im_end|>", "control", True, 1),
    ]
    assert [piece for piece in pieces if piece[1] == "image"] == [("<image>", "image", False, 16)] * 2


def test_no_weights_and_no_images_are_needed(tmp_path):
    config = recipe(tmp_path)
    for number in range(2):
        (tmp_path / f"{number}.png").unlink()
    assert len(labels(config).rows) == 3


def test_cross_attention_marks_an_image_with_one_token(tmp_path):
    row = by_source(labels(recipe(tmp_path, architecture="cross_attention")))["2"]
    assert [piece.tokens for piece in row.pieces if piece.kind == "image"] == [1, 1]


def test_piped_what_is_learnt_stands_in_brackets(tmp_path):
    found = labels(recipe(tmp_path))
    console = Console(width=300, no_color=True, color_system=None, force_terminal=False)
    with console.capture() as capture:
        for text in shown(found, coloured=False):
            console.print(text, soft_wrap=True)
    said = capture.get()
    assert "<|im_start|>user↵\n<image x 16><image x 16> Same?<|im_end|><|im_start|>assistant↵\n⟦No.<|im_end|>⟧" in said
    assert "⟦Yes↵\nI am.<|im_end|>⟧\n" in said
    assert f"rows.jsonl:3: {by_source(found)['3'].tokens} tokens, 7 supervised (" in said
    assert "\n  user 5, assistant 7, style 48\n" in said
    lines = [
        line.split() for line in said.splitlines() if line.split()[:1] and line.split()[0] in ("user", "assistant", "image")
    ]
    assert lines[-3][0] == "user" and lines[-3][2] == "0"
    assert lines[-2] == ["assistant", str(found.supervised), str(found.supervised)]
    assert lines[-1] == ["image", "48", "0"]
    assert said.rstrip().splitlines()[-1] == (
        f"3 of 3 samples: {found.tokens} tokens, {found.supervised} supervised ({found.supervised / found.tokens:.0%})"
    )
    assert said.startswith("stage first: objective tasks/instruct, template tasks/chatml_direct\n")


def test_in_colour_what_is_learnt_is_green_and_nothing_is_yellow_or_white(tmp_path):
    found = labels(recipe(tmp_path))
    spans = [
        (text.plain[span.start : span.end], str(span.style)) for text in shown(found, coloured=True) for span in text.spans
    ]
    learnt = [piece.text for row in found.rows for piece in row.pieces if piece.supervised]
    assert [words.replace("↵", "") for words, style in spans if style == "bold green underline"] == learnt
    assert {style for _, style in spans} == {"bold green underline", "bold", "magenta"}
    assert not any("⟦" in text.plain for text in shown(found, coloured=True))


def test_data_does_not_drive_the_terminal():
    row = LabelledRow("1", "rows:1", 1, 1, 0, (Piece("a\x1b[31mb\\n\r\u202e", "text", True, 1),))
    texts = shown(Labels("s", "o", "t", 1, 1, (row,)), coloured=False)
    assert texts[3].plain == "⟦a\\x1b[31mb\\n\\r\\u202e⟧"


WEIGHED = (
    Piece("It ", "text", False, 2),
    Piece("[MASK]", "text", True, 1, said="fell"),
    Piece("[MASK]", "text", True, 1, said=" down", weight=0.5),
    Piece("!", "text", True, 1),
    Piece("<end>", "control", True, 1, weight=2.0),
)


def test_hidden_words_and_weights_are_shown():
    found = Labels("s", "o", "t", 1, 1, (LabelledRow("1", "rows:1", 6, 4, 0, WEIGHED, weight=0.25),))
    texts = [text.plain for text in shown(found, coloured=False)]
    assert texts[2] == "rows:1: 6 tokens, 4 supervised (67%), 0 images, weight 0.25"
    assert texts[3] == "It ⟦[MASK] → fell⟧⟦[MASK] →  down (x 0.5)⟧⟦!⟧⟦<end> (x 2)⟧"
    (row,) = [text for text in shown(found, coloured=True) if "fell" in text.plain]
    assert [row.plain[span.start : span.end] for span in row.spans] == ["fell", " down (x 0.5)", "!", "<end> (x 2)"]


def test_every_stage_is_shown_or_one(tmp_path):
    config = recipe(tmp_path)
    config["stages"].append({**config["stages"][0], "name": "second", "template": "vicuna_v1", "loss_weights": [0.5]})
    first, second = labels_of_stages(config, samples=1)
    assert (first, second) == (labels(config, samples=1), labels(config, samples=1, stage="second"))
    assert (second.stage, second.template, second.rows[0].weight) == ("second", "tasks/vicuna_v1", 0.5)
    assert labels_of_stages(config, samples=1, stage="second") == (second,)


def test_rows_of_all_stages_that_cannot_be_used_are_named_at_once(tmp_path):
    forged = {"messages": [{"role": "user", "content": "x<|im_end|>"}, {"role": "assistant", "content": "y"}]}
    config = recipe(tmp_path, rows=[forged])
    config["stages"].append({**config["stages"][0], "name": "second"})
    with pytest.raises(DataError) as caught:
        labels_of_stages(config)
    assert caught.value.message == "2 of 2 stages have rows that cannot be used:"
    assert [reason for reason in caught.value.reasons if reason.startswith("stage")] == [
        "stage `first`: 1 of these rows cannot be used:",
        "stage `second`: 1 of these rows cannot be used:",
    ]


def test_what_is_hidden_is_what_training_hides(tmp_path):
    """The draws of an objective are keyed by the run's seed, which the labels shown must share."""
    (tmp_path / "text.txt").write_text("The rain came early in the year.\n\nIt filled the river.\n")
    config = recipe(tmp_path, template="plain", language=BERT)
    stage = config["stages"][0]
    stage |= {"objective": "masked", "data": [{"name": "paragraphs", "path": str(tmp_path / "text.txt")}]}
    stage["train"] = {"language": {"lr": 1e-3}}
    (found,) = labels_of_stages(config)
    plan = load_recipe(config, (), None)
    model, data = build(plan.model), stage_samples(plan.stages[0])
    collate, tokenizer = make_collator(model, plan.stages[0], seed=plan.seed), model.processor.tokenizer
    rows = [collate.encode(data[index]) for index in range(len(data))]
    said = {tokenizer.decode(row.input_ids): tokenizer.decode(row.labels[row.labels != IGNORE]) for row in rows}
    assert said == {
        "".join(piece.text for piece in row.pieces): "".join(
            piece.text if piece.said is None else piece.said for piece in row.pieces if piece.supervised
        )
        for row in found.rows
    }
    assert any(piece.said is not None for row in found.rows for piece in row.pieces)


def test_rows_that_cannot_be_learnt_are_all_named(tmp_path):
    forged = {"messages": [{"role": "user", "content": "x<|im_end|>"}, {"role": "assistant", "content": "y"}]}
    silent = {"messages": [{"role": "assistant", "content": "y"}]}
    with pytest.raises(DataError) as caught:
        labels(recipe(tmp_path, rows=[forged, *ROWS, silent]), samples=9)
    assert caught.value.message == "stage `first`: 2 of these rows cannot be used:"
    said = "\n".join(caught.value.reasons)
    assert "rows.jsonl:1: turn 0 (user) contains `<|im_end|>`" in said
    assert "rows.jsonl:5: this is no conversation to learn from:" in said


def test_unknown_stage_and_parts_that_do_not_fit(tmp_path):
    with pytest.raises(ConfigError, match=r"the recipe has no stage `firts` \(its stages are first\); did you mean `first`\?"):
        labels(recipe(tmp_path), stage="firts")
    with pytest.raises(AssemblyError, match="the tokenizer has no special token"):
        labels(recipe(tmp_path, language={"name": "toy/language"}))


def test_the_dataset_is_not_touched_by_the_global_generator(tmp_path):
    config = recipe(tmp_path)
    torch.manual_seed(0)
    first = labels(config)
    torch.manual_seed(1)
    assert labels(config) == first


def test_a_row_that_is_cut_says_so(tmp_path):
    config = recipe(tmp_path)
    whole = {row.source: row for row in labels(config).rows}
    most = max(row.tokens for row in whole.values()) - 3
    config["stages"][0] |= {"max_length": most, "too_long": "cut"}
    rows = labels(config).rows
    assert [row.cut for row in rows] == [whole[row.source].tokens > most for row in rows]
    (row,) = [row for row in rows if row.cut]
    assert sum(count.tokens for count in row.roles) == row.tokens == sum(piece.tokens for piece in row.pieces) <= most
    text = "".join(piece.text for piece in row.pieces)
    assert "".join(piece.text for piece in whole[row.source].pieces).startswith(text)
    assert any("cut because it was too long" in line.plain for line in shown(labels(config), coloured=False))
