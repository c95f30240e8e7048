"""The pages that are made from the program itself when the site is built, so that they cannot say anything else than it does.

A hook of mkdocs: the command line from `--help`, recipes from the config classes, parts from the catalogue.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel
from typer.testing import CliRunner

from vlmzoo.cli.commands import COMMANDS
from vlmzoo.cli.entry import app
from vlmzoo.cli.recipes import tokens_in_words
from vlmzoo.cli.show import explain, type_in_words
from vlmzoo.config.grid import GridConfig
from vlmzoo.config.load import load_about
from vlmzoo.config.parts import MODEL_PARTS, STAGE_PARTS
from vlmzoo.config.recipe import Recipe
from vlmzoo.config.shipped import shipped_recipes
from vlmzoo_registry import Catalogue

Schema = dict[str, Any]

COLUMNS = "96"
"""How wide help texts are set; the test asks the program for the same width."""

LANGUAGE_MODELS = Path(__file__).parents[1] / "benchmarks" / "results" / "language_models.json"
"""What the survey of language models found."""

FIRST_PARTY = "vlmzoo"
"""The distribution whose parts the page of parts shows: what else is installed where the site is built is nobody's business."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages; mkdocs calls this."""
    for path, content in {
        "reference/command-line.md": command_line(),
        "reference/recipe.md": recipes(),
        "reference/shipped.md": shipped(),
        "reference/grid.md": grids(),
        "reference/parts.md": parts(),
        "reference/language-models.md": language_models(),
    }.items():
        files.append(File.generated(config, path, content=content))
    return files


def help_text(*command: str) -> str:
    """What `vlmzoo COMMAND --help` prints."""
    environment = {"COLUMNS": COLUMNS, "NO_COLOR": "1", "TERM": "dumb"}
    result = CliRunner().invoke(app, [*command, "--help"], prog_name="vlmzoo", env=environment)
    if result.exit_code:
        raise RuntimeError(f"`vlmzoo {' '.join(command)} --help` ends with {result.exit_code}: {result.output}")
    lines = re.sub(r"\x1b\[[0-9;]*m", "", result.output).splitlines()
    return "\n".join(line.rstrip() for line in lines).strip("\n")


def command_line() -> str:
    """One section for the program and for each of its commands."""
    text = (
        "# Command line\n\nWhat `--help` prints. Options of `vlmzoo` itself stand before the command.\n\n"
        "| exit code | meaning |\n| ---: | --- |\n"
        "| 0 | well |\n| 1 | a fault of the program |\n| 2 | config: a recipe, option or combination of parts |\n"
        "| 3 | data: a row, an image, a loss that is no number |\n| 4 | plugin |\n| 5 | checkpoint |\n"
        "| 6 | resources: disk, memory, permission |\n| 130, 143 | interrupted by SIGINT, SIGTERM |\n\n"
        f"## vlmzoo\n\n```text\n{help_text()}\n```\n"
    )
    for name in COMMANDS:
        text += f"\n## vlmzoo {name} {{ #{name} }}\n\n```text\n{help_text(name)}\n```\n"
    return text


def recipes() -> str:
    """One section for each kind of mapping in a recipe, the outermost first."""
    text = (
        "# Recipes\n\nThe keys of a recipe. A key that is not listed here is an error, never ignored; so is a value of another "
        "type. A part (`vision`, `connector`, ...) is a mapping `{name: ..., option: ...}` with the options that "
        "[its component](parts.md) has, or the bare name where no option is needed. Paths start from the folder of the file "
        "that they stand in. `vlmzoo schema` gives the same as a JSON schema, for editors.\n\nOn the command line and in "
        "`overrides=`, `stages.0.steps=100` changes one value, `model.connector=[{name: linear}]` a whole one.\n"
    )
    return text + "".join(sections(Recipe))


def grids() -> str:
    """One section for each kind of mapping in a grid."""
    text = (
        "# Grids\n\nThe keys of a grid, the file that `vlmzoo compare` takes; as strict as [recipes](recipe.md). "
        "[Compare combinations](../how-to/compare.md) shows one.\n"
    )
    return text + "".join(sections(GridConfig))


