"""`vlmzoo schema`: the JSON schema of recipes, so that an editor completes keys and marks typos while one writes."""

import json
from pathlib import Path
from typing import Annotated

import typer

from vlmzoo.cli.console import print_json
from vlmzoo.config import recipe_schema
from vlmzoo_registry.errors import ResourceError


def schema(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write it there, not to stdout.")
    ] = None,
) -> None:
    """The JSON schema of recipes, with the options of every installed part.

    For editors that speak YAML's language server: `# yaml-language-server: $schema=FILE` as the first line of a recipe.
    """
    if output is None:
        print_json(recipe_schema())
        return
    try:
        output.write_text(json.dumps(recipe_schema(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise ResourceError(f"{output}: the schema cannot be written: {error.strerror}") from error
