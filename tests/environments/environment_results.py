"""The results of the tier in each environment: `benchmarks/results/environments.json`, and the page made from it.

The page is `docs/reference/environments.md`; `run_tier.py` writes both. An environment has one row, that of its latest run.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "environments.json"
PAGE = ROOT / "docs" / "reference" / "environments.md"

ENVIRONMENTS = {
    "locked": "`constraints.txt`",
    "oldest": "the lower bounds of `pyproject.toml`",
    "newest": "the newest releases, no upper bound",
}
"""The environments and what they hold, in the order of the page's rows."""

SHOWN = (
    "torch",
    "torchvision",
    "transformers",
    "huggingface_hub",
    "timm",
    "open_clip_torch",
    "peft",
    "accelerate",
    "pydantic",
)
"""The libraries whose versions the page shows; the file has all that vlmzoo requires."""

LONGEST = 200
"""Characters of a failure's message that are kept."""

Result = dict[str, Any]


def read_junit(file: Path) -> Result:
    """Read from a report of pytest (`junit_family=xunit1`) how many tests passed, were skipped and failed, and which failed.

    An error in the set-up or the end of a test counts as its failure, and so does a file that cannot be collected.
    """
    outcomes: dict[str, str] = {}
    failures: dict[str, str] = {}
    for case in ElementTree.parse(file).iter("testcase"):
        test = f"{case.get('file', case.get('classname', ''))}::{case.get('name')}"
        bad = case.find("failure") if case.find("failure") is not None else case.find("error")
        if bad is not None:
            outcomes[test] = "failed"
            failures[test] = first_line(bad.get("message") or "")
        elif outcomes.get(test) != "failed":
            outcomes[test] = "skipped" if case.find("skipped") is not None else "passed"
    counts = {outcome: list(outcomes.values()).count(outcome) for outcome in ("passed", "skipped", "failed")}
    return counts | {"failures": failures}


def first_line(message: str) -> str:
    """The first line of a message, without the folder that the project lies in, and shortened."""
    line = next(iter(message.strip().splitlines()), "").replace(f"{ROOT}/", "")
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def write(environment: str, result: Result) -> None:
    """Put the result in the place of the environment's earlier one, in the file and on the page."""
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    results[environment] = result
    RESULTS.write_text(json.dumps({name: results[name] for name in ENVIRONMENTS if name in results}, indent=2) + "\n")
    PAGE.write_text(page(results), encoding="utf-8")


def page(results: Mapping[str, Result]) -> str:
    """The page as Markdown."""
    columns = ["environment", "date", "Python", *SHOWN, "passed", "skipped", "failed", "CPU minutes"]
    rows = [
        [
            f"[{name}](#{name})",
            result["date"],
            result["python"],
            *(result["versions"].get(library, "-") for library in SHOWN),
            *(str(result[outcome]) for outcome in ("passed", "skipped", "failed")),
            f"{result['cpu_minutes']:.1f}",
        ]
        for name, result in in_order(results)
    ]
    text = (
        "# Tested versions\n\n"
        "The tests that touch the libraries (parts, published classes, exchange, generation, LoRA, the command line), with "
        "three sets of\nversions. `make test` runs the whole suite with those of `constraints.txt`.\n\n"
        "Each row is the latest run; `make test-locked`, `make test-oldest` and `make test-newest` write it. `vlmzoo doctor` "
        "names\ninstalled libraries that are outside of the tested ranges.\n\n"
        f"{line(columns)}{line(['---'] * (3 + len(SHOWN)) + ['---:'] * 4)}{''.join(map(line, rows))}"
    )
    for name, result in in_order(results):
        text += f"\n## {name}\n\nHolds {ENVIRONMENTS[name]}. {failed_in_words(result['failures'])}"
    return text


def in_order(results: Mapping[str, Result]) -> list[tuple[str, Result]]:
    return [(name, results[name]) for name in ENVIRONMENTS if name in results]


def failed_in_words(failures: Mapping[str, str]) -> str:
    """A list of the tests that failed, those of a file with the same message together."""
    if not failures:
        return "Nothing failed.\n"
    together: dict[tuple[str, str], list[str]] = {}
    for test, message in failures.items():
        file, _, name = test.partition("::")
        together.setdefault((file, message), []).append(name)
    items = []
    for (file, message), names in together.items():
        item = f"- `{file}`: {', '.join(map(code, names))}\n"
        items.append(f"{item}\n    {code(message)}\n" if message else item)
    return "What failed, and how:\n\n" + "\n".join(items)


def code(text: str) -> str:
    """A text as code, whatever it has of backticks."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text else f"`{text}`"


def line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |\n"
