"""Each of the field's silent bugs has a test under its number and name, which plants the bug and sees its check fail."""

import ast
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
NAMES = (
    "labels_bpe_border",
    "labels_mismatch_not_ignored",
    "labels_single_shift",
    "labels_image_tokens_masked",
    "labels_prompt_masked",
    "labels_eos_supervised",
    "labels_multi_turn_all",
    "bos_once",
    "train_serve_same_ids",
    "special_tokens_not_forgeable",
    "truncate_keeps_images",
    "truncate_keeps_answer",
    "all_masked_is_not_nan",
    "pad_invariance",
    "pad_side_generate",
    "packing_no_leak",
    "attention_mask_reaches_model",
    "slots_match_features_per_row",
    "image_without_slot_and_slot_without_image",
    "image_order_kept",
    "image_matters",
    "preprocess_matches_encoder",
    "exif_applied",
    "modes_converted",
)


def numbered(sources: list[str]) -> dict[int, ast.FunctionDef]:
    """Every function `test_q<number>_<name>` at the top of a module."""
    functions = [node for source in sources for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    tests = [function for function in functions if function.name.startswith("test_q") and function.name[6:8].isdigit()]
    assert len({function.name[6:8] for function in tests}) == len(tests), "two tests of one number"
    return {int(function.name[6:8]): function for function in tests}


def plants(function: ast.FunctionDef) -> bool:
    """Whether the check of a test is held to a planted bug: it must fail on it."""
    text = ast.unparse(function)
    return "catches(" in text or "raises(AssertionError)" in text


def test_every_silent_bug_has_its_test_and_each_plants_the_bug():
    sources = [path.read_text(encoding="utf-8") for path in (TESTS / "zoo").rglob("test_*.py")]
    found = numbered([text for text in sources if "def test_q" in text])
    names = {number: function.name.removeprefix(f"test_q{number:02}_") for number, function in found.items()}
    assert names == dict(enumerate(NAMES, start=1))
    assert [name for number, name in names.items() if not plants(found[number])] == []


def test_a_test_that_plants_nothing_is_seen():
    found = numbered(["def test_q03_x():\n    assert 1", "def test_q04_y():\n    catches(check, 2)"])
    assert [plants(found[number]) for number in (3, 4)] == [False, True]
