"""From a file or mapping to a checked recipe or model: every part resolved, every reason for refusal said at once."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from vlmzoo.config.about import About, Published
from vlmzoo.config.batching import BatchingConfig
from vlmzoo.config.choice import Choice, DataChoice
from vlmzoo.config.document import cannot_be_used, read_document, read_mapping
from vlmzoo.config.explain import Problem, missing_key, problems, unknown_key
from vlmzoo.config.grid import BudgetConfig, EvaluateConfig, GridConfig
from vlmzoo.config.model import DECODER_BLOCKS, ModelConfig
from vlmzoo.config.node import Field, Node, Place, Plain, located, quotable, shown
from vlmzoo.config.overrides import apply_override
from vlmzoo.config.parts import (
    EVALUATE_PARTS,
    MODEL_PARTS,
    RULES,
    STAGE_PARTS,
    spell_out_grid,
    spell_out_model,
    spell_out_recipe,
)
from vlmzoo.config.recipe import Recipe
from vlmzoo.config.section import Section
from vlmzoo.config.stage import StageConfig, TrainPart
from vlmzoo_registry.catalogue import Catalogue, default_catalogue
from vlmzoo_registry.component import Component
from vlmzoo_registry.config import ComponentConfig
from vlmzoo_registry.errors import ConfigError, PluginError, VlmzooError
from vlmzoo_registry.report import failure
from vlmzoo_registry.suggest import nearest

Source = str | PathLike[str] | Mapping[str, object]
AnySection = TypeVar("AnySection", bound=Section)


def load_recipe(source: Source, overrides: Sequence[str] = (), catalogue: Catalogue | None = None) -> Recipe:
    """The recipe in a YAML or JSON file or a mapping, with `overrides` (`stages.0.batch_size=8`) applied.

    Relative paths (options that a component declares as `pathlib.Path`) start from the folder of the file they are written
    in; in mappings and overrides, from the working directory.

    Raises one `ConfigError` with every reason in `.reasons`, each naming file, line, column and field (or the override);
    `PluginError` where nothing is wrong but plugins.
    """
    root = _document(source)
    faults = _override(root, overrides, spell_out_recipe)
    reader = _Reader(root, catalogue or default_catalogue())
    return reader.read(Recipe, (), reader.recipe(root), faults)


def load_model(source: Source, overrides: Sequence[str] = (), catalogue: Catalogue | None = None) -> ModelConfig:
    """The model in a file or mapping: a whole recipe, of which the `model:` section is taken, or such a section alone.

    Overrides name fields as the document has them: `model.connector.depth=3` in a recipe, `connector.depth=3` in a model.
    Raises as `load_recipe` does; the stages of a recipe are not looked at.
    """
    root = _document(source)
    if not {"model", "stages"} & {key for key, _ in root.items()}:
        faults = _override(root, overrides, spell_out_model)
        reader = _Reader(root, catalogue or default_catalogue())
        return reader.read(ModelConfig, (), reader.model(root, ()), faults)
    faults = _override(root, overrides, spell_out_recipe)
    reader = _Reader(root, catalogue or default_catalogue())
    reader.known_keys(Recipe)
    model = root.child("model")
    if model is None:
        reader.missing("model", Recipe)
        raise reader.error(faults)
    return reader.read(ModelConfig, ("model",), reader.model(model, ("model",)), faults)


def load_either(
    source: Source, overrides: Sequence[str] = (), catalogue: Catalogue | None = None
) -> tuple[ModelConfig, Recipe | None]:
    """The model of a document, with its recipe where it is one (it has `stages`). Raises as `load_recipe` does."""
    if "stages" not in {key for key, _ in _document(source).items()}:
        return load_model(source, overrides, catalogue), None
    recipe = load_recipe(source, overrides, catalogue)
    return recipe.model, recipe


def load_grid(source: Source, overrides: Sequence[str] = (), catalogue: Catalogue | None = None) -> tuple[GridConfig, Node]:
    """The grid in a file or mapping, and its tree, which knows where everything in it was written.

    The recipe it changes is not looked at. Raises as `load_recipe` does.
    """
    root = _document(source)
    faults = _override(root, overrides, spell_out_grid)
    reader = _Reader(root, catalogue or default_catalogue())
    return reader.read(GridConfig, (), reader.grid(root), faults), root


def load_about(file: Path) -> About:
    """What a recipe's file says about it, without a look at its parts.

    Raises `ConfigError` where it has no `about:`, or with all that is wrong with it.
    """
    root = _document(file)
    about = root.child("about")
    if about is None:
        reason = located(root.place, ("about",), "is missing: what the recipe reproduces, and from where")
        raise ConfigError(cannot_be_used(str(file), [reason]), [reason])
    return _Reader(root, Catalogue(())).read(About, ("about",), about.plain(), ())


def load_choice(kind: str, source: Mapping[str, object], catalogue: Catalogue | None = None) -> Choice:
    """One component with its options, from what `Choice.dump` gave. Raises as `load_recipe` does."""
    root = read_mapping(source)
    reader = _Reader(root, catalogue or default_catalogue())
    choice = reader.choice(root, kind)
    if not isinstance(choice, Choice):
        raise reader.error(())
    return choice


def _document(source: Source) -> Node:
    root = read_mapping(source) if isinstance(source, Mapping) else read_document(source)
    if not isinstance(root.value, dict):
        reason = located(root.place, (), f"must be a mapping (is {shown(root.value)})")
        raise ConfigError(cannot_be_used(root.place.source, [reason]), [reason])
    return root


def _override(root: Node, overrides: Sequence[str], spell_out: Callable[[Node], None]) -> list[str]:
    """Apply every override that can be; the reasons against the others. Short forms are spelt out before and after each."""
    if isinstance(overrides, str):
        raise TypeError(f"`overrides` must be a list of texts (is the text {overrides!r})")
    faults: list[str] = []
    spell_out(root)
    for override in overrides:
        try:
            apply_override(root, override)
        except ConfigError as error:
            faults.extend(error.reasons)
        spell_out(root)
    return faults


@dataclass(frozen=True)
class _Reason:
    place: Place
    field: Field
    message: str
    plugin: bool

    def __str__(self) -> str:
        return located(self.place, self.field, self.message)


class _Reader:
    """Resolves parts, validates sections, and collects the reasons: one for each field, in the order of the file."""

    def __init__(self, root: Node, catalogue: Catalogue) -> None:
        self.root = root
        self.catalogue = catalogue
        self.reasons: dict[Field, _Reason] = {}
        self.meant: set[Field] = set()

    def refuse(self, place: Place, field: Field, message: str, *, plugin: bool = False) -> None:
        """Note a reason; the first for a field stands."""
        self.reasons.setdefault(field, _Reason(place, field, message, plugin))

    def error(self, faults: Sequence[str]) -> VlmzooError:
        """The one error that says everything."""
        ordered = sorted(self.reasons.values(), key=lambda reason: (reason.place.line or 10**9, reason.place.column or 0))
        texts = [*faults, *map(str, ordered)]
        only_plugins = not faults and all(reason.plugin for reason in ordered)
        return (PluginError if only_plugins else ConfigError)(cannot_be_used(self.root.place.source, texts), texts)

    def read(self, section: type[AnySection], field: Field, values: Any, faults: Sequence[str]) -> AnySection:
        """The section made of `values`, in which parts are resolved; raises where anything is wrong with it or before it."""
        node, _ = self.root.nearest(field)
        found: list[Problem] = []
        try:
            result = section.model_validate(values)
        except ValidationError as error:
            found = problems(error, section, node.plain(), section.called)
        else:
            if not (self.reasons or faults):
                return result
        # Conflicts first: where a value is also of the wrong type, they say more.
        self._note([*_conflicts(section, node), *found], field)
        raise self.error(faults)

    def known_keys(self, section: type[Section]) -> None:
        """Refuse keys of the document that its section does not know."""
        self._note(
            [
                unknown_key((key,), list(section.model_fields), section.called)
                for key, _ in self.root.items()
                if key not in section.model_fields
            ],
            (),
        )

    def missing(self, key: str, section: type[Section]) -> None:
        """Refuse the document for lack of this key."""
        self._note([missing_key((key,), section)], ())

    def _note(self, found: Sequence[Problem], base: Field) -> None:
        self.meant |= {(*base, *problem.field[:-1], problem.meant) for problem in found if problem.meant is not None}
        for problem in found:
            field = (*base, *problem.field)
            if problem.missing and field in self.meant:
                continue  # it is there, misspelt, and that is said
            if problem.part and any(other[: len(field)] == field for other in self.reasons):
                continue  # why it is no component has been said, with the place inside it
            node, exact = self.root.nearest(field)
            self.refuse(node.key if problem.unknown or not exact else node.place, field, problem.message)

    # From here on: the same values, with parts resolved. Whatever has the wrong shape is passed on for pydantic to refuse.

    def recipe(self, node: Node) -> Any:
        """The values of a recipe."""
        values: dict[str, Any] = {key: child.plain() for key, child in node.items() if isinstance(key, str)}
        model, stages = node.child("model"), node.child("stages")
        if model is not None:
            values["model"] = self.model(model, ("model",))
        if stages is not None and isinstance(stages.value, list):
            values["stages"] = [self.stage(stage, ("stages", index)) for index, stage in enumerate(stages.value)]
        return values

    def model(self, node: Node, field: Field) -> Any:
        """The values of a model."""
        values = self._section(node, field, MODEL_PARTS)
        if isinstance(values, dict) and values.get("architecture") == "cross_attention":
            self._end_with_blocks(values, node, field)
        return values

    def stage(self, node: Node, field: Field) -> Any:
        """The values of a stage."""
        return self._section(node, field, STAGE_PARTS)

    def grid(self, node: Node) -> Any:
        """The values of a grid."""
        values: dict[str, Any] = {key: child.plain() for key, child in node.items() if isinstance(key, str)}
        evaluate = node.child("evaluate")
        if evaluate is not None:
            values["evaluate"] = self._section(evaluate, ("evaluate",), EVALUATE_PARTS)
        return values

    def choice(self, node: Node, kind: str) -> "Choice | Plain":
        """A document that is one component."""
        return self._part(node, (), kind)

    def _section(self, node: Node, field: Field, kinds: Mapping[str, str]) -> Any:
        if not isinstance(node.value, dict):
            return node.plain()
        values: dict[str, Any] = {}
        for key, child in node.value.items():
            if key not in kinds:
                values[key] = child.plain()
            elif isinstance(child.value, list):
                values[key] = [self._part(part, (*field, key, index), kinds[key]) for index, part in enumerate(child.value)]
            else:
                values[key] = self._part(child, (*field, key), kinds[key])
        return values

    def _end_with_blocks(self, values: dict[str, Any], node: Node, field: Field) -> None:
        """Add `DECODER_BLOCKS` to a chain of connectors that builds none, so that the architecture is a change of one line."""
        chain = values.get("connector")
        if not isinstance(chain, list) or not chain or not all(isinstance(link, Choice) for link in chain):
            return
        if any("layers" in link.component.spec.capabilities for link in chain):
            return
        place = node.nearest(("architecture",))[0].place
        blocks = Node({"name": Node(DECODER_BLOCKS, place, place)}, place, place)
        choice = self._part(blocks, (*field, "architecture"), "connector")
        if isinstance(choice, Choice):
            values["connector"] = [*chain, choice]

    def _part(self, node: Node, field: Field, kind: str) -> "Choice | Plain":
        """The component and its options; plain data, with the reasons noted, where it cannot be one."""
        name = node.child("name")
        if isinstance(node.value, dict) and name is None:
            self._no_name(node, field, kind)
        if name is None:
            return node.plain()
        if not isinstance(name.value, str):
            self.refuse(name.place, (*field, "name"), f"must be the name of a component, a text (is {shown(name.value)})")
            return node.plain()
        if not name.value or quotable(name.value) != name.value:
            self.refuse(name.place, (*field, "name"), f"must be the name of a component (is {shown(name.value)})")
            return node.plain()
        try:
            component = self.catalogue.get(kind, name.value)
            options = component.load_config()
        except VlmzooError as error:
            self.refuse(name.place, (*field, "name"), " ".join(str(error).split()), plugin=isinstance(error, PluginError))
            return node.plain()
        own = {"name", RULES} if kind == "dataset" else {"name"}
        config = self._options(component, options, node, field, own)
        rules = self._rules(node, field) if kind == "dataset" else ()
        if config is None or rules is None:
            return node.plain()
        return DataChoice(component, config, rules) if kind == "dataset" else Choice(component, config)

    def _rules(self, node: Node, field: Field) -> tuple[Choice, ...] | None:
        """The rules of a dataset; None, with the reasons noted, where they are wrong."""
        rules = node.child(RULES)
        if rules is None:
            return ()
        if not isinstance(rules.value, list):
            self.refuse(rules.place, (*field, RULES), f"must be a list of rules (is {shown(rules.value)})")
            return None
        choices = []
        for index, rule in enumerate(rules.value):
            choice = self._part(rule, (*field, RULES, index), "rule")
            if isinstance(choice, Choice):
                choices.append(choice)
            elif not isinstance(rule.value, dict):
                self.refuse(rule.place, (*field, RULES, index), f"must be a rule (is {shown(rule.value)})")
        return tuple(choices) if len(choices) == len(rules.value) else None

    def _no_name(self, node: Node, field: Field, kind: str) -> None:
        for key, child in node.items():
            if nearest(str(key), ["name"]) is not None:
                self.refuse(child.key, (*field, key), "unknown key; did you mean `name`?")
                return
        message = f"is missing: the name of a component (`vlmzoo list --kind {kind}`)"
        self.refuse(node.key, (*field, "name"), message)

    def _options(
        self, component: Component, options: type[ComponentConfig], node: Node, field: Field, own: set[str]
    ) -> ComponentConfig | None:
        """The component's options, with relative paths resolved; None, with the reasons noted, where they are wrong."""
        given = Node({key: child for key, child in node.items() if key not in own}, node.place, node.key)  # type: ignore[misc]
        try:
            config = _validated(options, given.plain())
            relative = list(_relative_paths(config, given))
            for path, text in relative:
                text.value = str(text.place.folder / path)
            return _validated(options, given.plain()) if relative else config
        except ValidationError as error:
            self._note(problems(error, options, given.plain(), component.full_name), field)
        except VlmzooError as error:
            self.refuse(node.place, field, " ".join(str(error).split()), plugin=isinstance(error, PluginError))
        except Exception as error:  # a plugin's own validator: whatever it raises, the reader is told whose fault it is
            self.refuse(node.place, field, f"{component}: checking its options failed: {failure(error)}", plugin=True)
        return None


