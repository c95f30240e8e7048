"""The recipes of published models: planned offline in full size, with the figures that were published, in little memory."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vlmzoo.config import load_recipe
from vlmzoo.config.about import About, rounds_to
from vlmzoo.config.load import load_about
from vlmzoo.config.shipped import shipped_recipes

# One process for all, as each begins with seconds of imports; what it needs at most is what the largest needs.
PLAN_ALL = """
import json, sys, time
import vlmzoo
from vlmzoo.training.memory import peak_memory  # not `ru_maxrss`, which begins with that of the worker that forked this
plans = {}
for name in sys.argv[1:]:
    start = time.process_time()
    try:
        plans[name] = {"plan": vlmzoo.plan(name).to_dict()}
    except Exception as error:
        plans[name] = {"error": f"{type(error).__name__}: {error}"}
    plans[name]["seconds"] = time.process_time() - start
print(json.dumps({"plans": plans, "memory": peak_memory()}))
"""

# A plan takes one to three seconds of a processor, the first of a process a few more for its imports; ten are promised, and
# machines that are busy with other things count slowly.
SECONDS, MEMORY = 3 * 10, 4 * 2**30


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The plans of all recipes, made on a machine that has downloaded nothing and reaches nothing."""
    nowhere = tmp_path_factory.mktemp("nowhere")
    environment = {"PATH": "", "HOME": str(nowhere), "HF_HOME": str(nowhere), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PLAN_ALL, *shipped_recipes()],
        cwd=nowhere,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def plan(planned: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = planned["plans"][name]
    assert "error" not in found, found["error"]
    made: dict[str, Any] = found["plan"]
    return made


def wrong_tokens(about: About, made: dict[str, Any]) -> list[str]:
    """Where a plan gives other numbers of tokens per image than were published."""
    assert about.published is not None
    expected = about.published.image_tokens
    if isinstance(expected, int):
        return [] if made["image_tokens"] == expected else [f"{expected} published, {made['image_tokens']} planned"]
    planned = {row["image"]: row["image_tokens"] for row in made["sizes"]}
    return [
        f"{size}: {count} published, {planned.get(size)} planned"
        for size, count in expected.items()
        if planned.get(size) != count
    ]


def wrong_parameters(about: About, made: dict[str, Any]) -> list[str]:
    """Where a plan counts other parameters than were published, at the precision of the publication."""
    assert about.published is not None
    counts = {part["part"]: part["parameters"] for part in made["parts"]}
    counts["total"] = sum(counts.values())
    return [
        f"{part}: {figure} published, {counts[part]:,} planned"
        for part, figure in about.published.parameters.items()
        if not rounds_to(counts[part], figure)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", list(shipped_recipes()))
def test_its_plan_gives_what_was_published(planned: dict[str, Any], name: str) -> None:
    about, made = load_about(shipped_recipes()[name]), plan(planned, name)
    assert about.published is not None
    assert not wrong_tokens(about, made)
    assert not wrong_parameters(about, made)
    assert len(made["stages"]) == len(load_recipe(name).stages)
    assert all(sum(row["trained"] for row in stage["parts"]) > 0 for stage in made["stages"])


@pytest.mark.slow
def test_all_are_planned_in_seconds_and_little_memory(planned: dict[str, Any]) -> None:
    seconds = {name: each["seconds"] for name, each in planned["plans"].items()}
    assert max(seconds.values()) < SECONDS, seconds
    assert planned["memory"] < MEMORY


def test_there_are_as_many_as_promised() -> None:
    assert len(shipped_recipes()) >= 65


@pytest.mark.parametrize("name", list(shipped_recipes()))
def test_every_recipe_says_what_it_is_and_where_it_is_from(name: str) -> None:
    about = load_about(shipped_recipes()[name])
    assert about.published is not None
    assert any(source.startswith(("https://", "docs/")) for source in about.sources)
    assert load_recipe(name).about == about


ABOUT = {"title": "x", "sources": ["https://x"]}
MADE = {
    "image_tokens": 576,
    "parts": [{"part": "vision", "parameters": 303_507_456}, {"part": "language", "parameters": 6_738_415_616}],
    "sizes": [{"image": "336x336", "image_tokens": 1176}],
}


def test_other_figures_are_noticed() -> None:
    def about(tokens: Any, **parameters: str) -> About:
        return About.model_validate({**ABOUT, "published": {"image_tokens": tokens, "parameters": parameters}})

    assert not wrong_tokens(about(576), MADE)
    assert wrong_tokens(about(577), MADE) == ["577 published, 576 planned"]
    assert not wrong_tokens(about({"336x336": 1176}), MADE)
    assert wrong_tokens(about({"336x336": 1177}), MADE) == ["336x336: 1177 published, 1176 planned"]
    assert wrong_tokens(about({"672x336": 1176}), MADE) == ["672x336: 1176 published, None planned"]
    assert not wrong_parameters(about(576, language="6.74B", total="7.04B"), MADE)
    assert wrong_parameters(about(576, vision="304.5M"), MADE) == ["vision: 304.5M published, 303,507,456 planned"]


def test_every_architecture_that_ships_is_named_by_a_recipe() -> None:
    """What no recipe names would not be looked at by anybody."""
    folder = Path(__file__).parents[2] / "plugins/vlmzoo_transformers/architectures"
    text = "".join(file.read_text(encoding="utf-8") for file in shipped_recipes().values())
    known = [file.stem.replace("--", "/") for file in folder.glob("*.json")]
    assert len(known) >= 50
    assert [name for name in known if f"model: {name}" not in text] == []