def shipped() -> str:
    """A table of the recipes that come with vlmzoo, then every one as it is."""
    text = (
        "# Shipped recipes\n\nPublished combinations as files. A name stands for its file: `vlmzoo plan NAME`, "
        "`vlmzoo train NAME`; `vlmzoo recipes NAME > mine.yaml` makes it yours. Paths of data start from the folder that one "
        "stands in. A test plans each of them, in full size and without a network, and compares tokens and parameters with "
        "what was published. Each says under `differs` and `unverified` what it does not reproduce, and what nobody has read "
        "in the project's own files.\n\n"
        "| recipe | what | tokens per image | parameters, as published |\n| --- | --- | ---: | --- |\n"
    )
    for name, file in shipped_recipes().items():
        about = load_about(file)
        published = about.dump()["published"] or {"parameters": {}}
        tokens = tokens_in_words(about.dump()["published"]).removesuffix(" tokens per image")
        figures = ", ".join(f"{part} {figure}" for part, figure in published["parameters"].items())
        text += f"| [{name}](#{anchor(name)}) | {cell(about.title)} | {tokens} | {figures} |\n"
    for name, file in shipped_recipes().items():
        text += f"\n## {name} {{ #{anchor(name)} }}\n\n```yaml\n{file.read_text(encoding='utf-8').rstrip()}\n```\n"
    return text


def anchor(recipe: str) -> str:
    """What a link to a recipe's section ends with; a dot would begin a class."""
    return "recipe-" + recipe.replace(".", "-")


def sections(model: type[BaseModel]) -> Iterator[str]:
    """A section with a table of fields for this class and for each that it refers to, in the order of mention."""
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})
    yield section(model.__name__, schema)
    waiting, done = references(schema.get("properties", {})), set()
    while waiting:
        name = waiting.pop(0)
        if name not in done and "properties" in definitions[name]:
            done.add(name)
            yield section(name, definitions[name])
            waiting += references(definitions[name]["properties"])


def references(schema: Any) -> list[str]:
    """The names of the definitions that a schema refers to, in order."""
    if isinstance(schema, dict):
        own = [schema["$ref"].rpartition("/")[2]] if isinstance(schema.get("$ref"), str) else []
        return own + [name for key, value in schema.items() if key != "discriminator" for name in references(value)]
    if isinstance(schema, list):
        return [name for item in schema for name in references(item)]
    return []


def section(name: str, schema: Schema) -> str:
    """The heading, the description and the table of the fields of one class."""
    required = schema.get("required", [])
    rows = "".join(
        f"| `{key}` | {field_type(key, field)} | {default(key in required, field)} | {cell(field.get('description', ''))} |\n"
        for key, field in schema["properties"].items()
    )
    about = schema.get("description", "")
    return f"\n## {name}\n\n{about}\n\n| key | type | default | meaning |\n| --- | --- | --- | --- |\n{rows}"


PART_KINDS = MODEL_PARTS | STAGE_PARTS | {"metrics": "metric"}


def field_type(key: str, field: Schema) -> str:
    """The type of a field in words; sections and kinds of parts as links."""
    if "$ref" in field:
        return link(field)
    choices = field.get("anyOf", field.get("oneOf"))
    if choices is not None:
        return " or ".join(field_type(key, choice) for choice in choices if choice.get("type") != "null")
    if "items" in field:
        return f"list of {field_type(key, field['items'])}"
    if isinstance(field.get("additionalProperties"), dict):
        return f"mapping to {field_type(key, field['additionalProperties'])}"
    if key in PART_KINDS and "type" not in field:
        return f"[{PART_KINDS[key].replace('_', ' ')}](parts.md#{PART_KINDS[key]})"
    return type_cell(type_in_words(field, {}))


def link(reference: Schema) -> str:
    name = reference["$ref"].rpartition("/")[2]
    return f"[{name}](#{name.lower()})"


def default(required: bool, field: Schema) -> str:
    """The default of a field as a recipe would write it."""
    if required:
        return "required"
    value = field.get("default")
    if value is None:
        return ""
    return f"`{cell(str(value).lower() if isinstance(value, bool) else str(value))}`"


