"""From files to a batch, over data sets, templates, objectives and tokenizers: what is learnt is what was written, and no more.

What is expected comes from what was written into the files; the code under test is not asked for it.
"""

import json
from collections.abc import Callable
from copy import copy
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizer_kinds import made
from torch import Tensor

from vlmzoo.config import load_choice
from vlmzoo.data import Collator, ImageReader, ImageToken
from vlmzoo.data.encode import IGNORE, encode_with_least
from vlmzoo.data.truncation import LengthRule
from vlmzoo_registry import DataError, Dataset, FeatureShape, LayoutContext, NoOptions, default_catalogue
from vlmzoo_registry.infilling import END, START
from vlmzoo_registry.tasks import IMAGE, Objective, Rendered, Span, Template
from vlmzoo_registry.vision import ImageTransform
from vlmzoo_registry.whole import Whole
from vlmzoo_tasks.plugin import CHAT_STYLES

SLOTS, MASK = 3, "[MASK]"
COLOURS = {"0.png": "red", "1.png": "green", "2.png": "blue"}
TRANSFORM = ImageTransform(height=4, width=4, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))

Exchange = tuple[list[str], str, str]
"""The images of a question, its words, the answer."""

TALKS = tuple(spec.name for spec in CHAT_STYLES)
ONE_EXCHANGE = ("plain", "v0_plain", "pair")
ANSWERS_ALONE = ("caption", "instruct", "prefix_lm")
ALL_TEXT = ("text", "masked", "blank_infilling")


def write_llava(folder: Path, rows: list[list[Exchange]]) -> dict[str, Any]:
    written = []
    for number, row in enumerate(rows):
        says = [("human", IMAGE * len(images) + asked, "gpt", answer) for images, asked, answer in row]
        turns = [{"from": who, "value": text} for a, b, c, d in says for who, text in ((a, b), (c, d))]
        shown = [image for images, _, _ in row for image in images]
        written.append({"id": str(number), "conversations": turns, **({"image": shown} if shown else {})})
    (folder / "llava.json").write_text(json.dumps(written))
    return {"name": "llava", "path": str(folder / "llava.json"), "images": str(folder)}


