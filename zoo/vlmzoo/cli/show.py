"""`vlmzoo show NAME`: one part and its options."""

import inspect
import json
from typing import Annotated, Any

import typer
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from vlmzoo.cli.console import console, print_json
from vlmzoo.cli.describe import describe, source
from vlmzoo_registry import Component, ComponentConfig, PluginError, default_catalogue
from vlmzoo_registry.requirements import missing_requirements


def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A part: `plugin/part`, or `part` where one plugin has it.")],
    kind: Annotated[str | None, typer.Option(metavar="KIND", help="Its kind, where parts of two kinds share the name.")] = None,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print a JSON object.")] = False,
) -> None:
    """One part: what it is, where it comes from, what it requires, and its options.

    The options are what a recipe may write beside `name`.
    """
    fields = explain(default_catalogue().get(kind, name))
    if as_json:
        print_json(fields)
    else:
        _print(fields)


def explain(component: Component) -> dict[str, Any]:
    """All that is known of a component; where its options cannot be imported, `options` is None and the reason is given."""
    fields = describe(component) | {
        "api": component.spec.api,
        "capabilities": sorted(component.spec.capabilities),
        "requires": list(component.spec.requires),
        "missing": [f"{requirement} ({instead})" for requirement, instead in missing_requirements(component.spec.requires)],
        "factory": component.spec.factory,
        "config": component.spec.config,
    }
    try:
        config = component.load_config()
    except PluginError as error:
        return fields | {"about": None, "options": None, "error": str(error)}
    about = None if config.__doc__ == ComponentConfig.__doc__ else inspect.cleandoc(config.__doc__ or "")
    return fields | {"about": about or None, "options": _options(config), "error": None}


def _options(config: type[ComponentConfig]) -> list[dict[str, Any]]:
    """The fields of a config class, as its JSON schema has them: what may be written in YAML."""
    schema = config.model_json_schema()
    required = schema.get("required", [])
    return [
        {
            "name": name,
            "type": type_in_words(field, schema.get("$defs", {})),
            "required": name in required,
            "default": field.get("default"),
            "description": field.get("description"),
        }
        for name, field in schema.get("properties", {}).items()
    ]


LIMITS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def type_in_words(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """A JSON schema in a few words: `integer >= 1`, `layer | none`, `list of integer`."""
    if "$ref" in schema:
        return type_in_words(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in schema:
        return " | ".join(type_in_words(choice, definitions) for choice in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(str(choice) for choice in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    if "prefixItems" in schema:
        return f"[{', '.join(type_in_words(item, definitions) for item in schema['prefixItems'])}]"
    if "items" in schema:
        return f"list of {type_in_words(schema['items'], definitions)}"
    name = {"object": "mapping", "boolean": "true | false"}.get(schema.get("type", "any"), schema.get("type", "any"))
    return " ".join([name, *(f"{sign} {schema[limit]}" for limit, sign in LIMITS.items() if limit in schema)])


def _print(fields: dict[str, Any]) -> None:
    out = console()
    out.print(Text.assemble((fields["name"], "bold"), "  ", (f"{fields['kind']}, API {fields['api']}", "dim")))
    out.print(Padding(Text(fields["summary"]), (0, 0, 0, 2)))
    out.print(Padding(Text(source(fields), "dim"), (0, 0, 0, 2)))
    out.print()
    facts = Table.grid(padding=(0, 2, 0, 0))
    for label in ("capabilities", "requires", "missing"):
        if fields[label]:
            facts.add_row(Text(f"  {label}", "red" if label == "missing" else "dim"), Text(", ".join(fields[label])))
    facts.add_row(Text("  factory", "dim"), Text(fields["factory"]))
    facts.add_row(Text("  config", "dim"), Text(fields["config"]))
    out.print(facts)
    if fields["about"] is not None:
        out.print()
        out.print(Padding(Text(_flow(fields["about"])), (0, 0, 0, 2)))
    out.print()
    if fields["options"] is None:
        out.print(Text.assemble(("The options cannot be read: ", "bold red"), fields["error"]))
    elif not fields["options"]:
        out.print("No options.")
    else:
        _print_options(fields["options"])


def _flow(text: str) -> str:
    """Paragraphs as one line each, so that the terminal breaks them."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _print_options(options: list[dict[str, Any]]) -> None:
    out = console()
    out.print(Text("Options", "bold underline"))
    table = Table.grid(padding=(0, 2, 0, 0))
    for option in options:
        value = "required" if option["required"] else f"default {json.dumps(option['default'], ensure_ascii=False)}"
        about = Text.assemble(option["type"], ("  ", ""), (value, "yellow" if option["required"] else "dim"))
        if option["description"]:
            about.append(f"\n{option['description']}")
        table.add_row(Text(f"  {option['name']}", "bold"), about)
    out.print(table)
