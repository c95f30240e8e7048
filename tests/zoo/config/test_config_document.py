"""Reading: values as YAML 1.2 has them, places of everything, and a clear message for everything that is no config."""

# ruff: noqa: E501 (messages stand whole, as they are read)

import json
from pathlib import Path

import pytest

from vlmzoo.config.document import MAX_BYTES, MAX_DEPTH, MAX_VALUES, read_document, read_mapping, read_yaml
from vlmzoo.config.node import Place
from vlmzoo_registry import ConfigError


def document(tmp_path: Path, content: str | bytes, name: str = "recipe.yaml"):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_document(path)


def reasons(tmp_path: Path, content: str | bytes, name: str = "recipe.yaml") -> list[str]:
    with pytest.raises(ConfigError) as caught:
        document(tmp_path, content, name)
    return [reason.removeprefix(f"{tmp_path}/") for reason in caught.value.reasons]


def value(text: str):
    return read_yaml(text, Place("text", Path("/"), 1, 1)).plain()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-3", 0.001),
        ("1.0e-3", 0.001),
        ("1E5", 100000.0),
        ("-.5", -0.5),
        ("5.", 5.0),
        ("1.10", 1.1),
        (".inf", float("inf")),
        ("-.INF", float("-inf")),
        ("3", 3),
        ("-3", -3),
        ("+3", 3),
        ("0123", 123),
        ("0o17", 15),
        ("0x1F", 31),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("12:30:45", "12:30:45"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("1e", "1e"),
        ("'3'", "3"),
        ('"true"', "true"),
        ("=", "="),
        ("[-2, 'a', ~]", [-2, "a", None]),
        ("{a: {b: 1}}", {"a": {"b": 1}}),
        ("{1: a, true: b}", {"1": "a", "true": "b"}),
        ("|\n  two\n  lines\n", "two\nlines\n"),
        ("{<<: 1}", {"<<": 1}),
    ],
)
def test_yaml_scalars_are_those_of_the_1_2_core_schema(text, expected):
    read = value(text)
    assert read == expected
    assert type(read) is type(expected)


def test_every_key_and_value_knows_its_place(tmp_path):
    root = document(tmp_path, "model:\n  vision: {name: a,\n    layers: [-2, 7]}\nseed: 0\n")
    vision = root.child("model").child("vision")
    assert (vision.key.line, vision.key.column) == (2, 3)
    assert (vision.place.line, vision.place.column) == (2, 11)
    second = vision.child("layers").child(1)
    assert (second.place.line, second.place.column) == (3, 18)
    assert root.child("seed").place.folder == tmp_path


def test_json_gives_the_same_tree_with_its_own_places(tmp_path):
    data = {"model": {"layers": [-2, 1.5e-3, True, None, 'ü\n"😀'], "empty": {}, "none": []}, "seed": 12}
    root = document(tmp_path, json.dumps(data, indent="\t", ensure_ascii=True), "recipe.json")
    assert root.plain() == data
    layer = root.child("model").child("layers").child(1)
    assert (layer.place.line, layer.place.column) == (5, 4)
    assert (root.child("seed").key.line, root.child("seed").key.column) == (13, 2)


