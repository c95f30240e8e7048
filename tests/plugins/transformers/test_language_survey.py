"""The survey of language models says what its run says: sampled quickly, and all of it in the slow tier."""

import importlib.util
import json
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
import torch
from packaging.version import Version

from vlmzoo_registry.testing.isolation import as_users_run_it

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
FOUND = json.loads((BENCHMARKS / "results" / "language_models.json").read_text(encoding="utf-8"))
ROWS = {row["family"]: row for row in FOUND["rows"]}
ASKED = [family for family, row in ROWS.items() if not row["skipped"]]
PASSING = [family for family in ASKED if set(ROWS[family]["checks"].values()) == {"passed"}]
# fmt: off
WELL_KNOWN = [
    "bert", "bloom", "cohere2", "deepseek_v3", "ernie4_5", "exaone4", "falcon", "gemma", "gemma2", "gemma3_text",
    "glm4", "gpt2", "gpt_neox", "gpt_oss", "granite", "granitemoehybrid", "lfm2", "llama", "llama4_text", "minicpm3",
    "mistral", "mixtral", "modernbert-decoder", "mpt", "olmo2", "olmoe", "opt", "phi", "phi3", "qwen2", "qwen3",
    "qwen3_moe", "qwen3_next", "roberta", "smollm3", "stablelm", "starcoder2", "xglm",
]
# fmt: on


@pytest.fixture(scope="module")
def survey() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("language_models_survey", BENCHMARKS / "language_models.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    sys.path.remove(str(BENCHMARKS))
    return module


def near(scales: dict[str, float | None]) -> dict[str, float | None]:
    """Three digits of each."""
    return {name: None if scale is None else float(f"{scale:.3g}") for name, scale in scales.items()}


@pytest.mark.parametrize("family", WELL_KNOWN)
def test_a_well_known_family_passes_every_check(survey: ModuleType, family: str) -> None:
    with as_users_run_it():
        row = survey.survey(family)
    assert row.passed, row.checks
    assert list(row.checks) == list(survey.CHECKS)
    assert (row.model, row.layers) == (ROWS[family]["model"], ROWS[family]["layers"])
    assert near(asdict(row.scales)) == near(ROWS[family]["scales"])


@pytest.mark.slow
@pytest.mark.parametrize("family", [family for family in ROWS if family not in WELL_KNOWN])
def test_every_other_row_is_found_again(survey: ModuleType, family: str) -> None:
    kept = ROWS[family]
    with as_users_run_it():
        row = survey.survey(family)
    assert row.skipped == kept["skipped"]
    if row.skipped:
        return
    failed = [name for name, result in row.checks.items() if result != "passed"]
    assert failed == [name for name, result in kept["checks"].items() if result != "passed"]
    assert (row.model, row.layers) == (kept["model"], kept["layers"])


def test_enough_families_pass_and_each_failure_has_a_reason(survey: ModuleType) -> None:
    # An earlier transformers has not all the families yet.
    if Version(version("transformers")) >= Version(FOUND["transformers"]):
        assert sorted(ROWS) == sorted([*survey.families(), *survey.VARIANTS])
    assert len(WELL_KNOWN) == len(set(WELL_KNOWN)) >= 30
    assert set(WELL_KNOWN) <= set(PASSING)
    assert len(PASSING) >= 130
    assert {family for family in ASKED if ROWS[family]["why"]} == set(ASKED) - set(PASSING) == set(survey.WHY)


def test_scales_are_those_of_the_literature() -> None:
    """Gemma scales text by sqrt(d) in its table, Granite whatever stands in the sequence, BLOOM and BERT normalise."""
    scales = {family: (row["scales"]["text"], row["scales"]["internal"]) for family, row in ROWS.items() if row["scales"]}
    assert scales["llama"] == pytest.approx((1, 1))
    assert scales["gemma2"] == pytest.approx((32**0.5, 1), rel=1e-2)
    assert scales["bloom"] == (pytest.approx(1), None)
    assert scales["bert"] == (pytest.approx(1), None)
    assert scales["gpt2"] == pytest.approx((1, 1))
    assert scales["granite"] == pytest.approx((1, 12))


def test_open_gates_are_caught(survey: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: gates that start at 0.1 move the logits."""
    build = survey.vlmzoo.build

    def opened(section: object) -> object:
        model = build(section)
        with torch.no_grad():
            for gate in model.layers.gates:
                gate.fill_(0.1)
        return model

    monkeypatch.setattr(survey.vlmzoo, "build", opened)
    assert survey.survey("llama").checks["gates"].startswith("with gates at 0 the logits move by")


def test_gates_that_open_nothing_are_caught(survey: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: blocks whose result is thrown away."""
    attend = survey.CrossAttentionVLM.attend

    def idle(model: object, index: int, block: object, hidden: torch.Tensor) -> torch.Tensor:
        attend(model, index, block, hidden)
        return hidden

    monkeypatch.setattr(survey.CrossAttentionVLM, "attend", idle)
    assert survey.survey("llama").checks["gates"] == "the gate of block 0 opens, and the logits do not move"


def test_the_page_shows_the_result_file() -> None:
    pytest.importorskip("mkdocs")
    spec = importlib.util.spec_from_file_location("generated_pages", BENCHMARKS.parent / "docs" / "generate.py")
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    passing, _, rest = pages.language_models().partition("## Families that do not")
    failing, _, others = rest.partition("## Listed by transformers")
    assert f"**{len(PASSING)} of {len(ASKED)} pass all of them**" in passing
    for family, row in ROWS.items():
        part = others if row["skipped"] else passing if family in PASSING else failing
        (line,) = [line for line in part.splitlines() if line.startswith(f"| `{family}` |")]
        assert row["layers"] in line if part is passing else row["why"] + row["skipped"] in line
