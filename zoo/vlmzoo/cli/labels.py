"""`vlmzoo labels`: which tokens are supervised, in colour, for real samples."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from vlmzoo.cli.console import console, print_json
from vlmzoo.visible import on_one_line, visible

if TYPE_CHECKING:
    from vlmzoo.data_check import CheckedSource
    from vlmzoo.labels import LabelledRow, Labels, RoleCount


def labels(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes of the recipe, such as `model.template=plain`.", show_default=False)
    ] = None,
    samples: Annotated[int, typer.Option("--samples", "-n", min=1, help="How many, in random order, before batching.")] = 3,
    stage: Annotated[str | None, typer.Option("--stage", "-s", help="Which stage; default: all.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write them as a page, with their images, to this file.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Look at every row of all stages instead, and list all faults.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print a JSON list of the stages.")] = False,
) -> None:
    """Which tokens are supervised, in colour, for real samples.

    What is learnt is green, bold and underlined, or in ⟦brackets⟧ where there is no colour; where it is not what the model
    reads there (behind a mask), both are shown: ⟦read → learnt⟧. An image is `<image x 16>`, with its number of tokens. Reads
    the tokenizer and the data, no weights, and images only for `--html` (else their size, where it says how they are cut).

    Samples come in the random order of the first epoch; `batching` that sorts or packs brings others together.

    With `--check` every row is read, its images are opened and its text is tokenized, and all that is wrong is listed, by file,
    line and field; the exit code is 3 where anything is.
    """
    from vlmzoo.cli.quiet import quiet_frameworks
    from vlmzoo.labels import labels_of_stages
    from vlmzoo.labels_page import write_page

    if check and html is not None:
        raise typer.BadParameter("`--html` shows samples and `--check` lists faults: give one of them", param_hint="--html")
    quiet_frameworks()
    if check:
        _check(recipe, stage, overrides or (), as_json=as_json)
        return
    found = labels_of_stages(recipe, samples=samples, stage=stage, overrides=overrides or (), pictures=html is not None)
    if html is not None:
        write_page(found, html)
    if as_json:
        print_json([each.to_dict() for each in found])
        return
    out = console()
    coloured = out.color_system is not None and not out.no_color
    for number, each in enumerate(found):
        for text in [*([Text()] if number else []), *shown(each, coloured=coloured)]:
            out.print(text, soft_wrap=True)
    if html is not None:
        out.print(Text(f"\nwritten with its images: {html}"), soft_wrap=True)


def _check(recipe: Path, stage: str | None, overrides: Sequence[str], *, as_json: bool) -> None:
    from rich.console import Console

    from vlmzoo.data_check import check_data

    found = check_data(recipe, stage=stage, overrides=overrides, console=Console(stderr=True))
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
        numbers = _numbers(source.samples, source.bad_rows, len(source.faults))
        texts.append(Text(f"stage {source.stage}, {source.name}: {numbers}", "bold"))
        texts += [Text(f"  {note}") for note in source.notes]
        texts += [Text(f"  {on_one_line(fault.place)}: {on_one_line(fault.reason)}") for fault in source.faults]
    samples, bad = (sum(values) for values in zip(*((each.samples, each.bad_rows) for each in found), strict=True))
    faults = sum(len(source.faults) for source in found)
    return [*texts, Text(), Text(_numbers(samples, bad, faults), "bold red" if faults else "bold")]


def _numbers(samples: int, bad_rows: int, faults: int) -> str:
    counts = {"sample": samples, "bad row": bad_rows, "fault": faults}
    return ", ".join(f"{number} {word}{'' if number == 1 else 's'}" for word, number in counts.items())


LEARNT = "bold green underline"
"""The style of what is learnt: seen on dark and light grounds, and also by who does not see the colour."""


def shown(found: "Labels", *, coloured: bool) -> list[Text]:
    """What is printed of a stage, text by text."""
    texts = [Text(f"stage {found.stage}: objective {found.objective}, template {found.template}", "bold")]
    for row in found.rows:
        texts += [Text(), *_heading(row), _row(row, coloured=coloured)]
    count, share = len(found.rows), found.supervised / found.tokens
    of = f"{count} of {found.samples} samples" if found.samples > 1 else "1 sample"
    total = f"{of}: {found.tokens} tokens, {found.supervised} supervised ({share:.0%})"
    return [*texts, Text(), *_roles(found.roles), Text(total, "bold")]


def _heading(row: "LabelledRow") -> list[Text]:
    share = row.supervised / row.tokens
    images = f"{row.images} image{'' if row.images == 1 else 's'}"
    weight = "" if row.weight == 1 else f", weight {row.weight:g}"
    cut = ", cut because it was too long" if row.cut else ""
    counts = f"{row.tokens} tokens, {row.supervised} supervised ({share:.0%}), {images}{weight}{cut}"
    whose = ", ".join(f"{count.role} {count.tokens}" for count in row.roles)
    return [Text.assemble((on_one_line(row.source), "bold"), f": {counts}"), *([Text(f"  {whose}")] if whose else [])]


def _roles(counts: "Sequence[RoleCount]") -> list[Text]:
    """A table of who says how much: every role in a line, numbers below each other."""
    lines = [(count.role, str(count.tokens), "?" if count.supervised is None else str(count.supervised)) for count in counts]
    wide = [max(len(line[column]) for line in [("", "tokens", "supervised"), *lines]) for column in range(3)]
    return [
        Text(f"{role:<{wide[0]}}  {tokens:>{wide[1]}}  {supervised:>{wide[2]}}")
        for role, tokens, supervised in [("", "tokens", "supervised"), *lines]
        if lines
    ]


def _row(row: "LabelledRow", *, coloured: bool) -> Text:
    text, opened = Text(), False
    for piece, after in zip(row.pieces, [*row.pieces[1:], None], strict=True):
        if not coloured and piece.supervised and not opened:
            text.append("⟦")
            opened = True
        if piece.said is not None:
            text.append(f"{visible(piece.text)} → ")
        words = piece.text if piece.said is None else piece.said
        words = f"<image x {piece.tokens}>" if piece.kind == "image" else visible(words)
        style = LEARNT if piece.supervised else "magenta" if piece.kind == "image" else ""
        text.append(words if piece.weight == 1 else f"{words} (x {piece.weight:g})", style)
        # What is hidden and learnt is one bracket with what hides it; what is learnt as it stands there is another.
        if opened and (
            after is None
            or not after.supervised
            or piece.said is not None
            or after.said is not None
            or after.weight != piece.weight
        ):
            text.append("⟧")
            opened = False
    return text