def test_crlf_and_comments_are_fine(tmp_path):
    root = document(tmp_path, "# a comment\r\nseed: 1 # one\r\nmodel: {}\r\n")
    assert root.plain() == {"seed": 1, "model": {}}
    assert root.child("model").key.line == 3


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "recipe.yaml:1:1: (top level): is empty"),
        ("# nothing\n---\n...\n# more", None),
        ("a: 1\na: 2\n", "recipe.yaml:2:1: a: the key stands here a second time: first at line 1; remove one"),
        ("m: {x: 1, x: 2}", "recipe.yaml:1:11: m.x: the key stands here a second time: first at line 1; remove one"),
        ("m:\n\tx: 1\n", "recipe.yaml:2:1: m: a tab where YAML wants spaces: indent with spaces"),
        (b"\xef\xbb\xbfa: 1", "recipe.yaml:1:1: (top level): begins with a byte order mark: save it as UTF-8 without one"),
        ("a: 1".encode("utf-16"), "recipe.yaml:1:1: (top level): is written in UTF-16: save it as UTF-8"),
        ("a: 1".encode("utf-16-le"), "recipe.yaml:1:1: (top level): is written in UTF-16: save it as UTF-8"),
        (b"a: 1\nb: caf\xe9", "recipe.yaml:2:7: (top level): is not UTF-8 (byte 0xe9 here): save it as UTF-8"),
        ("a: 1\nb: \x00", "recipe.yaml:2:4: (top level): contains the control character U+0000"),
        ("a: &x [1]\nb: 2", "recipe.yaml:1:4: a: `&x` is an anchor: write values out where they belong"),
        ("a: !!python/object/apply:os.system ['x']", "recipe.yaml:1:4: a: `!!python/object/apply:os.system` is a tag: "
         "a config holds plain values only"),
        ("a: !x 1", "recipe.yaml:1:4: a: `!x` is a tag: a config holds plain values only"),
        ("a: 1\n---\nb: 2", "recipe.yaml:2:1: (top level): begins a second document: a config is one document"),
        ("a: b: c", "recipe.yaml:1:5: a: a `:` where no key can stand: check the indentation, or put the text in quotes if "
         "the `:` belongs to it"),
        ("a: [1, 2\nb: 3", "recipe.yaml:2:2: a.1: a list that began with `[` does not go on with `,` and does not end with `]`"),
        ("a: {b: 1", "recipe.yaml:1:9: a.b: a mapping that began with `{` does not go on with `,` and does not end with `}`"),
        ("a: 'x", "recipe.yaml:1:6: a: a quoted text that is never closed"),
        ("a:\n  b: 1\n c: 2", "recipe.yaml:3:2: a.b: does not stand in line with what it belongs to: check the indentation"),
        ("a: 1\nbc\n", "recipe.yaml:3:1: a: a key without its `:`"),
        ("a: @x", "recipe.yaml:1:4: a: a text that begins with `@` must be put in quotes"),
        ("? [1]\n: 2", "recipe.yaml:1:3: (top level): a key must be a text"),
        ("'': 2", "recipe.yaml:1:1: (top level): a key must not be empty"),
        ("a: .nan", "recipe.yaml:1:4: a: must be a number (is NaN, which is none)"),
        ("a: 1" + "0" * 350, "recipe.yaml:1:4: a: is too large a number"),
        ("a: 1" + "0" * 9999, "recipe.yaml:1:4: a: is a number of 10000 digits"),
        ('a: "\\ud800"', "recipe.yaml:1:4: a: contains half of a surrogate pair, which is not a character"),
        ("[" * 40, f"recipe.yaml:1:34: 0.0.0: holds values nested deeper than {MAX_DEPTH} levels"),
        ("- 1\n" * 10001, f"recipe.yaml:10000:3: 9999: is the {MAX_VALUES + 1}th value: a config may hold {MAX_VALUES}"),
    ],
)  # fmt: skip
def test_what_is_no_yaml_config_is_refused_in_words(tmp_path, content, expected):
    if expected is None:
        assert document(tmp_path, content).plain() is None
    else:
        assert reasons(tmp_path, content) == [expected]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "recipe.json:1:1: (top level): is empty"),
        ('{"a": 1,\n "a": 2}', "recipe.json:2:2: a: the key stands here a second time: first at line 1; remove one"),
        ('{"a": NaN}', "recipe.json:1:7: a: must be a number (is NaN, which is none)"),
        ('{"a": 1} x', "recipe.json:1:10: (top level): goes on after the end of the JSON value"),
        ('{"a": 1,}', 'recipe.json:1:9: (top level): expected `"` here, found `}`'),
        ('{"a" 1}', "recipe.json:1:6: a: expected `:` here, found `1`"),
        ('{"a": [1 2]}', "recipe.json:1:10: a: expected `,` here, found `2`"),
        ('{"a": [1', "recipe.json:1:9: a: expected `,` here, but the file ends"),
        ('{"a": yes}', "recipe.json:1:7: a: is not a JSON value: `yes`"),
        ('{"a": ', "recipe.json:1:7: a: is not a JSON value: but the file ends"),
        ('{"a": "x', "recipe.json:1:7: a: is not JSON: unterminated string starting at"),
        ('{"a": "\\ud800"}', "recipe.json:1:7: a: contains half of a surrogate pair, which is not a character"),
        ('{"\\ud800": 1}', "recipe.json:1:2: (top level): a key contains half of a surrogate pair, which is not a character"),
        ('{"a": 1' + "0" * 99999 + "}", "recipe.json:1:7: a: is too large a number"),
        ("[" * 40, f"recipe.json:1:34: 0.0.0: holds values nested deeper than {MAX_DEPTH} levels"),
    ],
)
def test_what_is_no_json_config_is_refused_in_words(tmp_path, content, expected):
    assert reasons(tmp_path, content, "recipe.json") == [expected]


