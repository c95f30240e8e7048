"""The JSON schema of a recipe with the installed plugins in it, so that editors complete and check while one writes."""

from collections.abc import Sequence
from typing import Any

from pydantic.errors import PydanticUserError

from vlmzoo.config.parts import MODEL_PARTS, RULES, STAGE_PARTS
from vlmzoo.config.recipe import Recipe
from vlmzoo_registry.catalogue import Catalogue, default_catalogue
from vlmzoo_registry.component import Component
from vlmzoo_registry.errors import PluginError

Schema = dict[str, Any]


def recipe_schema(catalogue: Catalogue | None = None) -> Schema:
    """The JSON schema (draft 2020-12) of a recipe: each part is one of the components of its kind, told apart by `name`.

    A component whose options cannot be imported or described takes any, and its description says why.
    """
    catalogue = catalogue or default_catalogue()
    schema = Recipe.model_json_schema()
    definitions = schema["$defs"]
    for kind in (*MODEL_PARTS.values(), *STAGE_PARTS.values(), "rule"):
        definitions[kind] = _part(catalogue.components(kind), definitions)
    for dataset in definitions["dataset"].get("oneOf", ()):
        if "properties" in dataset:
            dataset["properties"][RULES] = {
                "description": "What is done with its samples, one rule after the other.",
                "anyOf": [{"$ref": "#/$defs/rule"}, {"type": "array", "items": {"$ref": "#/$defs/rule"}}],
            }
    model, stage = definitions["ModelConfig"]["properties"], definitions["StageConfig"]["properties"]

    vision, connector = {"$ref": "#/$defs/vision_encoder"}, {"$ref": "#/$defs/connector"}
    model["vision"]["anyOf"] = [vision, {"type": "array", "items": vision, "minItems": 1}]
    model["connector"] = {
        "title": "Connector",
        "description": model["connector"]["description"],
        "anyOf": [connector, {"type": "array", "items": connector, "minItems": 1}],
    }
    model["language"]["$ref"] = "#/$defs/language_model"
    model["layout"]["anyOf"] = [{"$ref": "#/$defs/layout"}, {"type": "null"}]
    model["template"]["$ref"] = "#/$defs/template"
    stage["objective"]["$ref"] = "#/$defs/objective"
    stage["template"]["anyOf"] = [{"$ref": "#/$defs/template"}, {"type": "null"}]
    stage["data"]["items"] = {"$ref": "#/$defs/dataset"}

    # What `conflicts` says, as far as a schema can.
    schema["properties"]["stages"] |= {"minItems": 1, "uniqueItems": True}
    stage["train"]["minProperties"] = 1
    given = {"type": "integer"}
    definitions["StageConfig"]["oneOf"] = [
        {"required": ["steps"], "properties": {"steps": given}},
        {"required": ["epochs"], "properties": {"epochs": given}},
    ]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "vlmzoo recipe"}


def _part(components: Sequence[Component], definitions: Schema) -> Schema:
    """A part of one kind: a mapping with `name` and that component's options, or the name of one that needs no options."""
    if not components:
        return {"description": "No plugin that is installed here brings one.", "enum": []}
    bare = [component.spec.name for component in components]
    mappings, alone = [], []
    for component in components:
        unambiguous = bare.count(component.spec.name) == 1
        names = [component.full_name, component.spec.name] if unambiguous else [component.full_name]
        options = _options(component, definitions)
        mappings.append(_mapping(component, names, options))
        if not options.get("required"):
            alone += names
    shorthand = {
        "title": "name",
        "description": "The name of a component that needs no options.",
        "type": "string",
        "enum": alone,
    }
    return {"oneOf": [shorthand, *mappings] if alone else mappings}


def _mapping(component: Component, names: list[str], options: Schema) -> Schema:
    name = {"description": f"{component.spec.kind} of {component.distribution} {component.version}", "enum": names}
    return {
        "title": component.full_name,
        "description": " ".join(filter(None, [component.spec.summary, component.spec.paper, options.get("problem")])),
        "type": "object",
        "properties": {"name": name, **options.get("properties", {})},
        "required": ["name", *options.get("required", [])],
        "additionalProperties": options.get("additionalProperties", True),
    }


def _options(component: Component, definitions: Schema) -> Schema:
    """The schema of a component's options; the definitions it refers to go to `definitions`, under names of their own."""
    prefix = f"{component.spec.kind}.{component.plugin}.{component.spec.name}"
    try:
        options = component.load_config().model_json_schema(ref_template=f"#/$defs/{prefix}.{{model}}")
    except (PluginError, PydanticUserError) as error:
        return {"problem": f"(Its options are not known: {' '.join(str(error).split())})"}
    for name, definition in options.get("$defs", {}).items():
        definitions[f"{prefix}.{name}"] = definition
    return options