def cell(text: str) -> str:
    """A text as it can stand in a cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ")


def type_cell(words: str) -> str:
    """A type as code; that an option with a default may be empty goes without saying, and so does the largest integer."""
    words = words.removesuffix(" | null").replace(f" < {2**63}", "").replace(" | ", " or ")
    return f"`{cell(words)}`"


def parts() -> str:
    """Every part that comes with vlmzoo, kind by kind, with its options."""
    catalogue = Catalogue.discover(quiet=True)
    text = (
        "# Parts\n\nThe parts that come with vlmzoo; `vlmzoo list` also shows those of other installed plugins, and "
        "`vlmzoo show NAME` prints what stands here. A bare name (`mlp` for `connectors/mlp`) works while only one plugin has "
        "it.\n"
    )
    kind = None
    for component in catalogue.components():
        if component.distribution != FIRST_PARTY:
            continue
        if component.spec.kind != kind:
            kind = component.spec.kind
            text += f"\n## {kind.replace('_', ' ').capitalize()} {{ #{kind} }}\n"
        text += part(explain(component))
    return text


def language_models() -> str:
    """The survey of language models, as `benchmarks/language_models.py` found it."""
    found = json.loads(LANGUAGE_MODELS.read_text(encoding="utf-8"))
    asked = [row for row in found["rows"] if not row["skipped"]]
    passing = [row for row in asked if set(row["checks"].values()) == {"passed"}]
    failing = [row for row in asked if row not in passing]
    text = (
        "# Language models\n\n`transformers/causal-lm` takes decoders of transformers with no code for any family. Here is "
        "what that is worth: every family that transformers lists as a causal language model, built tiny and at random, and "
        f"put through the checks below. **{len(passing)} of {len(asked)} pass all of them** "
        f"(transformers {found['transformers']}, torch {found['torch'].partition('+')[0]}; "
        "`benchmarks/language_models.py` measures it again).\n\n"
        "| check | what must hold |\n| --- | --- |\n"
    )
    text += "".join(f"| {name} | {cell(rule)} |\n" for name, rule in found["checks"].items())
    text += (
        "\n## Families that pass\n\n*Text scale* is the factor from a row of the embedding table to the vector that image "
        "tokens stand beside, *internal scale* the factor from such a vector to what enters the first decoder layer; "
        '"normalised" where it is no multiple of it (`vlmzoo_registry.EmbeddingScales`).\n\n'
        "| family | class | decoder layers | text scale | internal scale |\n| --- | --- | --- | ---: | ---: |\n"
    )
    for row in passing:
        scales = (row["scales"]["text"], row["scales"]["internal"])
        words = " | ".join("normalised" if scale is None else f"{scale:.4g}" for scale in scales)
        text += f"| `{row['family']}` | `{row['model']}` | `{row['layers']}` | {words} |\n"
    text += "\n## Families that do not\n\n| family | class | fails | why |\n| --- | --- | --- | --- |\n"
    for row in failing:
        failed = ", ".join(name for name, result in row["checks"].items() if result != "passed")
        text += f"| `{row['family']}` | `{row['model']}` | {failed} | {cell(row['why'])} |\n"
    text += "\n## Listed by transformers, but no decoders of text\n\n| family | what it is |\n| --- | --- |\n"
    return text + "".join(f"| `{row['family']}` | {cell(row['skipped'])} |\n" for row in found["rows"] if row["skipped"])


def part(fields: dict[str, Any]) -> str:
    """One component: what it is, where it comes from, its options."""
    if fields["error"]:
        raise RuntimeError(fields["error"])
    facts = [f"Licence: {fields['license']}"] if fields["license"] else []
    facts += [f"source: <{fields['paper']}>"] if fields["paper"] else []
    facts += [f"capability: `{word}`" for word in fields["capabilities"]]
    anchor = f"{fields['kind']}-{fields['name'].replace('/', '-')}"
    summary = fields["summary"].rstrip(".")
    if summary.startswith("#"):
        summary = f"\\{summary}"  # words of a style, no heading
    text = f"\n### {fields['name']} {{ #{anchor} }}\n\n{summary}. {'; '.join(facts)}.\n"
    if fields["about"]:
        text += f"\n{fields['about']}\n"
    if fields["options"]:
        text += "\n| option | type | default | meaning |\n| --- | --- | --- | --- |\n"
        for option in fields["options"]:
            words = "required" if option["required"] else default(False, option)
            description = cell(option["description"] or "")
            text += f"| `{option['name']}` | {type_cell(option['type'])} | {words} | {description} |\n"
    return text
