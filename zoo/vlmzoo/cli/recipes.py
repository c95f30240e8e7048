"""`vlmzoo recipes`: the recipes that come with it in a table of one line each, or one of them as it is written."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from vlmzoo.cli.console import console, print_json
from vlmzoo.config.document import read_document
from vlmzoo.config.load import load_about
from vlmzoo.config.parts import spell_out_recipe
from vlmzoo.config.shipped import shipped_recipes
from vlmzoo_registry import ConfigError
from vlmzoo_registry.suggest import did_you_mean


def recipes(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="One recipe: print its file.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print a JSON list; of one recipe, an object.")] = False,
) -> None:
    """The recipes that come with vlmzoo, and of what each is made; of one, what it reproduces, and from where.

    A name stands for its file: `vlmzoo plan NAME`, `vlmzoo train NAME`. To change one, save it as a file of your own:
    `vlmzoo recipes NAME > mine.yaml`.
    """
    shipped = shipped_recipes()
    if name is not None and name not in shipped:
        raise ConfigError(f"there is no recipe `{name}`{did_you_mean(name, shipped)} (`vlmzoo recipes` lists them)")
    if name is None:
        rows = [_fields(each, file) for each, file in shipped.items()]
        print_json(rows) if as_json else _print(rows, shipped)
    elif as_json:
        print_json({**_fields(name, shipped[name]), "file": str(shipped[name])})
    else:
        print(shipped[name].read_text(encoding="utf-8"), end="")


def _fields(name: str, file: Path) -> dict[str, Any]:
    return {"name": name, **load_about(file).dump()}


def tokens_in_words(published: dict[str, Any] | None) -> str:
    """Tokens per image as one figure, or as the range that images of different sizes span; empty where none are published."""
    if published is None:
        return ""
    tokens = published["image_tokens"]
    counts = list(tokens.values()) if isinstance(tokens, dict) else [tokens]
    low, high = min(counts), max(counts)
    return f"{low} tokens per image" if low == high else f"{low} to {high} tokens per image"


def shown_parts(file: Path) -> tuple[str, str, str]:
    """The architecture of a recipe, its encoders, and its language model: the names of the models, not who publishes them."""
    root = read_document(file)
    spell_out_recipe(root)
    model: Any = root.nearest(("model",))[0].plain()
    vision = model["vision"] if isinstance(model["vision"], list) else [model["vision"]]
    encoders = " + ".join(_model(part) for part in vision)
    return model["architecture"], encoders, _model(model["language"])


def _model(part: dict[str, Any]) -> str:
    return str(part.get("model", part["name"])).rpartition("/")[2]


ARCHITECTURES = {
    "unified": "unified: image tokens stand in the text",
    "cross_attention": "cross_attention: blocks in the decoder attend to image tokens",
    "hybrid": "hybrid: the whole image stands in the text, its tiles are attended to",
}
"""The groups of the table, in order."""


def _print(rows: list[dict[str, Any]], files: dict[str, Path]) -> None:
    out = console()
    # What goes to a file or another program is not cut, unless it is said how wide that is.
    width = out.width if out.is_terminal or os.environ.get("COLUMNS") else None
    groups: dict[str, list[tuple[str, ...]]] = {architecture: [] for architecture in ARCHITECTURES}
    for row in rows:
        architecture, encoders, language = shown_parts(files[row["name"]])
        tokens = tokens_in_words(row["published"]).removesuffix(" tokens per image").replace(" to ", "-")
        groups[architecture].append((row["name"], tokens, encoders, language, row["title"]))
    lines = [line for group in groups.values() for line in group]
    head = ("recipe", "tokens", "vision encoder", "language model", "what")
    natural = [max(len(text) for text in column) for column in zip(head, *lines, strict=True)]
    widths = column_widths(natural, width)

    def printed(line: Sequence[str], style: str) -> None:
        texts = [cut(text, room) for text, room in zip(line, widths, strict=True)]
        texts[1] = texts[1].rjust(widths[1])
        cells = [text.ljust(room) for text, room in zip(texts, widths, strict=True) if room]
        out.print(Text(cells[0], style), Text("  ".join(["", *cells[1:]]).rstrip()), sep="", soft_wrap=True)

    printed(head, "")
    for architecture, group in groups.items():
        if group:
            out.print()
            out.print(Text(f"{ARCHITECTURES[architecture]} ({len(group)})", "bold underline"))
        for line in group:
            printed(line, "bold")
    out.print(
        f"\n{len(rows)} recipes; tokens are per image. `vlmzoo plan NAME` checks one, `vlmzoo recipes NAME` prints its file: "
        "where it is from, how it differs from that, and what nobody has verified."
    )


def column_widths(natural: Sequence[int], width: int | None) -> list[int]:
    """How wide the five columns of the table are, two spaces between them, where all of them have `width` (None: no limit).

    Names and tokens are never cut. The last is left out where no room is left for it: it tells least.
    """
    name, tokens, encoder, language, what = natural
    if width is None:
        return list(natural)
    room = width - name - tokens - 6  # for the encoder and the language model
    least = min(encoder, 20) + min(language, 21)
    shown = min(what, room - 2 - least)
    if shown < min(what, 10):
        shown = 0
    else:
        room -= shown + 2
    encoder = min(encoder, max(room // 2, room - language))
    return [name, tokens, encoder, min(language, room - encoder), shown]


def cut(text: str, room: int) -> str:
    """A text, or what there is room for of it."""
    return text if len(text) <= room else text[: max(room - 1, 0)] + "…" * (room > 0)
