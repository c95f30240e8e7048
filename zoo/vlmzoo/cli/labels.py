"""`vlmzoo labels`: which tokens are supervised, in colour, for real samples."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from vlmzoo.cli.console import console, print_json

if TYPE_CHECKING:
    from vlmzoo.data_check import CheckedSource
    from vlmzoo.labels import LabelledRow, Labels


def labels(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes of the recipe, such as `model.template=plain`.", show_default=False)
    ] = None,
    samples: Annotated[int, typer.Option("--samples", "-n", min=1, help="How many samples, in the order of training.")] = 3,
    stage: Annotated[str | None, typer.Option("--stage", "-s", help="Which stage; default: the first.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Look at every row of all stages instead, and list all faults.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print a JSON object.")] = False,
) -> None:
    """Which tokens are supervised, in colour, for real samples.

    What is learnt is green and bold, or in ⟦brackets⟧ where there is no colour; control tokens are dim; an image is
    `<image x 16>`, with its number of tokens. Reads the tokenizer and the data, no weights and no image.

    With `--check` every row is read, its images are opened and its text is tokenized, and all that is wrong is listed, by file,
    line and field; the exit code is 3 where anything is.
    """
    from vlmzoo.cli.quiet import quiet_frameworks
    from vlmzoo.labels import labels as look

    quiet_frameworks()
    if check:
        _check(recipe, stage, overrides or (), as_json=as_json)
        return
    found = look(recipe, samples=samples, stage=stage, overrides=overrides or ())
    if as_json:
        print_json(found.to_dict())
        return
    out = console()
    for text in shown(found, coloured=out.color_system is not None):
        out.print(text, soft_wrap=True)


def _check(recipe: Path, stage: str | None, overrides: Sequence[str], *, as_json: bool) -> None:
    from rich.console import Console

    from vlmzoo.data_check import check_data

    progress = Console(stderr=True)
    found = check_data(recipe, stage=stage, overrides=overrides, console=progress if progress.is_terminal else None)
    if as_json:
        print_json([source.to_dict() for source in found])
    else:
        out = console()
        for text in checked(found):
            out.print(text, soft_wrap=True)
    if any(source.faults for source in found):
        raise typer.Exit(3)


def checked(found: "Sequence[CheckedSource]") -> list[Text]:
    """What is printed of a check, line by line: the faults of each data set below its numbers, and the sums."""
    texts = []
    for source in found:
        numbers = f"{source.samples} samples, {source.bad_rows} bad rows, {len(source.faults)} faults"
        texts.append(Text(f"stage {source.stage}, {source.name}: {numbers}", "bold"))
        texts += [Text(f"  {note}", "dim") for note in source.notes]
        texts += [Text(f"  {_printable(fault.place)}: {_printable(fault.reason)}") for fault in source.faults]
    samples, bad = (sum(values) for values in zip(*((each.samples, each.bad_rows) for each in found), strict=True))
    faults = sum(len(source.faults) for source in found)
    return [*texts, Text(), Text(f"{samples} samples, {bad} bad rows, {faults} faults", "bold red" if faults else "bold")]


def shown(found: "Labels", *, coloured: bool) -> list[Text]:
    """What is printed, text by text."""
    texts = [Text(f"stage {found.stage}: objective {found.objective}, template {found.template}", "bold")]
    for row in found.rows:
        texts += [Text(), _heading(row), _row(row, coloured=coloured)]
    count, share = len(found.rows), found.supervised / found.tokens
    of = f"{count} of {found.samples} samples" if found.samples > 1 else "1 sample"
    total = f"{of}: {found.tokens} tokens, {found.supervised} supervised ({share:.0%})"
    return [*texts, Text(), Text(total, "bold")]


def _heading(row: "LabelledRow") -> Text:
    share = row.supervised / row.tokens
    images = f"{row.images} image{'' if row.images == 1 else 's'}"
    return Text(f"{row.source}: {row.tokens} tokens, {row.supervised} supervised ({share:.0%}), {images}", "dim")


def _row(row: "LabelledRow", *, coloured: bool) -> Text:
    text, bracket = Text(), False
    for piece in row.pieces:
        if not coloured and piece.supervised != bracket:
            text.append("⟦" if piece.supervised else "⟧")
            bracket = piece.supervised
        words = f"<image x {piece.tokens}>" if piece.kind == "image" else _visible(piece.text)
        style = {"text": "", "control": "dim", "image": "magenta"}[piece.kind]
        text.append(words, "bold green" if piece.supervised else style)
    if bracket:
        text.append("⟧")
    return text


def _printable(text: str) -> str:
    """A text in one line that cannot drive a terminal."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def _visible(text: str) -> str:
    """Line breaks with a mark before them; other control characters, which could drive a terminal, by their escapes."""
    return "".join(
        "↵\n" if character == "\n" else character if character.isprintable() else repr(character)[1:-1] for character in text
    )