def test_all_faults_of_a_text_are_found_at_once(tmp_path):
    assert reasons(tmp_path, "a: &x 1\nb: *x\na: !!int 3\nc: .nan\n") == [
        "recipe.yaml:1:4: a: `&x` is an anchor: write values out where they belong",
        "recipe.yaml:2:4: b: `*x` is an alias: write the value out",
        "recipe.yaml:3:4: a: `!!int` is a tag: a config holds plain values only",
        "recipe.yaml:3:1: a: the key stands here a second time: first at line 1; remove one",
        "recipe.yaml:4:4: c: must be a number (is NaN, which is none)",
    ]


def test_an_alias_bomb_is_refused_before_it_grows(tmp_path):
    bomb = "a: &a [x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    assert reasons(tmp_path, bomb)[0].endswith("is an anchor: write values out where they belong")


def test_a_file_over_the_limit_is_not_read(tmp_path):
    with pytest.raises(ConfigError, match=r"recipe.yaml: is larger than a config may be \(1000000 bytes\): is it a config at"):
        document(tmp_path, "#" * (MAX_BYTES + 1))


def test_a_file_that_is_not_there_is_named_with_the_nearest(tmp_path):
    (tmp_path / "llava.yaml").write_text("a: 1")
    with pytest.raises(ConfigError) as caught:
        read_document(tmp_path / "lava.yaml")
    assert str(caught.value) == f"{tmp_path}/lava.yaml: no such file; did you mean `llava.yaml`?"
    with pytest.raises(ConfigError, match=r"nowhere/lava\.yaml: no such file$"):
        read_document(tmp_path / "nowhere" / "lava.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_document(tmp_path)
    with pytest.raises(ConfigError, match="cannot be read: embedded null byte"):
        read_document("a\0b")


def test_a_mapping_holds_plain_data_only():
    loop: dict = {}
    loop["again"] = loop
    with pytest.raises(ConfigError) as caught:
        read_mapping({"a": {1: 2}, "b": {1, 2}, "c": [object], "d": float("nan")})
    assert caught.value.message == "the config cannot be used, for 4 reasons"
    assert list(caught.value.reasons) == [
        "a: a key must be a text (is 1)",
        "b: is a `set`: a config holds texts, numbers, true and false, lists and mappings",
        "c.0: is a `type`: a config holds texts, numbers, true and false, lists and mappings",
        "d: must be a number (is NaN, which is none)",
    ]
    with pytest.raises(ConfigError, match=r"again\.again\.again: holds values nested deeper than 32 levels"):
        read_mapping(loop)
    assert read_mapping({"a": (1, Path("x/y"))}).plain() == {"a": [1, "x/y"]}
