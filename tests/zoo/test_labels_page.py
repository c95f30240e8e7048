"""The page of labels: one file that needs no other and runs nothing, says what the terminal says, and shows what models see."""

import base64
import io
import json
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image
from small_models import picture, section

from vlmzoo.assemble import build
from vlmzoo.config import load_choice, load_recipe
from vlmzoo.data import ImageReader
from vlmzoo.label_pictures import picture as seen
from vlmzoo.label_pictures import what_the_model_sees
from vlmzoo.labels import LabelledRow, Labels, Piece, RoleCount, labels_of_stages
from vlmzoo.labels_page import write_page
from vlmzoo.model.merged_encoder import StackedTransform
from vlmzoo_registry import DataError, FeatureShape, ImageTransform, LayoutContext

CONTROL = {"name": "toy/language", "control_tokens": ["<|im_start|>", "<|im_end|>"]}
EVIL = "<script>alert(1)</script> & \"quoted\" 'x' <img src=x onerror=y> \u202e"
ALONE = {"br", "img", "meta"}


class Page(HTMLParser):
    """Every element with its attributes, and the text within: refuses what is not closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[tuple[str, ...], str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ALONE:
            self.open.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        self.texts.append((tuple(f"{tag}.{attrs.get('class') or ''}" for tag, attrs in self.open), data))

    def within(self, name: str) -> str:
        """All text within elements of this tag and class."""
        return "".join(text for path, text in self.texts if name in path)


@pytest.fixture
def recipe(tmp_path):
    picture(0).resize((48, 32)).save(tmp_path / "0.png")
    picture(1).save(tmp_path / "1.png")
    talks = [
        [("user", f"<image>\nWhat? {EVIL}"), ("assistant", f"A cat. {EVIL}")],
        [("system", "Be kind."), ("user", "<image><image> Same?"), ("assistant", "No.\nNever.")],
    ]
    rows = [
        {"messages": [{"role": role, "content": words} for role, words in talk], "images": [f"{n}.png" for n in range(count)]}
        for count, talk in enumerate(talks, start=1)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = [{"name": "chat", "path": str(tmp_path / "rows.jsonl"), "images": str(tmp_path)}]
    stage = {"objective": "instruct", "data": data, "train": {"connector": {"lr": 1e-3}}, "batch_size": 2, "steps": 1}
    stages = [{"name": "first", **stage}, {"name": "second", **stage, "template": "vicuna_v1", "loss_weights": [0.5]}]
    return {"model": {**section(language=CONTROL), "template": "chatml_direct"}, "stages": stages, "seed": 3}


@pytest.fixture
def found(recipe):
    return labels_of_stages(recipe, pictures=True)


@pytest.fixture
def text(found, tmp_path):
    write_page(found, tmp_path / "page.html")
    return (tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_page_is_whole_and_needs_no_other(text):
    page = Page(text)
    assert text.startswith("<!doctype html>")
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "link", "iframe", "object", "base", "form"})
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name not in ("src", "href") or (tag == "img" and str(value).startswith("data:image/png;base64,"))
        assert tag != "img" or attributes["alt"]
    assert "url(" not in text and "@import" not in text
    assert "prefers-color-scheme: dark" in text
    (policy,) = [attributes["content"] for tag, attributes in page.elements if attributes.get("http-equiv")]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_words_of_the_data_are_text(text):
    page = Page(text)
    shown = EVIL.replace("\u202e", "\\u202e")
    assert page.within("span.user").count(shown) == page.within("mark.").count(shown) == 2
    assert "<script" not in text and "onerror=y>" not in text.replace("onerror=y&gt;", "")


def test_it_says_what_the_labels_say(found, text):
    page = Page(text)
    for stage in found:
        assert f"Objective {stage.objective}, template {stage.template}. 2 of 2 samples." in page.within("p.dim")
        for row in stage.rows:
            counts = ", ".join(f"{count.role} {count.tokens}" for count in row.roles)
            weight = "" if row.weight == 1 else f", weight {row.weight:g}"
            images = f"{row.images} image{'s' if row.images > 1 else ''}"
            share = f"{row.supervised / row.tokens:.0%}"
            assert f"{row.tokens} tokens, {row.supervised} learnt ({share}), {images}{weight}:\n{counts}" in page.within(
                "p.dim"
            )
    learnt = [piece.text for stage in found for row in stage.rows for piece in row.pieces if piece.supervised]
    marked = page.within("mark.").removeprefix("Words like these are learnt")
    assert marked == "".join(learnt).replace("\n", "↵\n").replace("\u202e", "\\u202e")
    cells = [text for path, text in page.texts if any(each.startswith("td") for each in path)]
    assert cells[:6] == ["system", "8", "0", "user", str(found[0].roles[1].tokens), "0"]
    assert page.within("span.system").startswith("systemBe kind.")
    assert "<|im_start|>" in page.within("span.style")


def test_an_image_stands_where_its_tokens_do_and_shows_what_the_model_sees(recipe, found, text, tmp_path):
    plan = load_recipe(recipe, (), None)
    transform = build(plan.model).processor.images.transform
    views = {number: seen(transform(Image.open(tmp_path / f"{number}.png").convert("RGB")), transform) for number in range(2)}
    images = [attributes for tag, attributes in Page(text).elements if tag == "img"]
    rows = [row for stage in found for row in stage.rows]
    assert [attributes["alt"] for attributes in images] == [f"image {n + 1}" for row in rows for n in range(row.images)]
    for attributes, number in zip(images, [n for row in rows for n in range(row.images)], strict=True):
        shown = Image.open(io.BytesIO(base64.b64decode(attributes["src"].partition(",")[2])))
        assert shown.tobytes() == views[number].tobytes()
    assert text.count('"><span class="slots">&lt;image&gt; x 16</span>') == len(images)


def test_a_picture_is_the_image_behind_its_transform(recipe):
    """The normalisation is undone exactly: a picture of the encoder's own size comes back as it was."""
    transform = build(load_recipe(recipe, (), None).model).processor.images.transform
    image = picture(1).convert("RGB").resize((transform.width, transform.height))
    assert seen(transform(image), transform).tobytes() == image.tobytes()
    assert seen(torch.full((3, 2, 2), 99.0), transform).getpixel((0, 0)) == (255, 255, 255)


