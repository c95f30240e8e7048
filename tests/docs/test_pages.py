"""The code of the docs runs, page by page, each in a folder of its own; `docs_pages.py` has the rules."""

import ast
import json
import shlex
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from docs_pages import LANGUAGES, PAGES, ROOT, Block, blocks, fits, steps

from vlmzoo.cli import main
from vlmzoo.cli.commands import COMMANDS

OTHER_PROGRAMS = ("make", "pip", "python", "accelerate", "torchrun", "git", "mkdocs")
NOT_RUN = {
    "how-to/errors.md": 1,
    "how-to/labels.md": 2,
    "how-to/resume.md": 1,
    "index.md": 1,
    "quickstart.md": 4,
    "tutorials/assistant.md": 1,
    "tutorials/captioner.md": 1,
    "tutorials/first-combination.md": 1,
}
"""How many blocks of each page are not run: only what cannot be run here."""

SLOW = ("how-to/compare.md", "tutorials/assistant.md", "tutorials/captioner.md", "tutorials/first-combination.md")
"""Pages that take more than a few seconds."""

GLOBAL_OPTIONS = {"--plugin": 2, "--debug": 1}
"""What may stand before a command, and how many words it takes."""

Command = Callable[[str], tuple[int, str]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """Run a `vlmzoo ...` line in this process; gives its exit code and all it printed."""
    for name in ("VLMZOO_DEBUG", "VLMZOO_PLUGINS"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("VLMZOO_CACHE", str(tmp_path / ".cache"))
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest's own handlers stay

    def run(line: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", shlex.split(line))
        monkeypatch.setenv("VLMZOO_PLUGINS", "")  # a plugin is for one call
        capfd.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        printed = capfd.readouterr()
        return code, printed.out + printed.err

    yield run
    # The page's own plugins, which another page may have under the same names.
    for name in [name for name, module in sys.modules.items() if is_inside(module, tmp_path)]:
        del sys.modules[name]


def is_inside(module: object, folder: Path) -> bool:
    """Whether a module was imported from a folder."""
    place = getattr(module, "__file__", None)
    return place is not None and Path(place).is_relative_to(folder)


def name_of(page: Path) -> str:
    """A page as the navigation names it."""
    return page.relative_to(ROOT / "docs").as_posix()


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, id=name_of(page), marks=pytest.mark.slow if name_of(page) in SLOW else ()) for page in PAGES],
)
def test_the_page_runs(page: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__page__"}
    for block in blocks(page):
        where = f"{page.relative_to(ROOT)}:{block.line}"
        if block.reason is not None:
            look_at(block)
        elif block.title is not None:
            write(block, tmp_path)
        elif block.language == "python":
            exec(compile(f"{chr(10) * block.line}{block.code}", str(page), "exec"), names)
        elif block.language == "console":
            for step in steps(block.code):
                assert step.command.startswith("vlmzoo "), f"{where}: `{step.command}`: only vlmzoo is run; say why it is not"
                code, printed = command(step.command)
                assert code == (step.code or 0), f"{where}: `{step.command}` ends with {code}:\n{printed}"
                assert not step.output or fits(step.output, printed), f"{where}: `{step.command}` prints\n{printed}"


def write(block: Block, folder: Path) -> None:
    """Write a block's file; what a machine reads must be well formed."""
    assert block.title is not None
    path = folder / block.title
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(block.code, encoding="utf-8")
    look_at(block)


def look_at(block: Block) -> None:
    """What is asked of a block that is not run: Python compiles, data is read, commands are understood."""
    if block.language == "python":
        ast.parse(block.code)
    elif block.language == "yaml":
        yaml.safe_load(block.code)
    elif block.language == "json":
        json.loads(block.code)
    elif block.language == "console":
        for step in steps(block.code):
            understood(step.command)


def understood(line: str) -> None:
    """Raise unless a command line parses: an existing command, existing options; or another program that is named above."""
    words = shlex.split(line)
    if words[0] != "vlmzoo":
        assert words[0].rpartition("/")[2] in OTHER_PROGRAMS, f"`{line}`: what is {words[0]}?"
        return
    words = words[1:]
    while words and words[0] in GLOBAL_OPTIONS:
        words = words[GLOBAL_OPTIONS[words[0]] :]
    assert words and words[0] in COMMANDS, f"`{line}`: there is no such command"
    COMMANDS[words[0]].load(words[0]).make_context(words[0], words[1:])


def test_every_block_is_of_a_known_kind() -> None:
    for page in PAGES:
        for block in blocks(page):
            assert block.language in LANGUAGES, f"{page.name}:{block.line}: `{block.language}` is none of {LANGUAGES}"


def test_what_is_not_run_has_a_reason_and_is_counted() -> None:
    left_out = [block for page in PAGES for block in blocks(page) if block.reason is not None]
    assert all(len(block.reason or "") > 10 for block in left_out)
    assert Counter(name_of(block.page) for block in left_out) == NOT_RUN
    run = [
        block for page in PAGES for block in blocks(page) if block.reason is None and block.language in ("python", "console")
    ]
    assert len(run) > 3 * len(left_out)


@pytest.mark.parametrize("block", blocks(ROOT / "README.md"), ids=lambda block: f"line-{block.line}")
def test_commands_of_the_readme_are_understood(block: Block) -> None:
    look_at(block)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("vlmzoo trian recipe.yaml", "trian"),
        ("vlmzoo train recipe.yaml --outptu runs", "--outptu"),
        ("vlmzoo train", "recipe"),
        ("vlmzoo --plugin my_part.py", "no such command"),
        ("rm -rf runs", "rm"),
    ],
)
def test_a_wrong_command_is_noticed(line: str, reason: str) -> None:
    with pytest.raises(Exception, match=reason):
        understood(line)


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        (("a", "b"), "a\nb\n", True),
        (("a ... c",), "a b c", True),
        (("a", "...", "c"), "a\nb\nb\nc", True),
        (("a", "c"), "a\nb\nc", False),
        (("a",), "a b", False),
        (("loss ...",), "lass 3", False),
    ],
)
def test_output_is_compared(expected: tuple[str, ...], printed: str, same: bool) -> None:
    assert fits(expected, printed) is same
