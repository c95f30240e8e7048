"""Where the command line begins and ends: global options, signals, and errors as lines instead of tracebacks."""

import os
import signal
import sys
import traceback
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from vlmzoo.cli.commands import COMMANDS
from vlmzoo.cli.failure import report_failure
from vlmzoo.cli.lazy import lazy_group
from vlmzoo.openmp import spin_bounds

DEBUG = "VLMZOO_DEBUG"

app = typer.Typer(
    name="vlmzoo",
    cls=lazy_group(COMMANDS),
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"vlmzoo {version('vlmzoo')}")
        raise typer.Exit


@app.callback()
def vlmzoo(
    plugin: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A Python file that is a plugin, for this call. May be given more than once."),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", metavar="", help="Show the traceback of an error.", envvar=DEBUG)] = False,
    _version: Annotated[
        bool, typer.Option("--version", metavar="", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Vision-language models from parts: assemble, train, compare.

    These options stand before the command: `vlmzoo --plugin my_connector.py list`.
    """
    # In the environment, so that the processes that this one starts see the same parts.
    if plugin:
        earlier = [file for file in os.environ.get("VLMZOO_PLUGINS", "").split(os.pathsep) if file]
        os.environ["VLMZOO_PLUGINS"] = os.pathsep.join([*earlier, *(str(file.absolute()) for file in plugin)])
    if debug:
        os.environ[DEBUG] = "1"


def main() -> None:
    """Run the command line; ends the process with 0 or the exit code of what went wrong."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    os.environ.update(spin_bounds(os.environ))  # before a command imports torch, and for the processes that it starts
    try:
        app()
    except Interrupted as stop:
        if os.environ.get(DEBUG, "0") not in ("", "0"):
            traceback.print_exception(stop)
        # Whoever was at work has left a note of what is lost.
        print("; ".join(["interrupted", *getattr(stop, "__notes__", [])]), file=sys.stderr)
        sys.exit(128 + stop.number)
    except Exception as error:
        if os.environ.get(DEBUG, "0") not in ("", "0"):
            traceback.print_exception(error)
        sys.exit(report_failure(error))


class Interrupted(BaseException):
    """A signal asks the process to end. No `KeyboardInterrupt`: Typer would catch that, and its notes would be lost."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Leave as an exception would, so that `finally` clauses run; a command that has more to do sets a handler of its own."""
    raise Interrupted(number)