def test_each_of_several_encoders_shows_each_tile_as_it_sees_it():
    """Of other sizes and normalised otherwise: what the page shows of an encoder is made from its own transform alone."""
    large = ImageTransform(height=48, width=48, mean=(0.5, 0.4, 0.3), std=(0.3, 0.2, 0.5))
    small = ImageTransform(height=32, width=32, mean=(0.0, 0.1, 0.9), std=(1.0, 0.7, 0.1))
    both = StackedTransform(height=48, width=48, mean=large.mean, std=large.std, transforms=(small, large))
    context = LayoutContext((48, 48), lambda size: FeatureShape(width=8, count=9, grid=None), width=8)
    tiles = load_choice("layout", {"name": "dynamic-tiles", "max_tiles": 2})
    layout = tiles.component.load_factory()(tiles.config, context)
    image = picture(1, side=64).resize((100, 50)).convert("RGB")
    found = what_the_model_sees(lambda: image, ImageReader(both, layout, layout.text), "row 1")
    wide = image.resize((96, 48), Image.Resampling.BICUBIC)
    views = [wide.crop((0, 0, 48, 48)), wide.crop((48, 0, 96, 48)), image.resize((48, 48), Image.Resampling.BICUBIC)]
    expected = [view if side == 48 else view.resize((32, 32), Image.Resampling.BICUBIC) for view in views for side in (32, 48)]
    shown = [Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) for uri in found]
    assert [each.size for each in shown] == [(32, 32), (48, 48)] * 3
    assert [each.tobytes() for each in shown] == [each.tobytes() for each in expected]


def test_hidden_words_and_weights_stand_in_the_mark(tmp_path):
    pieces = (
        Piece("It ", "text", False, 1, "assistant"),
        Piece("[MASK]", "text", True, 1, "assistant", said="fell"),
        Piece("[MASK]", "text", True, 1, None, said="!", weight=0.5),
    )
    row = LabelledRow("1", "rows:1", 3, 2, 0, pieces, (RoleCount("assistant", 3, None),))
    write_page([Labels("s", "o", "t", 1, 1, (row,))], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert '<mark><span class="read">[MASK] → </span>fell</mark>' in text
    assert '<mark><span class="read">[MASK] → </span>!<span class="weight"> x 0.5</span></mark>' in text
    assert "<td>assistant</td><td>3</td><td>?</td>" in text
    assert "Words that are hidden from the model" in text
    Page(text)


def test_without_hidden_words_none_are_explained(text):
    assert "hidden from the model" not in text


def test_a_page_that_cannot_be_written_says_so_and_the_old_one_stays(found, tmp_path):
    with pytest.raises(DataError, match=r"no/page.html` cannot be written \(.*\): name a file in a folder that exists"):
        write_page(found, tmp_path / "no" / "page.html")
