"""Mutated recipes: each loads, or is refused with a place and a field in every reason; and one-letter typos find their key."""

import json
import os
import random
import re
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from config_parts import RECIPE, catalogue
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from vlmzoo.config import ModelConfig, Recipe, StageConfig, TrainFull, load_model, load_recipe
from vlmzoo.config.document import read_yaml
from vlmzoo.config.node import Place
from vlmzoo_registry import VlmzooError, default_catalogue

CATALOGUE = catalogue()
DATA: Any = read_yaml(RECIPE, Place("", Path("/"), 1, 1)).plain()
STEP = r'([\w-]+|"[^\n]*"|\?)'
REASON = re.compile(rf"(recipe\.(yaml|json):\d+:\d+|override `.*`): (\(top level\)|{STEP}(\.{STEP})*): \S.*")

FUZZ = settings(
    max_examples=int(os.environ.get("VLMZOO_FUZZ_EXAMPLES", "60")),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def fields(value: Any, field: tuple = ()) -> Iterator[tuple]:
    """Every field of plain data."""
    yield field
    for step, child in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from fields(child, (*field, step))


def at(value: Any, field: tuple) -> Any:
    for step in field:
        value = value[step]
    return value


def loads_or_explains(folder: Path, text: str | bytes, name: str, overrides: tuple[str, ...] = ()) -> Recipe | None:
    """The property: a recipe that then loads back from its dump, or an error that says where in every reason."""
    path = folder / name
    path.write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    recipe, error = attempt(path, overrides)
    if error is None:
        assert load_recipe(recipe.dump(), catalogue=CATALOGUE) == recipe
        return recipe
    assert error.exit_code in (2, 4)
    assert error.reasons
    for reason in error.reasons:
        assert REASON.fullmatch(reason.removeprefix(f"{folder}/")), reason
        assert str(reason).isprintable()
        assert not any(word in reason for word in ("pydantic", "https://", "Traceback")), reason
    return None


def attempt(source: Path | dict, overrides: tuple[str, ...] = ()) -> tuple[Recipe, None] | tuple[None, VlmzooError]:
    try:
        return load_recipe(source, overrides, CATALOGUE), None
    except VlmzooError as error:
        return None, error


WEIRD = st.sampled_from(
    [
        *(None, True, "", "no", "1e-5", "nan", -1, 0, 10**30, -(10**400), 1e-5, 1e308, float("inf"), float("nan")),
        *([], {}, [[]], [None], "mlp", "test/", "broken/x", "/", "~x/..", "a\0b", "\ud800", "a" * 5000, "two\nlines"),
        *({"name": "mlp"}, {"name": []}, {"name": None}, {"name": "test/rude", "depth": 2}, {"name": "test/heavy"}),
        *([{"name": "test/mlp"}] * 3, {"": 1}, {"vision": {}}, {"steps": 1}, {"a\nb: c": 1}),
    ]
)
ALPHABET = string.ascii_lowercase + "_-. :'\"[]{}#&*!|>%@`\t\n\x00\ud800é"


@st.composite
def mutated_data(draw: st.DrawFn) -> Any:
    """The recipe with one to three changes: a value replaced, dropped or added, a key misspelt."""
    data = json.loads(json.dumps(DATA))
    for _ in range(draw(st.integers(1, 3))):
        field = draw(st.sampled_from([field for field in fields(data) if field]))
        parent, step = at(data, field[:-1]), field[-1]
        change = draw(st.sampled_from(["replace", "drop", "add", "typo"]))
        if change == "replace":
            parent[step] = json.loads(json.dumps(draw(WEIRD)))
        elif change == "drop":
            del parent[step]
        elif change == "add" and isinstance(parent, dict):
            parent[draw(st.text(ALPHABET, max_size=6))] = json.loads(json.dumps(draw(WEIRD)))
        elif change == "add":
            parent.append(json.loads(json.dumps(draw(WEIRD))))
        elif isinstance(step, str):
            place = draw(st.integers(0, len(step)))
            parent[step[:place] + draw(st.sampled_from(string.ascii_lowercase)) + step[place + 1 :]] = parent.pop(step)
    return data


@FUZZ
@given(data=mutated_data())
def test_mutated_values_load_or_are_explained(tmp_path, data):
    as_json = loads_or_explains(tmp_path, json.dumps(data), "recipe.json")
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    if not re.search(r"[&*]id\d", text):
        loads_or_explains(tmp_path, text, "recipe.yaml")
    from_mapping, error = attempt(data)
    assert (from_mapping is None) == (as_json is None)
    assert error is None or error.reasons


@FUZZ
@given(where=st.integers(0, len(RECIPE)), length=st.integers(0, 8), put=st.text(ALPHABET, max_size=6), times=st.integers(1, 60))
@example(where=0, length=0, put="[", times=60)
@example(where=0, length=0, put="\t", times=1)
@example(where=len(RECIPE), length=0, put="a: &a [*a, *a]\n", times=3)
@example(where=0, length=len(RECIPE), put="\n---\n", times=2)
@example(where=0, length=len(RECIPE), put="? - ", times=60)
def test_mutated_text_loads_or_is_explained(tmp_path, where, length, put, times):
    loads_or_explains(tmp_path, RECIPE[:where] + put * times + RECIPE[where + length :], "recipe.yaml")
    text = json.dumps(DATA)
    loads_or_explains(tmp_path, text[:where] + put * times + text[where + length :], "recipe.json")


@FUZZ
@given(data=st.binary(max_size=40), where=st.integers(0, len(RECIPE)))
@example(data="a: 1".encode("utf-32"), where=0)
def test_mutated_bytes_load_or_are_explained(tmp_path, data, where):
    text = RECIPE.encode()
    loads_or_explains(tmp_path, text[:where] + data + text[where:], "recipe.yaml")
    loads_or_explains(tmp_path, data, "recipe.json")


@FUZZ
@given(
    field=st.sampled_from(list(fields(DATA))), tail=st.text(ALPHABET, max_size=6), value=st.text(ALPHABET + "0123", max_size=8)
)
def test_overrides_apply_or_are_explained(tmp_path, field, tail, value):
    loads_or_explains(tmp_path, RECIPE, "recipe.yaml", (".".join(map(str, field)) + tail + "=" + value,))


def typos(key: str) -> Iterator[str]:
    """Every word one edit away that is no key itself: a letter dropped, doubled, swapped, changed or put in."""
    letter = random.Random(key).choice
    for place in range(len(key)):
        yield key[:place] + key[place + 1 :]
        yield key[:place] + key[place] + key[place:]
        yield key[:place] + key[place + 1 : place + 2] + key[place] + key[place + 2 :]
        yield key[:place] + letter(string.ascii_lowercase) + key[place + 1 :]
        yield key[:place] + letter(string.ascii_lowercase) + key[place:]


def test_one_edit_typos_of_every_key_find_it(tmp_path):
    tried, missed = 0, []
    for field in fields(DATA):
        if not field or isinstance(field[-1], int) or (field[:3] == ("model", "language", "config") and len(field) > 3):
            continue
        keys = list(at(DATA, field[:-1]))
        for typo in dict.fromkeys(typos(field[-1])):
            if typo in keys or not typo:
                continue
            data = json.loads(json.dumps(DATA))
            parent = at(data, field[:-1])
            parent[typo] = parent.pop(field[-1])
            tried += 1
            with pytest.raises(VlmzooError) as caught:
                load_recipe(data, catalogue=CATALOGUE)
            where = ".".join(map(str, (*field[:-1], typo)))
            if not any(
                reason.startswith(f"{where}: unknown key; did you mean `{field[-1]}`?") for reason in caught.value.reasons
            ):
                missed.append((where, caught.value.reasons))
    assert tried > 700
    assert len(missed) <= 0.05 * tried, missed


def test_one_edit_typos_of_every_option_of_every_installed_part_find_it():
    places = {"vision_encoder": "vision", "connector": "connector", "language_model": "language", "template": "template"}
    tried, missed = 0, []
    for component in default_catalogue().components():
        if component.spec.kind not in places:
            continue
        options = list(component.load_config().model_fields)
        words = {typo: option for option in options for typo in typos(option) if typo and typo not in (*options, "name")}
        part = {"name": component.full_name, **dict.fromkeys(words)}
        with pytest.raises(VlmzooError) as caught:
            load_model({places[component.spec.kind]: part, **({} if words else {"x": 1})})
        reasons = "\n".join(caught.value.reasons)
        tried += len(words)
        missed += [typo for typo, option in words.items() if f".{typo}: unknown key; did you mean `{option}`?" not in reasons]
    assert tried > 1000
    assert len(missed) <= 0.05 * tried, missed


@pytest.mark.parametrize(
    ("section", "field"),
    [(Recipe, ()), (ModelConfig, ("model",)), (StageConfig, ("stages", 0)), (TrainFull, ("stages", 0, "train", "connector"))],
)
def test_one_edit_typos_of_keys_that_may_be_left_out_find_them(section, field):
    keys = list(section.model_fields)
    words = {typo: key for key in keys for typo in typos(key) if typo and typo not in keys}
    data = json.loads(json.dumps(DATA))
    at(data, field).update(dict.fromkeys(words))
    with pytest.raises(VlmzooError) as caught:
        load_recipe(data, catalogue=CATALOGUE)
    found = {reason.split(" (")[0] for reason in caught.value.reasons}
    said = {typo: f"{'.'.join(map(str, (*field, typo)))}: unknown key; did you mean `{key}`?" for typo, key in words.items()}
    missed = [typo for typo, text in said.items() if text not in found]
    assert len(missed) <= 0.05 * len(words), missed


def test_the_recipe_of_the_fuzzer_is_a_good_one(tmp_path):
    assert loads_or_explains(tmp_path, RECIPE, "recipe.yaml") == loads_or_explains(tmp_path, json.dumps(DATA), "recipe.json")
