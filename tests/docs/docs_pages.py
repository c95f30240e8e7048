"""The code blocks of a page, and what is done with each: the rules that the pages of the docs are written by.

- A block with a title (```yaml title="recipe.yaml") is a file, written into the page's folder.
- A python block without one is run, after those before it on the page and with their names.
- In a console block each `$ vlmzoo ...` line is run; lines below it are what it prints, where `...` stands for anything (no
  lines: nothing is checked of that). It must end well, unless `$ echo $?` with another code follows.
- `<!-- not run: why -->` above a block: it is only looked at (Python compiles, commands parse).
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = tuple(sorted(page for page in (ROOT / "docs").rglob("*.md") if page.parent.name != "changes"))

LANGUAGES = ("python", "yaml", "console", "json", "toml", "text")

_FENCE = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]*) -->\n+)?"
    r'^```(?P<language>\w*)(?: title="(?P<title>[^"\n]+)")?\n(?P<code>.*?)^```$',
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A code block: where it stands, its language, the file it is, its text, and why it is not run."""

    page: Path
    line: int
    language: str
    title: str | None
    code: str
    reason: str | None


@dataclass(frozen=True)
class Step:
    """One command of a console block, the lines below it, and the exit code that is stated (None: none is)."""

    command: str
    output: tuple[str, ...]
    code: int | None


def blocks(page: Path) -> list[Block]:
    """The code blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = [
        Block(page, text.count("\n", 0, match.start("code")), match["language"], match["title"], match["code"], match["reason"])
        for match in _FENCE.finditer(text)
    ]
    fences = len(re.findall(r"^```", text, re.MULTILINE))
    assert fences == 2 * len(found), f"{page.name}: {fences} fences, and {len(found)} blocks were understood"
    return found


def steps(code: str) -> list[Step]:
    """The commands of a console block; a line that ends with a backslash goes on in the next."""
    found: list[Step] = []
    for line in code.replace("\\\n", " ").splitlines():
        if line == "$ echo $?":
            found.append(Step(line, (), None))
        elif line.startswith("$ "):
            found.append(Step(line[2:], (), None))
        elif found and found[-1].command == "$ echo $?":
            found.pop()
            found[-1] = Step(found[-1].command, found[-1].output, int(line))
        else:
            assert found, f"a console block begins with `$ command`, not with {line!r}"
            found[-1] = Step(found[-1].command, (*found[-1].output, line.rstrip()), None)
    return found


def fits(expected: tuple[str, ...], printed: str) -> bool:
    """Whether a text is as a page shows it: `...` stands for anything, also for whole lines; blank lines do not count."""
    pattern = r"\s*\n".join(".*?".join(map(re.escape, line.split("..."))) for line in expected if line.strip())
    text = "\n".join(line.rstrip() for line in printed.splitlines() if line.strip())
    return re.fullmatch(pattern, text, re.DOTALL) is not None
