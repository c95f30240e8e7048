"""`vlmzoo recipes`: table, JSON and files tell the same, and nothing heavy is loaded for them."""

import json

import pytest

from vlmzoo.cli.recipes import column_widths, cut, shown_parts, tokens_in_words
from vlmzoo.config.about import rounds_to
from vlmzoo.config.load import load_about
from vlmzoo.config.shipped import shipped_recipes
from vlmzoo_registry import ConfigError


def words(text):
    return " ".join(text.split())


def test_the_table_and_json_tell_the_same(vlmzoo):
    rows = json.loads(vlmzoo("recipes", "--json").stdout)
    assert [row["name"] for row in rows] == list(shipped_recipes())
    text = vlmzoo("recipes", COLUMNS="").stdout  # to another program, uncut
    for row in rows:
        (line,) = (line for line in text.splitlines() if line.startswith(row["name"] + " "))
        tokens = tokens_in_words(row["published"]).removesuffix(" tokens per image").replace(" to ", "-")
        _, encoders, language = shown_parts(shipped_recipes()[row["name"]])
        assert words(line) == words(" ".join([row["name"], tokens, encoders, language, row["title"]]))
    assert f"{len(rows)} recipes;" in text


@pytest.mark.parametrize("columns", [80, 100, 160])
def test_a_recipe_is_one_line_that_fits(vlmzoo, columns):
    text = vlmzoo("recipes", COLUMNS=str(columns)).stdout
    lines = [line for line in text.splitlines() if line.partition(" ")[0] in shipped_recipes()]
    assert sorted(line.partition(" ")[0] for line in lines) == sorted(shipped_recipes())
    assert max(map(len, text.splitlines())) <= columns
    assert "…" in text
    titles = [load_about(file).title for file in shipped_recipes().values()]
    assert any(title in text for title in titles if " " in title) == (columns > 80)
    headings = [line.partition(":")[0] for line in text.splitlines() if line.endswith(")") and ": " in line]
    assert headings == ["unified", "cross_attention", "hybrid"]
    assert "nvlm-h-72b" in text.partition("\nhybrid")[2]


def test_columns_share_the_room_there_is():
    natural = [24, 9, 47, 32, 55]
    assert column_widths(natural, None) == natural
    assert column_widths(natural, 200) == natural
    assert column_widths(natural, 80) == [24, 9, 20, 21, 0]
    for width in range(80, 180):
        widths = column_widths(natural, width)
        assert widths[:2] == natural[:2]
        assert sum(widths) + 2 * (sum(room > 0 for room in widths) - 1) <= width
    assert (cut("four", 4), cut("fours", 4), cut("any", 0)) == ("four", "fou…", "")


def test_one_recipe_is_printed_as_it_is_written(vlmzoo):
    name, file = next(iter(shipped_recipes().items()))
    assert vlmzoo("recipes", name).stdout == file.read_text(encoding="utf-8")
    fields = json.loads(vlmzoo("recipes", name, "--json").stdout)
    assert (fields["name"], fields["file"], fields["title"]) == (name, str(file), load_about(file).title)


def test_a_name_that_is_none_is_refused_with_the_nearest(vlmzoo):
    done = vlmzoo("recipes", "vit-gpt-coco")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "error: there is no recipe `vit-gpt-coco`; did you mean `vit-gpt2-coco`? (`vlmzoo recipes` lists them)"
    )


def test_it_loads_nothing_heavy(vlmzoo):
    code = (
        "import sys\nfrom vlmzoo.cli.recipes import recipes\nrecipes(None, False)\n"
        "print(sorted({'torch', 'transformers', 'timm', 'open_clip', 'peft'} & sys.modules.keys()), file=sys.stderr)"
    )
    assert vlmzoo(code=code).stderr.splitlines()[-1] == "[]"


def test_a_range_of_tokens_is_said_as_one():
    assert tokens_in_words({"image_tokens": 576}) == "576 tokens per image"
    assert (
        tokens_in_words({"image_tokens": {"336x336": 576, "672x672": 2928, "672x336": 1176}}) == "576 to 2928 tokens per image"
    )
    assert tokens_in_words(None) == ""


def test_a_recipe_that_says_nothing_about_itself_is_refused(tmp_path):
    file = tmp_path / "silent.yaml"
    file.write_text("model: {}\n")
    with pytest.raises(ConfigError, match=r"silent.yaml:1:1: about: is missing: what the recipe reproduces, and from where"):
        load_about(file)


def test_what_is_wrong_with_what_a_recipe_says_is_said_all_at_once(tmp_path):
    file = tmp_path / "wrong.yaml"
    file.write_text("about:\n  title: 7\n  source: [x]\n  published:\n    image_tokens: {336-336: 576}\n")
    with pytest.raises(ConfigError) as caught:
        load_about(file)
    assert [reason.removeprefix(f"{file}:") for reason in caught.value.reasons] == [
        "2:10: about.title: must be a text (is 7); put it in quotes to make it a text",
        "3:3: about.source: unknown key; did you mean `sources`? (what a recipe is about knows: title, sources, published, "
        "differs, unverified)",
        "5:19: about.published.image_tokens: has `336-336`: write sizes as width x height in pixels, such as `672x1008: 2144`",
    ]


@pytest.mark.parametrize(
    ("count", "published", "same"),
    [
        (7_063_427_072, "7.06B", True),
        (7_063_427_072, "7B", True),
        (7_063_427_072, "7.1B", True),
        (7_063_427_072, "7.07B", False),
        (124_439_808, "124439808", True),
        (124_439_809, "124439808", False),
        (428_225_600, "428M", True),
        (428_600_000, "428M", False),
    ],
)
def test_a_count_is_compared_at_the_precision_of_the_figure(count, published, same):
    assert rounds_to(count, published) is same