def _validated(options: type[ComponentConfig], given: Plain) -> ComponentConfig:
    """The options of a component under JSON's rules: a list may become a tuple and a text a path, but never a text a number."""
    return options.model_validate_json(json.dumps(given), strict=True)


def _relative_paths(value: Any, node: Node) -> Iterator[tuple[Path, Node]]:
    """The paths in a config that are not absolute, each with the text it was written as; `~` is the home folder."""
    if isinstance(value, Path) and isinstance(node.value, str):
        path = Path(os.path.expanduser(node.value))
        if path != value or not path.is_absolute():
            yield path, node
    for step, child in node.items():
        yield from _relative_paths(_inside(value, step), child)


def _inside(value: Any, step: str | int) -> Any:
    """What stands in a validated value under a key or index of the document; None where validation put nothing there."""
    if isinstance(value, BaseModel):
        return getattr(value, str(step)) if step in type(value).model_fields else None
    if isinstance(value, Mapping):
        return value.get(step)
    if isinstance(value, list | tuple) and isinstance(step, int) and step < len(value):
        return value[step]
    return None


def _conflicts(section: type[Section], node: Node) -> Iterator[Problem]:
    """What a section and those inside it say about values that do not go together, however wrong each of them is."""
    for kind, below, at in _sections(section, node):
        values = below.plain()
        for key, message in kind.conflicts(values) if isinstance(values, dict) else ():
            yield Problem((*at, key), message, missing=below.child(key) is None)


def _sections(section: type[Section], node: Node) -> Iterator[tuple[type[Section], Node, Field]]:
    """A section of a document, and those inside it, each with its node and its field."""
    yield section, node, ()
    if section in (Recipe, About):
        field: Field = ("about", "published") if section is Recipe else ("published",)
        published, there = node.nearest(field)
        if there:
            yield Published, published, field
    if section is Recipe:
        model, stages = node.child("model"), node.child("stages")
        if model is not None:
            yield ModelConfig, model, ("model",)
        for index, stage in stages.items() if stages is not None else ():
            yield StageConfig, stage, ("stages", index)
            train = stage.child("train")
            for part, below in train.items() if train is not None else ():
                yield TrainPart, below, ("stages", index, "train", part)
            batching = stage.child("batching")
            if batching is not None:
                yield BatchingConfig, batching, ("stages", index, "batching")
    if section is GridConfig:
        for key, inside in (("budget", BudgetConfig), ("evaluate", EvaluateConfig)):
            within = node.child(key)
            if within is not None:
                yield inside, within, (key,)