def write_chat(folder: Path, rows: list[list[Exchange]]) -> dict[str, Any]:
    lines = []
    for number, row in enumerate(rows):
        messages = []
        for images, asked, answer in row:
            content = [{"type": "image"} for _ in images] + [{"type": "text", "text": asked}]
            messages += [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
        shown = [image for images, _, _ in row for image in images]
        lines.append(json.dumps({"id": str(number), "messages": messages, "images": shown}))
    (folder / "chat.jsonl").write_text("\n".join(lines))
    return {"name": "chat", "path": str(folder / "chat.jsonl"), "images": str(folder)}


def write_captions(folder: Path, rows: list[list[Exchange]]) -> dict[str, Any]:
    lines = [json.dumps({"image": row[0][0][0], "caption": row[0][2]}) for row in rows]
    (folder / "captions.jsonl").write_text("\n".join(lines))
    return {"name": "captions", "path": str(folder / "captions.jsonl"), "images": str(folder)}


def write_coco(folder: Path, rows: list[list[Exchange]]) -> dict[str, Any]:
    images = [{"id": number, "file_name": name} for number, name in enumerate(COLOURS)]
    said = [
        {"id": number, "image_id": list(COLOURS).index(row[0][0][0]), "caption": row[0][2]} for number, row in enumerate(rows)
    ]
    (folder / "coco.json").write_text(json.dumps({"images": images, "annotations": said}))
    return {"name": "coco_captions", "path": str(folder / "coco.json"), "images": str(folder), "prompts": ["Describe it."]}


def write_vqa(folder: Path, rows: list[list[Exchange]]) -> dict[str, Any]:
    questions, answers = [], []
    for number, row in enumerate(rows):
        images, asked, answer = row[0]
        questions.append({"question_id": number, "image_id": list(COLOURS).index(images[0]), "question": asked})
        answers.append({"question_id": number, "multiple_choice_answer": answer})
    (folder / "questions.json").write_text(json.dumps({"questions": questions}))
    (folder / "annotations.json").write_text(json.dumps({"annotations": answers}))
    files = {"questions": str(folder / "questions.json"), "annotations": str(folder / "annotations.json")}
    return {"name": "vqa", **files, "images": str(folder), "file": "{image_id}.png"}


SOURCES: dict[str, Callable[[Path, list[list[Exchange]]], dict[str, Any]]] = {
    "llava": write_llava,
    "chat": write_chat,
    "captions": write_captions,
    "coco": write_coco,
    "vqa": write_vqa,
}
OF_TALKS = ("llava", "chat")

PIECES = ["a", "red", " car", "  ", "house 😀", "\n", "👩‍🚀", "123", "?", "…", " über", "日本", "'s", "\t", ".", ":)"]
WORDS = st.lists(st.sampled_from(PIECES), min_size=1, max_size=6).map(lambda pieces: "".join(pieces).strip()).filter(bool)


@st.composite
def cases(draw) -> tuple[str, str, str, str, list[list[Exchange]]]:
    """A source, a template, an objective and a tokenizer that go together, and rows for them."""
    template = draw(st.sampled_from((*TALKS, *ONE_EXCHANGE)))
    objective = draw(st.sampled_from((*ANSWERS_ALONE, *ALL_TEXT)))
    source = draw(st.sampled_from(list(SOURCES)))
    kind = draw(st.sampled_from(["bytes", "byte-level BPE", "byte-level BPE, trimmed offsets, BOS"]))
    one = template in ONE_EXCHANGE or objective == "prefix_lm" or source not in OF_TALKS
    images = st.integers(0, 2) if source in OF_TALKS else st.just(1)
    exchange = st.tuples(
        images.flatmap(lambda n: st.lists(st.sampled_from(list(COLOURS)), min_size=n, max_size=n)), WORDS, WORDS
    )
    rows = draw(st.lists(st.lists(exchange, min_size=1, max_size=1 if one else 4), min_size=1, max_size=3))
    if template == "v0_plain":  # its captions are lines
        rows = [[(images, asked, " ".join(answer.split())) for images, asked, answer in row] for row in rows]
    return source, template, objective, kind, rows


@cache
def collator(template: str, objective: str, kind: str) -> Collator:
    control = {token for name in TALKS for token in _unbound(name).control_tokens} | {START, END, MASK}
    tokenizer = made(kind, tuple(sorted(control)))
    tokenizer.mask_token = MASK
    layout = Whole(NoOptions(), LayoutContext((4, 4), lambda size: FeatureShape(width=8, count=SLOTS, grid=None), width=8))
    return Collator(
        objective=load_choice("objective", {"name": objective}).make(Objective).bind(tokenizer),
        template=_unbound(template).bind(tokenizer),
        tokenizer=tokenizer,
        image_token=ImageToken(IMAGE, tokenizer.convert_tokens_to_ids(IMAGE), SLOTS),
        images=ImageReader(TRANSFORM, layout, layout.text),
        max_length=100_000,
    )


@cache
def _unbound(name: str) -> Template:
    return load_choice("template", {"name": name, **({} if name in ONE_EXCHANGE else {"system": None})}).make(Template)


def read(source: str, folder: Path, rows: list[list[Exchange]], collate: Collator) -> list[dict[str, Tensor]]:
    """The batch of all rows, cut into its rows without their padding."""
    choice = load_choice("dataset", SOURCES[source](folder, rows))
    dataset = choice.make(Dataset)
    assert len(dataset) == len(rows)
    batch = collate([dataset[index] for index in range(len(dataset))])
    shown = [[image for images, _, _ in row for image in images] for row in rows]
    if any(shown):
        for row, names in enumerate(shown):
            assert int(batch["image_mask"][row].sum()) == len(names)
            for place, name in enumerate(names):
                expected = TRANSFORM(Image.new("RGB", (5, 5), COLOURS[name]))
                assert torch.equal(batch["pixel_values"][row, place], expected)
    per_token = {name: values for name, values in batch.items() if name not in ("pixel_values", "image_mask", "cut_rows")}
    lengths = batch["attention_mask"].sum(dim=1).tolist()
    made = [{name: values[row, :length] for name, values in per_token.items()} for row, length in enumerate(lengths)]
    if "cut_rows" in batch:
        made = [row | ({"cut_rows": cut} if cut else {}) for row, cut in zip(made, batch["cut_rows"], strict=True)]
    for row, names in zip(made, shown, strict=True):
        assert int((row["input_ids"] == collate.image_token.id).sum()) == SLOTS * len(names)
    return made


def runs(row: dict[str, Tensor], collate: Collator) -> list[str]:
    """What is learnt, in stretches of tokens that stand beside each other."""
    learnt = row["labels"] != IGNORE
    assert torch.equal(row["labels"][learnt], row["input_ids"][learnt])
    tokens = zip(row["input_ids"].tolist(), learnt.tolist(), strict=True)
    stretches = [[token for token, _ in group] for yes, group in groupby(tokens, key=lambda each: each[1]) if yes]
    return [str(collate.tokenizer.decode(stretch, clean_up_tokenization_spaces=False)) for stretch in stretches]


def around(source: str, folder: Path, collate: Collator) -> tuple[str, str]:
    """What is learnt before and behind the words of an answer: a space at most, and what ends it."""
    (row,) = read(source, folder, [[(["0.png"], "why", "Xq")]], collate)
    (said,) = runs(row, collate)
    before, behind = said.split("Xq")
    assert not before.strip()
    return before, behind


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("data")
    for name, colour in COLOURS.items():
        Image.new("RGB", (5, 5), colour).save(made / name)
    return made


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(case=cases())
def test_what_is_learnt_is_what_was_written(case, folder):
    source, template, objective, kind, rows = case
    collate = collator(template, objective, kind)
    read_rows = read(source, folder, rows, collate)
    if objective in ANSWERS_ALONE:
        before, behind = around(source, folder, collate)
        for row, written in zip(read_rows, rows, strict=True):
            assert runs(row, collate) == [before + answer + behind for _, _, answer in written]
        return
    whole = read(source, folder, rows, collator(template, "text", kind))
    for row, text, written in zip(read_rows, whole, rows, strict=True):
        image = text["input_ids"] == collate.image_token.id
        expected = text["input_ids"].masked_fill(image, IGNORE)
        expected[0] = IGNORE
        assert torch.equal(text["labels"], expected)
        said = str(collate.tokenizer.decode(text["input_ids"][~image], clean_up_tokenization_spaces=False))
        place = 0
        for _, _, answer in written:
            assert answer in said[place:]
            place = said.index(answer, place) + len(answer)
        if objective == "masked":
            assert torch.equal(torch.where(row["targets"] == IGNORE, row["input_ids"], row["targets"]), text["input_ids"])
        if objective == "blank_infilling":
            assert filled_in(row, collate) == text["input_ids"].tolist()


def filled_in(row: dict[str, Tensor], collate: Collator) -> list[int]:
    """Part A of a row with the spans of part B where their mask tokens stand; each is said as it is read, and its end."""
    start, end = (collate.tokenizer.convert_tokens_to_ids(token) for token in (START, END))
    ids, targets, places = (row[name].tolist() for name in ("input_ids", "targets", "position_ids"))
    kept = int(row["prefix_mask"].sum())
    assert targets[:kept] == [IGNORE] * kept
    spans: dict[int, list[int]] = {}
    for position in range(kept, len(ids)):
        span = spans.setdefault(places[position], [])
        if ids[position] == start:
            assert not span
        else:
            assert targets[position - 1] == ids[position]
            span.append(ids[position])
        if position + 1 == len(ids) or ids[position + 1] == start:
            assert targets[position] == end
    return [token for place, each in enumerate(ids[:kept]) for token in spans.get(place, [each])]


@settings(max_examples=30, suppress_health_check=list(HealthCheck))
@given(case=cases(), most=st.integers(10, 200))
def test_what_is_cut_learns_the_beginning_of_what_was_written(case, most, folder):
    source, template, objective, kind, rows = case
    collate = copy(collator(template, objective, kind))
    whole = read(source, folder, rows, collate)
    collate.length = LengthRule(most, cuts=True)
    for row, written in zip(whole, rows, strict=True):
        shown = SLOTS * sum(len(images) for images, _, _ in written)
        try:
            (cut,) = read(source, folder, [written], collate)
        except DataError as error:
            assert f"are more than `max_length` (={most}), and its images" in str(error)  # noqa: PT017
            assert most < len(row["input_ids"])
            continue
        assert len(cut["input_ids"]) <= most
        assert int((cut["input_ids"] == collate.image_token.id).sum()) == shown
        assert ("cut_rows" in cut) == (len(row["input_ids"]) > most)
        learnt, every = ([label for label in labels_of(each) if label != IGNORE] for each in (cut, row))
        assert learnt
        if objective in ANSWERS_ALONE:  # others change the text of a row as its length is
            assert learnt == every[: len(learnt)]
            assert ("cut_rows" in cut) == (learnt != every)


def labels_of(row: dict[str, Tensor]) -> list[int]:
    found: list[int] = row["labels" if "labels" in row else "targets"].tolist()
    return found


def test_every_source_and_template_takes_part():
    """Those that are left out here are named, so that a new one is not forgotten."""
    names = {
        kind: {c.spec.name for c in default_catalogue().components() if c.spec.kind == kind and c.plugin == "tasks"}
        for kind in ("dataset", "template", "objective")
    }
    assert names["objective"] == {*ANSWERS_ALONE, *ALL_TEXT}
    assert names["template"] == {*TALKS, *ONE_EXCHANGE, "tokenizer"}  # the tokenizer's own: test_own_chat.py
    others = {"arrow", "flickr30k", "folder", "sheet", "paragraphs", "sentence_pairs"}  # tests/plugins/tasks
    assert names["dataset"] == {"llava", "chat", "captions", "coco_captions", "vqa", *others}


def test_a_planted_fault_is_seen(folder):
    rows = [[(["1.png"], "what", "a bird"), ([], "and", "it sings")]]
    collate = collator("vicuna_v1", "instruct", "byte-level BPE")
    (row,) = read("llava", folder, rows, collate)
    before, behind = around("llava", folder, collate)
    said = [before + answer + behind for _, _, answer in rows[0]]
    assert runs(row, collate) == said
    first = int((row["labels"] != IGNORE).nonzero()[0])
    for place, label in ((first, IGNORE), (first - 1, int(row["input_ids"][first - 1]))):
        moved = {**row, "labels": row["labels"].clone()}
        moved["labels"][place] = label
        assert runs(moved, collate) != said


@pytest.mark.parametrize("kind", ["byte-level BPE", "byte-level BPE, trimmed offsets, BOS"])
def test_a_lone_space_beside_an_image_is_its_own_or_the_texts(kind):
    """The offsets of a token of spaces may be trimmed to nothing: it is the image's where its layout writes it, else learnt."""
    tokenizer = made(kind, (IMAGE,))
    image = ImageToken(IMAGE, tokenizer.convert_tokens_to_ids(IMAGE), 1)
    text = f"a {IMAGE}x"
    rendered = Rendered(text, (2,), (Span(0, len(text)),), end=False)
    encoded = encode_with_least(rendered, tokenizer, image, source="row 1", images=[(2, "\n", 1, "\n")])
    ids, labels = encoded.row.input_ids.tolist(), encoded.row.labels.tolist()
    tokens = tokenizer.convert_ids_to_tokens(ids)
    begin = len(ids) - 8
    assert tokens[begin:] == ["a", "Ġ", IMAGE, IMAGE, "Ċ", IMAGE, "Ċ", "x"]
    learnt = [token for token, label in zip(tokens, labels, strict=True) if label != IGNORE]
    assert learnt == (["a"] if begin else []) + ["Ġ", "x"]
    assert encoded.least == len(ids) - (1 if begin else 0)  # without a begin token, "x" is the first word that is learnt
